"""What a plan counts: passes, memory, disk, and how long jobs take side by side."""

import dataclasses
import json
import statistics
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from fnsft.config.stages import CaptureSettings, TrainSettings
from fnsft.errors import InputError
from fnsft.planning.jobs import PlannedJob, command_words, in_order
from fnsft.planning.known import (
    Known,
    Model,
    Samples,
    longest_answer,
    published,
    published_model,
    samples_in,
)
from fnsft.planning.machines import Machine, read_machine, seconds_of
from fnsft.planning.neuron_costs import capture_cost
from fnsft.planning.passes import STEP_PASSES, Items, forward_flops, generation
from fnsft.planning.schedule import wall_seconds
from fnsft.planning.summary import summarise
from fnsft.planning.training_costs import train_cost
from fnsft.planning.work import Cost, Work

TINY = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "tie_word_embeddings": True,
}
MODEL = Model("tiny", json.dumps(TINY), 1e5)
SAMPLES = Samples(100, 30.0, 20.0, 5.0, 4.0, 70)


def machine(**changes: float) -> Machine:
    rates = {name: 1e9 for name in Machine.__dataclass_fields__ if "flops" in name}
    rates |= {name: 1e9 for name in Machine.__dataclass_fields__ if name.endswith("_per_second")}
    rates |= {name: 0.0 for name in Machine.__dataclass_fields__ if name.startswith("start_")}
    rates |= {"memory_gib": 80.0, "context_mib": 0.0, "job_seconds": 0.0}
    rates |= {"layer_pass_seconds": 1e-9, "program_seconds": 1.0}
    return Machine(source="a test", **rates | changes)


def job(name: str, *inputs: str, threads: int = 1, gpus: int = 0) -> PlannedJob:
    return PlannedJob("rule", inputs, (name,), threads, gpus, ())


def test_a_forward_pass_is_two_operations_a_weight_and_token_and_attention() -> None:
    fields = dict(TINY)
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(fields.pop("model_type"), **fields)
    )
    tokens, length = 7, 11
    linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    operations = sum(2 * tokens * m.in_features * m.out_features for m in linear)
    for layer in model.model.layers:  # of a token with each other one: q·k, then its share of v
        operations += tokens * length * 2 * 2 * layer.self_attn.q_proj.out_features
    assert forward_flops(MODEL.shape(), tokens, length) == operations


@pytest.mark.parametrize("name", published("models"))
def test_published_shapes_have_as_many_parameters_as_their_models(name: str) -> None:
    assert published_model(name).shape().parameters == published("models")[name]["parameters"]


@pytest.mark.parametrize("size", [2, 8, 32])
def test_a_batch_is_padded_to_the_mean_longest_of_its_samples(size: int) -> None:
    drawn = np.random.default_rng(0).normal(50.0, 5.0, (20_000, size)).max(axis=1)
    assert SAMPLES.padded(size) == pytest.approx(min(70, drawn.mean()), rel=0.005)
    assert longest_answer(50.0, 5.0, size, 52) == 52


def test_answers_take_the_steps_of_the_longest_and_the_operations_of_all() -> None:
    shape, items = MODEL.shape(), Items(n=10, prompt=30.0, answer=8.0, deviation=0.0, limit=100)
    work = generation(shape, items, 5, "float32")
    assert work.layer_passes == 2 * (shape.layers + 1) + 2 * 8 * (shape.layers + 1 + STEP_PASSES)
    prompts, answers = forward_flops(shape, 300, 30.0), forward_flops(shape, 80, 34.0)
    assert work.flops == pytest.approx(prompts + answers)
    cut = dataclasses.replace(items, limit=4)
    shorter = generation(shape, cut, 5, "float32")
    assert work.layer_passes - shorter.layer_passes == 2 * 4 * (shape.layers + 1 + STEP_PASSES)


