"""Preference tuning: TRL's DPO with every mask, from rows of pairs to a model folder."""

import itertools
import json
import math
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import PROGRAMS, in_processes
from runs import BASIC, train, weights, words, write_prepared
from test_config import load
from test_resume import assert_alike, kill_at
from transformers import AutoModelForCausalLM, PreTrainedModel

from fnsft.architectures import mlp_matrices
from fnsft.artifacts.rows import numbered_rows
from fnsft.artifacts.storage import write_jsonl
from fnsft.artifacts.training import read_training
from fnsft.cli.main import main
from fnsft.config.checks import check
from fnsft.config.experiment import Experiment
from fnsft.config.stages import TrainSettings, WorldSettings
from fnsft.data.row_files import Rows
from fnsft.data.samples import Sample
from fnsft.data.schemas import reader_of
from fnsft.data.templates import choose_format, render
from fnsft.data.tokens import Encoded, load_split, load_tokenizer
from fnsft.data.world.assembly import make_world
from fnsft.data.world.word_problems import OPERATORS
from fnsft.errors import InputError
from fnsft.masks.selection import top_fraction
from fnsft.planning.known import Model, Samples
from fnsft.planning.training_costs import train_cost
from fnsft.reporting.model_card import model_card
from fnsft.training.memory import estimate, shape_of
from fnsft.training.preferences import as_pairs, pair_losses, preference_point

BETA, RATE = 0.3, BASIC["learning-rate"]
DPO: dict[str, Any] = {"objective": "dpo", "dpo_beta": BETA, "max_grad_norm": 0, "weight_decay": 0}
ONE_STEP = DPO | {"batch_size": 12, "micro_batch_size": 4, "schedule": "constant"}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sums of one digit, each with a wrong answer of another length, as prepared splits."""
    numbers = random.Random(0)

    def row() -> dict[str, str]:
        a, b = numbers.randrange(9), numbers.randrange(9)
        right, wrong = a + b, a + b + numbers.randrange(1, 4)
        return {
            "prompt": f"Question: {a}+{b}?\nAnswer:",
            "completion": f" {right}\n#### {right}",
            "rejected": f" that is {wrong}\n#### {wrong}",
        }

    splits = {name: [row() for _ in range(n)] for name, n in (("train", 12), ("validation", 5))}
    return write_prepared(tmp_path_factory.mktemp("pairs"), splits)


@pytest.fixture(scope="module")
def one_step(tiny_model_dir: Path, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All weights after one step over all pairs."""
    folder = tmp_path_factory.mktemp("one") / "step"
    assert train(tiny_model_dir, pairs, folder, **ONE_STEP) == 0
    return folder


def samples_of(model: Path, pairs: Path, name: str = "train") -> list[Encoded]:
    return load_split(pairs / f"{name}.jsonl", load_tokenizer(model), 1024).samples


def loaded(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def log_likelihood(
    model: PreTrainedModel, prompt: Sequence[int], answer: Sequence[int]
) -> torch.Tensor:
    """Return log π(y|x) of one text alone, a token at a time."""
    logits = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0]
    logs = torch.log_softmax(logits.double(), dim=-1)
    tokens = [logs[len(prompt) + place - 1, token] for place, token in enumerate(answer)]
    return torch.stack(tokens).sum()


def gains(
    model: PreTrainedModel, start: PreTrainedModel, samples: Sequence[Encoded]
) -> torch.Tensor:
    """Return h of every pair, written out: how much more the chosen answer gained."""
    found = []
    for sample in samples:
        log_ratio = []
        for answer in (sample.completion_ids, sample.rejected_ids):
            with torch.no_grad():
                before = log_likelihood(start, sample.prompt_ids, answer)
            log_ratio.append(log_likelihood(model, sample.prompt_ids, answer) - before)
        found.append(log_ratio[0] - log_ratio[1])
    return torch.stack(found)


def loss_of(h: torch.Tensor) -> torch.Tensor:
    return -torch.log(1 / (1 + torch.exp(-BETA * h)))


@pytest.mark.parametrize("method", ["sft", "highest", "lora"])
def test_a_dpo_run_minimises_the_loss_of_the_paper(
    tiny_model_dir: Path, pairs: Path, tmp_path: Path, method: str
) -> None:
    """Of the first step, where both answers are as likely as at the start, and of the second."""
    first, second = tmp_path / "first", tmp_path / "second"
    method_of = {"method": method, "learning_rate": 1e-2 if method == "lora" else RATE}
    assert train(tiny_model_dir, pairs, first, **ONE_STEP, **method_of) == 0
    assert train(tiny_model_dir, pairs, second, **ONE_STEP, **method_of, epochs=2) == 0
    samples = samples_of(tiny_model_dir, pairs)
    with torch.no_grad():
        expected = loss_of(gains(loaded(first), loaded(tiny_model_dir), samples)).mean()
    recorded = [point["loss"] for point in read_training(second).train_loss]
    assert recorded == pytest.approx([math.log(2), float(expected)], abs=1e-5)
    assert recorded[1] < math.log(2) - 1e-3


def test_every_pair_of_a_step_counts_alike_however_many_a_pass_has(
    tiny_model_dir: Path, pairs: Path, tmp_path: Path
) -> None:
    """Of 12 pairs in passes of 8 the second has 4; the first step of Adam shows signs alone."""
    found = []
    for size in (4, 8):
        settings = ONE_STEP | {"batch_size": 16, "micro_batch_size": size}
        assert train(tiny_model_dir, pairs, tmp_path / f"{size}", **settings) == 0
        found.append(weights(tmp_path / f"{size}"))
    for name, one in found[0].items():
        torch.testing.assert_close(found[1][name], one, atol=1e-6, rtol=0)


def test_dpo_learns_the_very_ids_that_training_on_completions_does(
    tiny_model_dir: Path, pairs: Path, tmp_path: Path
) -> None:
    rows = [row for _, row in numbered_rows(pairs / "train.jsonl")]
    samples = samples_of(tiny_model_dir, pairs)
    found = list(as_pairs(samples, torch.zeros(2, len(samples)).numpy()))
    for column, part in (("chosen_ids", "completion"), ("rejected_ids", "rejected")):
        alone = [{"prompt": row["prompt"], "completion": row[part]} for row in rows]
        write_jsonl(tmp_path / "train.jsonl", alone)
        wanted = samples_of(tiny_model_dir, tmp_path)
        ids = [(tuple(row["prompt_ids"]), tuple(row[column])) for row in found]
        assert ids == [(sample.prompt_ids, sample.completion_ids) for sample in wanted]


def test_of_a_pair_that_is_too_long_nothing_is_kept(tiny_model_dir: Path, pairs: Path) -> None:
    tokenizer, path = load_tokenizer(tiny_model_dir), pairs / "train.jsonl"
    longest = sorted(
        len(s.prompt_ids) + max(len(s.completion_ids), len(s.rejected_ids))
        for s in samples_of(tiny_model_dir, pairs)
    )
    split = load_split(path, tokenizer, longest[5])
    assert len(split.samples) == sum(n <= longest[5] for n in longest) < 12
    assert split.n_left_out == 12 - len(split.samples)
    assert split.longest_left_out == longest[-1]