def test_every_epoch_method_and_recomputation_adds_its_passes() -> None:
    def flops(**settings: object) -> float:
        settings = {
            "epochs": 1,
            "batch_size": 10,
            "micro_batch_size": 10,
            "validations": 1,
        } | settings
        none = dataclasses.replace(SAMPLES, n=0)
        return train_cost(MODEL, SAMPLES, none, TrainSettings(**settings), 0).work.flops

    once = flops()
    assert flops(epochs=2) == pytest.approx(2 * once)
    assert flops(gradient_checkpointing=True) == pytest.approx(once * 4 / 3)
    assert flops(method="lora") == pytest.approx(once * 2 / 3)
    assert flops(max_steps=5) == pytest.approx(once / 2)
    shape, settings = MODEL.shape(), {"mask_mode": "train-only", "component_ids": (0, 1, 2)}
    assert flops(**settings) == pytest.approx(once)
    share = 3 * 0.02 * shape.mlp / shape.parameters
    assert flops(**settings, compact=True) == pytest.approx(once * (2 + share) / 3)


def test_a_run_keeps_all_its_weights_and_lora_its_adapter_alone() -> None:
    whole = train_cost(MODEL, SAMPLES, SAMPLES, TrainSettings(), 0)
    lora = train_cost(MODEL, SAMPLES, SAMPLES, TrainSettings(method="lora", lora_rank=2), 0)
    shape = MODEL.shape(TrainSettings(method="lora"))
    assert whole.kept == 4 * shape.parameters
    assert lora.kept == 4 * 2 * shape.adapter_widths
    assert whole.temporary == 2 * (3 * whole.kept) + whole.kept
    settings = TrainSettings(mask_mode="train-only", compact=True)
    compact = train_cost(MODEL, SAMPLES, SAMPLES, settings, 0)
    assert compact.kept == whole.kept
    slices = 4 * 0.02 * shape.mlp
    assert compact.temporary == pytest.approx(2 * (3 * slices) + whole.kept)
    masked = train_cost(MODEL, SAMPLES, SAMPLES, dataclasses.replace(settings, compact=False), 0)
    assert compact.memory < masked.memory < whole.memory
    assert (masked.method, compact.way) == ("sft", "compact")


def test_a_batch_that_the_gpus_cannot_share_is_refused() -> None:
    with pytest.raises(InputError, match="multiple of 3 .* found 16; use fewer processes"):
        train_cost(MODEL, SAMPLES, SAMPLES, TrainSettings(batch_size=16, micro_batch_size=1), 3)


def test_more_gpus_share_the_memory_of_a_run() -> None:
    alone, shared = (train_cost(MODEL, SAMPLES, SAMPLES, TrainSettings(), n).memory for n in (1, 4))
    assert shared < alone


def test_a_dump_has_a_bit_for_every_neuron_and_token() -> None:
    cost, dump = capture_cost(MODEL, SAMPLES, CaptureSettings(sampled_tokens=0))
    bits = 3 * 48 * 5_000 / 8
    assert bits <= cost.kept <= 1.02 * bits + 8 * 5_000
    assert dump.tokens == 5_000


def test_the_words_of_a_command_leave_redirections_and_variables_out() -> None:
    command = "NUMBA_NUM_THREADS=8 fnsft project --output 'a b' --k 2 2> results/logs/a.log"
    assert command_words(command) == ("project", "--output", "a b", "--k", "2")
    assert command_words("cp a $(dirname b)") == ()


def test_jobs_stand_behind_those_that_make_their_inputs() -> None:
    jobs = [job("c", "b"), job("b", "a"), job("a", "data")]
    assert [one.outputs[0] for one in in_order(jobs)] == ["a", "b", "c"]


def test_jobs_run_side_by_side_as_far_as_inputs_cores_and_gpus_allow() -> None:
    chain = [job("a"), job("b", "a"), job("c", "b")]
    assert wall_seconds(chain, [1, 2, 3], machine(cores=4)) == 6
    apart = [job(name) for name in "abcd"]
    assert wall_seconds(apart, [1, 1, 1, 3], machine(cores=2)) == 3
    assert wall_seconds([job(n, threads=2) for n in "ab"], [1, 1], machine(cores=2)) == 2
    on_gpus = [job(name, gpus=4) for name in "abc"]
    assert wall_seconds(on_gpus, [1, 1, 1], machine(cores=1, gpus=8)) == 2
    assert wall_seconds(on_gpus, [1, 1, 1], machine(cores=1, gpus=1)) == 3  # it takes what is there