@pytest.mark.parametrize("applies_to", ["gradient", "update"])
def test_a_mask_holds_the_largest_entries_of_the_gradient_of_dpo_s_loss(
    tiny_model_dir: Path, pairs: Path, one_step: Path, tmp_path: Path, applies_to: str
) -> None:
    """One step: exactly round(p·n) entries of every matrix move, and as without a mask."""
    settings = ONE_STEP | {"method": "highest", "fraction": 0.3, "applies_to": applies_to}
    assert train(tiny_model_dir, pairs, tmp_path / "run", **settings) == 0
    model, start = loaded(tiny_model_dir), loaded(tiny_model_dir)
    for sample in samples_of(tiny_model_dir, pairs):  # at the start h is 0
        (loss_of(gains(model, start, [sample])).mean() / 12).backward()
    before, after, whole = (weights(f) for f in (tiny_model_dir, tmp_path / "run", one_step))
    for matrix in mlp_matrices(model):
        assert matrix.parameter.grad is not None
        wanted = top_fraction(matrix.parameter.grad.abs(), 0.3)
        moved = before[matrix.name] != after[matrix.name]
        assert int(moved.sum()) == round(0.3 * moved.numel()) == int(wanted.sum())
        assert int((moved != wanted).sum()) <= 4, "rounding may swap entries at the threshold"
        assert torch.equal(after[matrix.name][moved], whole[matrix.name][moved])
    rest = "model.layers.0.self_attn.q_proj.weight"
    assert torch.equal(after[rest], whole[rest]) and not torch.equal(after[rest], before[rest])


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "child-tuning-d", "fraction": 0.3, "applies_to": "update"},
        {"method": "lift", "fraction": 0.3, "lift_rank": 4},
        {"method": "active-neurons", "fraction": 0.25},
    ],
    ids=lambda settings: settings["method"],
)
def test_after_many_steps_of_dpo_what_is_masked_is_bit_identical(
    tiny_model_dir: Path, pairs: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    """Of masks that are drawn once; weight decay and momentum move nothing there either."""
    run = DPO | settings | {"epochs": 2, "weight_decay": 0.1, "micro_batch_size": 4}
    assert train(tiny_model_dir, pairs, tmp_path / "run", **run) == 0
    record = read_training(tmp_path / "run")
    assert record.optimizer_steps == 6
    assert record.mask_pass_rate == pytest.approx(settings["fraction"], abs=1e-3)
    before, after = weights(tiny_model_dir), weights(tmp_path / "run")
    for matrix in mlp_matrices(loaded(tiny_model_dir)):
        moved = int((before[matrix.name] != after[matrix.name]).sum())
        assert moved == round(settings["fraction"] * before[matrix.name].numel()), matrix.name


def test_compact_dpo_is_that_of_the_mask(
    tiny_model_dir: Path, pairs: Path, networks: Path, tmp_path: Path
) -> None:
    settings = DPO | {"mask_mode": "train-only", "networks": networks, "max_grad_norm": 0.5}
    for name, compact in (("masked", False), ("compact", True)):
        assert train(tiny_model_dir, pairs, tmp_path / name, **settings, compact=compact) == 0
    before, masked, compact = (
        weights(folder) for folder in (tiny_model_dir, tmp_path / "masked", tmp_path / "compact")
    )
    assert any(not torch.equal(before[name], masked[name]) for name in before)
    for name in before:
        torch.testing.assert_close(compact[name], masked[name], atol=1e-5, rtol=0)
        still = before[name] == masked[name]
        assert torch.equal(compact[name][still], before[name][still])


def test_the_validation_curve_is_dpo_s_loss_and_the_best_epoch_its_lowest(
    tiny_model_dir: Path, pairs: Path, one_step: Path
) -> None:
    record = read_training(one_step)
    start, after = loaded(tiny_model_dir), loaded(one_step)
    samples = samples_of(tiny_model_dir, pairs, "validation")
    with torch.no_grad():
        h = gains(after, start, samples)
        nll = [-log_likelihood(after, s.prompt_ids, s.completion_ids) for s in samples]
    first, last = record.validation[0], record.validation[-1]
    assert (first["loss"], first["accuracy"]) == (math.log(2), 0.5), "all are ties"
    assert last["loss"] == pytest.approx(float(loss_of(h).mean()), abs=1e-6)
    assert last["accuracy"] == float((h > 0).double().mean())
    n_tokens = sum(len(s.completion_ids) for s in samples)
    assert last["perplexity"] == pytest.approx(math.exp(float(sum(nll)) / n_tokens), rel=1e-5)
    assert (record.objective, record.criterion) == ("dpo", last["loss"])
    assert "direct preference optimisation" in model_card(one_step, "me/tuned")
    losses = pair_losses(after, samples, 2)
    worse = preference_point(losses, losses.nll + [[0.0], [0.5]], BETA)
    assert worse["accuracy"] == 0 and worse["loss"] > math.log(2)


@pytest.mark.parametrize("method", ["lora", "collab"])
def test_an_interrupted_dpo_run_ends_as_an_uninterrupted_one(
    tiny_model_dir: Path,
    pairs: Path,
    graph: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
) -> None:
    settings = DPO | {"method": method, "checkpoint_steps": 2, "epochs": 2, "telemetry_steps": 2}
    settings |= {"graph": graph, "k": 5} if method == "collab" else {}
    run = [tiny_model_dir, pairs]
    assert train(*run, tmp_path / "whole", **settings) == 0
    kill_at(5, monkeypatch, lambda: train(*run, tmp_path / "resumed", **settings))
    assert train(*run, tmp_path / "resumed", **settings) == 0
    notes = json.loads((tmp_path / "resumed.manifest.json").read_text())["notes"]
    assert notes["resumed_from"] == "checkpoint-4"
    assert_alike(tmp_path / "whole", tmp_path / "resumed")


@pytest.mark.processes
def test_two_processes_that_share_a_dpo_run_under_fsdp2_end_as_one(
    tiny_model_dir: Path, pairs: Path, tmp_path: Path
) -> None:
    settings = DPO | {"method": "highest", "micro_batch_size": 1, "learning_rate": 3e-4}
    assert train(tiny_model_dir, pairs, tmp_path / "one", **settings) == 0
    arguments = words(tiny_model_dir, pairs, tmp_path / "two", **settings)
    code, said = in_processes(2, [*PROGRAMS["fsdp"], *arguments])
    assert code == 0, said
    one, two = (read_training(tmp_path / name) for name in ("one", "two"))
    for losses in ("train_loss", "validation"):
        found = [[point["loss"] for point in getattr(record, losses)] for record in (one, two)]
        assert found[1] == pytest.approx(found[0], abs=1e-4), losses
    before, after = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name in before:
        torch.testing.assert_close(after[name], before[name], atol=2e-4, rtol=0)


HUMAN = "Return an item?"
TURNS = [{"role": "user", "content": HUMAN}]
GOOD, BAD = ([{"role": "assistant", "content": text}] for text in ("Within 30 days.", "No."))
FORMS: dict[str, dict[str, Any]] = {
    "plain": {"prompt": HUMAN, "chosen": "Within 30 days.", "rejected": "No."},
    "question": {"question": HUMAN, "chosen": "Within 30 days.", "rejected": "No."},
    "messages": {"prompt": TURNS, "chosen": GOOD, "rejected": BAD},
    "implicit": {"chosen": TURNS + GOOD, "rejected": TURNS + BAD},
    "both": {"prompt": HUMAN, "chosen": TURNS + GOOD, "rejected": TURNS + BAD},
    "prompt-text": {"prompt": HUMAN, "chosen": GOOD, "rejected": BAD},
    "sharegpt": {
        "chosen": [{"from": "human", "value": HUMAN}, {"from": "gpt", "value": "Within 30 days."}],
        "rejected": [{"from": "human", "value": HUMAN}, {"from": "gpt", "value": "No."}],
    },
}


FORMS["sharegpt-both"] = {"prompt": HUMAN} | FORMS["sharegpt"]


def read_as(rows: list[dict[str, Any]], columns: str = "") -> tuple[list[Sample], str]:
    held = Rows.of("rows", rows)
    reader = reader_of(held, None, columns)
    return [s for number, row in held for s in reader.samples(number, row)], reader.omitted()


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_preference_rows_reads_as_one_question_with_two_answers(form: str) -> None:
    (sample,), omitted = read_as([FORMS[form]])
    assert (sample.question, sample.answer, sample.rejected) == (HUMAN, "Within 30 days.", "No.")
    assert not omitted and not sample.before
    other = {{"chosen": "good", "rejected": "bad"}.get(k, k): v for k, v in FORMS[form].items()}
    columns = {"prompt": "prompt=prompt,", "question": "prompt=question,"}.get(
        next(iter(other)), ""
    )
    assert read_as([other], f"{columns}chosen=good,rejected=bad")[0] == [sample]


def test_the_turns_before_the_last_answer_are_the_prompt_of_a_pair() -> None:
    before = [*TURNS, *GOOD, {"role": "user", "content": "Opened?"}]
    row = {"chosen": [*before, *BAD], "rejected": [*before, *GOOD]}
    (sample,), _ = read_as([row])
    assert (sample.question, sample.answer, sample.rejected) == (
        "Opened?",
        "No.",
        "Within 30 days.",
    )
    assert [turn.content for turn in sample.before] == [HUMAN, "Within 30 days."]


def test_pairs_that_say_nothing_are_left_out_and_counted() -> None:
    good = FORMS["plain"]
    changes = ({}, {"rejected": "Within 30 days. "}, {"rejected": " "}, {"chosen": None})
    samples, omitted = read_as([good | change for change in changes])
    assert len(samples) == 1
    assert omitted == (
        "1 row with two equal answers (the first is row 2), 1 row with an empty rejected answer "
        "(the first is row 3), 1 row with an empty answer (the first is row 4)"
    )
    talks = [
        {"chosen": TURNS + GOOD, "rejected": TURNS + GOOD},
        {"chosen": TURNS + GOOD, "rejected": [{"role": "user", "content": "Else?"}, *BAD]},
        {"chosen": TURNS + GOOD, "rejected": TURNS},
        {"chosen": TURNS + GOOD, "rejected": None},
        FORMS["implicit"],
    ]
    samples, omitted = read_as(talks)
    assert len(samples) == 1
    assert omitted == (
        "1 row with two equal answers (the first is row 1), 1 row whose conversations differ in "
        "more than the last answer (the first is row 2), 2 rows without an answer to a question "
        "(the first is row 3)"
    )


@pytest.mark.parametrize("form", ["plain", "question", "implicit"])
@pytest.mark.parametrize("template", ["auto", "chatml"])
def test_both_answers_of_a_pair_stand_behind_the_same_prompt(
    tiny_model_dir: Path, form: str, template: Any
) -> None:
    tokenizer = load_tokenizer(tiny_model_dir)
    (sample,), _ = read_as([FORMS[form]])
    written = choose_format(template, sample.kind, "", tokenizer)
    example = render(written, tokenizer, sample)
    swapped = replace(sample, answer=sample.rejected, rejected=sample.answer)
    other = render(written, tokenizer, swapped)
    assert example.rejected == other.completion and example.completion == other.rejected
    assert example.prompt == other.prompt == render(written, tokenizer, sample).prompt
    assert example.row()["rejected"] == example.rejected


def test_a_file_of_pairs_trains_by_one_command_and_a_graph_is_made_of_the_chosen_answers(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "pairs.jsonl"
    texts = [{"prompt": f"{n} + 1 =", "chosen": f"{n + 1}", "rejected": "9"} for n in range(9)]
    write_jsonl(file, texts)
    settings = DPO | {"method": "collab", "k": 5, "validation_fraction": 0.3}
    assert train(tiny_model_dir, file, tmp_path / "run", **settings) == 0
    said = capsys.readouterr().err
    assert "plain: prompt = '{prompt}', chosen = '{chosen}', rejected = '{rejected}'" in said
    assert "left out 1 row with two equal answers (the first is row 9)" in said
    assert "rejected | 9</s>" in said and "DPO, beta 0.3" in said and "accuracy" in said
    assert (tmp_path / "run" / "graph.safetensors").is_file()
    records = tmp_path / "records.jsonl"
    held_out = ["--rows", str(file), "--output", str(records)]
    assert main(["evaluate", "--model", str(tmp_path / "run"), *held_out]) == 0
    found = {row["benchmark"]: row for _, row in numbered_rows(records)}
    assert found["preferences"]["n"] == found["perplexity"]["n"] == 8
    model, h = loaded(tmp_path / "run"), []
    tokenizer = load_tokenizer(tiny_model_dir)
    for row in texts[:8]:
        ids = [
            tokenizer(text)["input_ids"]
            for text in (f"{row['prompt']}\n", f"{row['chosen']}</s>", "9</s>")
        ]
        with torch.no_grad():
            h.append(log_likelihood(model, ids[0], ids[1]) - log_likelihood(model, ids[0], ids[2]))
    assert found["preferences"]["value"] == sum(float(x) > 0 for x in h) / 8


def test_samples_that_an_objective_cannot_learn_are_refused_in_a_line(
    tiny_model_dir: Path,
    pairs: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for folder, settings, wanted in (
        (pairs, {}, "expected samples of one answer, found a pair"),
        (data, DPO, "dpo compares a chosen with a rejected answer, found a sample of one"),
        (pairs, DPO | {"replay": data, "replay_fraction": 0.5}, "found a sample of one"),
        (pairs, DPO | {"mask_mode": "lesion"}, "mask_mode: 'lesion' makes another model"),
        (pairs, DPO | {"method": "lora", "lora_dropout": 0.1}, "lora_dropout: dpo compares"),
    ):
        assert train(tiny_model_dir, folder, tmp_path / "run", **settings) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and wanted in said, said
    assert list(tmp_path.iterdir()) == []


def test_a_pair_is_planned_and_held_in_memory_as_two_samples(tiny_model_dir: Path) -> None:
    shape = shape_of(tiny_model_dir, TrainSettings())
    one, two = (TrainSettings(objective=o, micro_batch_size=8) for o in ("completion", "dpo"))
    alone, paired = (estimate(shape, settings, 300) for settings in (one, two))
    twice = estimate(shape, replace(one, micro_batch_size=16), 300)
    assert paired.activations == twice.activations > alone.activations
    assert paired.validation_logits == alone.validation_logits
    model = Model("tiny", (tiny_model_dir / "config.json").read_text(), 0.0)
    samples = Samples(320, 20.0, 30.0, 0.0, 0.0, 50)
    alone, paired = (train_cost(model, samples, samples, s, 0).work.flops for s in (one, two))
    # Three ways of three epochs, of two answers; and forward passes of the start on both splits.
    validations = (1 + 20 + 2) / (3 * 3)
    assert paired / alone == pytest.approx(2 + 4 / 9 / (1 + validations), rel=1e-3)


def test_every_held_out_problem_of_the_world_has_a_wrong_answer_of_its_own() -> None:
    small = {"documents": 20, "math_train": 20, "code_train": 20, "code_test": 10}
    world = make_world(WorldSettings(math_test=100, preferences_train=150, **small))
    assert [row["question"] for row in world.preferences_test] == [
        row["question"] for row in world.math_test
    ]
    assert [row["chosen"] for row in world.preferences_test] == [
        row["answer"] for row in world.math_test
    ]
    held_out = {row["question"] for row in world.math_test}
    assert len(world.preferences_train) == 150
    for row in (*world.preferences_train, *world.preferences_test):
        right, wrong = (
            re.findall(r"<<(\d+)(.)(\d+)=(\d+)>>", row[k]) for k in ("chosen", "rejected")
        )
        slips = [int(n) - OPERATORS[op](int(a), int(b)) for a, op, b, n in wrong]
        assert len(right) == len(wrong) and sum(slip != 0 for slip in slips) == 1
        assert all(a == before[-1] for before, (a, *_) in itertools.pairwise(wrong))
        assert row["rejected"].endswith(f"#### {wrong[-1][-1]}") and wrong[-1][-1] != right[-1][-1]
        assert int(wrong[-1][-1]) > 0
    assert held_out.isdisjoint(row["question"] for row in world.preferences_train)


def test_a_task_of_pairs_is_trained_by_dpo_with_its_own_factor_of_the_rate(
    repository: Path,
) -> None:
    config = load(repository, "tiny")
    experiment = Experiment(config)
    factor = experiment.task("preferences").learning_rate_factor
    for variant in ("sft", "collab-p0.5"):
        plain, dpo = (experiment.training(variant, 0, 1, task) for task in ("math", "preferences"))
        assert (plain.objective, dpo.objective) == ("completion", "dpo")
        assert plain == experiment.training(variant, 0)
        assert dpo.learning_rate == pytest.approx(plain.learning_rate * factor)
    config["tables"]["table_preferences"]["methods"] = ["sft", "sft-lesion"]
    with pytest.raises(InputError, match=r"sft-lesion on tasks\.preferences: mask_mode"):
        check(Experiment(config))
    config["tasks"]["preferences"]["objective"] = "completion"
    with pytest.raises(InputError, match=r"tasks\.preferences: objective: expected 'dpo'"):
        Experiment(config).task("preferences")
    assert "table_preferences" not in Experiment(load(repository, "tiny")).paper().tables