def test_no_order_of_random_jobs_beats_the_longest_chain_or_the_sum_over_cores() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        n = 30
        needs = [[str(j) for j in range(i) if rng.random() < 0.1] for i in range(n)]
        jobs = [job(str(i), *needs[i]) for i in range(n)]
        seconds = rng.uniform(1, 5, n).tolist()
        ends: list[float] = []
        for i in range(n):
            ends.append(seconds[i] + max((ends[int(j)] for j in needs[i]), default=0.0))
        for cores in (1, 3):
            found = wall_seconds(jobs, seconds, machine(cores=cores))
            assert found >= max(max(ends), sum(seconds) / cores) - 1e-9
            assert found <= sum(seconds) + 1e-9
            if cores == 1:
                assert found == pytest.approx(sum(seconds))


def test_seconds_are_the_start_and_every_amount_over_its_rate() -> None:
    work = Work(start="model", dtype="bfloat16", flops=6.0, disk_bytes=8.0, bit_products=12.0)
    rates = machine(
        start_model=1.0, bfloat16_flops=2.0, disk_bytes_per_second=4.0, bit_products_per_second=3.0
    )
    assert seconds_of(work, rates) == 1 + 3 + 2 + 4
    assert seconds_of(work, rates, threads=4) == 1 + 3 + 2 + 1
    shared = dataclasses.replace(rates, device_sharing=0.5)
    assert seconds_of(work, shared, devices=6) == 1 + 1 + 2 + 4


def test_what_cannot_fit_is_named_with_both_numbers() -> None:
    cost = Cost(Work(), memory=90 * 2**30, kept=5 * 2**30, model="m", method="collab", way="masked")
    on = machine(gpus=8, price=2.0)
    found = summarise([job("a", gpus=4)], [cost], on, disk_bytes=2**30)
    memory, disk = found.refusals
    assert "rule: m with collab" in memory and "80.0 GiB on each of 4 GPUs" in memory
    assert "found 90.0 GiB" in memory and "5.0 GiB to keep" in disk and "1.0 GiB free" in disk
    assert not summarise(
        [job("a", gpus=4)], [cost], dataclasses.replace(on, memory_gib=91), 1e12
    ).refusals


def test_gpu_hours_count_every_gpu_of_a_job() -> None:
    costs = [Cost(Work(flops=3.6e12))] * 2
    rates = machine(gpus=8, price=2.0)
    found = summarise([job("a", gpus=4), job("b")], costs, rates, 1e12)
    assert found.gpu_hours == pytest.approx(4 * 0.25) and found.core_hours == pytest.approx(1.0)
    assert found.price == pytest.approx(2.0)


def test_a_split_that_is_there_is_measured(tmp_path: Path) -> None:
    rows = [{"prompt": "x" * 30, "completion": "y" * n} for n in (30, 60, 90)]
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = samples_in(path, "other")
    per_token = published("data")["samples"]["other"]["characters"]
    lengths = [(30 + n) / per_token + 1 for n in (30, 60, 90)]
    assert found.n == 3 and found.mean == pytest.approx(statistics.fmean(lengths))
    assert found.deviation == pytest.approx(statistics.pstdev(lengths))
    with pytest.raises(InputError, match="found neither"):
        Known().samples(tmp_path / "none.jsonl")


@pytest.mark.parametrize("name", ["cpu", "a100"])
def test_the_machines_that_come_along_can_be_read(
    repository: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(repository)
    assert read_machine(name).has_gpus == (name == "a100")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("source: x", "the key 'memory_gib' is missing"),
        ("like: cpu\nwrong: 1", "unknown key 'wrong'"),
        ("a: [", "expected YAML"),
        ("- a", "expected the keys of a machine"),
    ],
)
def test_a_machine_with_mistakes_is_refused(
    repository: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, said: str
) -> None:
    monkeypatch.chdir(repository)
    path = tmp_path / "m.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=said):
        read_machine(str(path))
