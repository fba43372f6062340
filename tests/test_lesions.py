"""Lesions: against models whose weights are zeroed, and networks that are planted."""

import dataclasses
import itertools
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import write_tiny_model
from transformers import AutoModelForCausalLM

from fnsft.artifacts.identity import model_identity
from fnsft.artifacts.lesions import Lesion, read_lesions, write_lesions
from fnsft.artifacts.networks import Analysis, Networks, Templates, write_networks
from fnsft.artifacts.storage import read_json, write_json, write_jsonl
from fnsft.cli.main import main
from fnsft.config.stages import LesionSettings
from fnsft.data.tokens import Encoded, load_split, load_tokenizer
from fnsft.errors import InputError
from fnsft.evaluation.lesion_plan import Plan, loading_strengths, strongest
from fnsft.evaluation.lesions import lesion, loss_of
from fnsft.masks.random_sets import size_matched
from fnsft.reporting.lesion_summary import summarise_lesions
from fnsft.training.completion_loss import SampleLosses, completion_loss

N_LAYERS, WIDTH = 2, 64
RUN = {"model": "tiny", "task": "math", "networks": "stack", "seed": 3}
PLANTED = 2


def blocks() -> dict[int, dict[int, np.ndarray]]:
    """Three networks that part every layer; sizes differ by network and layer."""
    order = np.random.default_rng(5).permutation(WIDTH)
    parts = [np.split(order, ends) for ends in ([20, 44], [25, 43])]
    return {k: {layer: np.sort(parts[layer][k]) for layer in range(N_LAYERS)} for k in range(3)}


def templates_of(neurons: dict[int, dict[int, np.ndarray]]) -> Templates:
    return Templates("intermediate", (WIDTH,) * N_LAYERS, neurons)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose network 2 alone has learnt the data, the data, and the networks."""
    folder = tmp_path_factory.mktemp("lesions")
    write_tiny_model(folder / "model")
    rng = np.random.default_rng(0)
    words = ["apples", "has", "three", "return", "a + b", "Ada", "How many?", "#### 17"]
    for name, n in (("train", 24), ("ranking", 6), ("evaluation", 7)):
        texts = [(" ".join(rng.choice(words, 3)), " ".join(rng.choice(words, 4))) for _ in range(n)]
        write_jsonl(folder / f"{name}.jsonl", [{"prompt": p, "completion": c} for p, c in texts])
    teach(folder)
    write_networks(folder / "networks.safetensors", networks(), model_identity(folder / "model"))
    facts = [
        {"prompt": f"{word} is", "choices": [" old", " ten"], "answer": i % 2, "subject": "age"}
        for i, word in enumerate(words)
    ]
    write_jsonl(folder / "cloze.jsonl", facts)
    problems = [
        {"prompt": f"Question: {i}+1?\nAnswer:", "completion": f" #### {i}"} for i in (1, 2)
    ]
    write_jsonl(folder / "gsm8k.jsonl", problems)
    return folder


def teach(folder: Path) -> None:
    """Train the planted neurons' columns of down and nothing else."""
    samples = samples_of(folder, "train")
    model = AutoModelForCausalLM.from_pretrained(folder / "model").requires_grad_(False)
    columns = [block.mlp.down_proj.weight.requires_grad_() for block in model.model.layers]
    optimizer = torch.optim.Adam(columns, lr=0.03)
    for _ in range(25):
        for sample in samples[:12]:
            labels = torch.tensor([sample.labels])
            model(torch.tensor([sample.ids]), labels=labels).loss.backward()
        for layer, weight in enumerate(columns):
            planted = torch.from_numpy(blocks()[PLANTED][layer])
            weight.grad[:, [i for i in range(WIDTH) if i not in planted]] = 0
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder / "model")


def samples_of(folder: Path, name: str) -> list[Encoded]:
    return load_split(folder / f"{name}.jsonl", load_tokenizer(folder / "model"), 1_024).samples


def networks() -> Networks:
    """The planted networks with loadings, of which only those of layer 1 are known to vary."""
    rng = np.random.default_rng(1)
    members = np.zeros((3, N_LAYERS * WIDTH), dtype=bool)
    for k, layers in blocks().items():
        for layer, neurons in layers.items():
            members[k, layer * WIDTH + neurons] = True
    loadings = rng.standard_normal(members.shape).astype(np.float32) + 4 * members
    loadings[:, 5] = 0  # a constant neuron
    analysis = Analysis(
        layers=(0, 1),
        loadings=loadings,
        members=members,
        time_courses=np.zeros((4, 3), dtype=np.float32),
        variance_share=np.full(3, 0.1),
        stability=np.ones(3),
        converged=np.array([True]),
        iterations=np.array([7]),
    )
    offsets = np.array([0, 4])
    return Networks("intermediate", (WIDTH,) * N_LAYERS, [analysis], offsets, offsets[:1])


def load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder / "model").eval()


def plan_of(
    templates: Templates | None = None,
    strengths: Sequence[np.ndarray | None] = (),
    layers: Sequence[int] = (0, 1),
    **settings: Any,
) -> Plan:
    settings = {"random_draws": 2, "unmask_shares": (0.1, 0.5)} | settings
    return Plan(templates or templates_of(blocks()), layers, strengths, LesionSettings(**settings))


def measuring(folder: Path, model: Any) -> Callable[[str], list]:
    samples = {name: samples_of(folder, name) for name in ("ranking", "evaluation")}
    return lambda split: [loss_of(completion_loss(model, samples[split], 4))]


def rows_of(folder: Path, plan: Plan) -> list[Lesion]:
    model = load(folder)
    return lesion(model, measuring(folder, model), plan, RUN).rows


def loss_with(folder: Path, factors: Sequence[np.ndarray], split: str = "evaluation") -> float:
    """The loss, sample by sample, of a model whose columns of down are multiplied."""
    model = load(folder)
    for block, factor in zip(model.model.layers, factors, strict=True):
        block.mlp.down_proj.weight.data *= torch.tensor(factor, dtype=torch.float32)
    total, n_tokens = 0.0, 0
    for sample in samples_of(folder, split):
        with torch.no_grad():
            scores = model(torch.tensor([sample.ids])).logits[0].double().log_softmax(-1)
        places = range(len(sample.prompt_ids) - 1, len(sample.ids) - 1)
        total -= sum(float(scores[place, sample.ids[place + 1]]) for place in places)
        n_tokens += len(sample.completion_ids)
    return total / n_tokens


def run(folder: Path, output: Path, *more: str, **files: Path) -> int:
    paths = {name: folder / f"{name}.jsonl" for name in ("ranking", "evaluation")}
    paths |= {"model": folder / "model", "networks": folder / "networks.safetensors"}
    words = ["lesion", "--output", str(output), "--model-name", "tiny", "--task", "math"]
    words += ["--networks-name", "stack", "--run-seed", "3"]
    for name, path in (paths | files).items():
        words += [f"--{name}", str(path)]
    return main([*words, *more])


def test_random_sets_have_the_networks_counts_in_every_layer() -> None:
    rng = np.random.default_rng(0)
    chosen = [rng.random(width) < share for width, share in ((50, 0.1), (9, 0.7), (30, 0))]
    chosen.append(np.ones(4, dtype=bool))
    draws = [size_matched(chosen, seed, draw) for seed in range(3) for draw in range(4)]
    for drawn in draws:
        assert [d.dtype for d in drawn] == [bool] * 4
        assert [(len(d), d.sum()) for d in drawn] == [(len(c), c.sum()) for c in chosen]
    assert len({b"".join(d.tobytes() for d in drawn) for drawn in draws}) == 12
    again = size_matched(chosen, 2, 3)
    assert all(np.array_equal(a, b) for a, b in zip(again, draws[-1], strict=True))


def test_random_sets_of_a_draw_grow_and_take_every_channel_alike() -> None:
    small, large = ([np.arange(40) < n] for n in (7, 16))
    taken = np.zeros(40)
    for draw in range(2_000):
        few, many = size_matched(small, 0, draw)[0], size_matched(large, 0, draw)[0]
        assert not (few & ~many).any()
        taken += few
    # Binomial: mean 350, standard deviation 17; the chosen channels are as likely as others.
    assert taken.min() > 280 and taken.max() < 420


def test_the_planted_network_has_the_largest_effect_and_random_neurons_have_less(
    folder: Path, tmp_path: Path
) -> None:
    more = ["--random-draws", "3", "--gsm8k-limit", "0"]
    assert run(folder, tmp_path / "l.jsonl", *more, gsm8k=folder / "gsm8k.jsonl") == 0
    effects = summarise_lesions(read_lesions([tmp_path / "l.jsonl"]))
    first = effects[0]
    assert (first.network, first.rank, len(effects)) == (PLANTED, 1, 3)
    assert first.effect > 0.5 and first.ranking_effect > 0.5
    assert first.draws_as_bad == 0 and len(first.removed["perplexity"].random) == 3
    # What it did not learn can be removed at less cost than as many neurons at random.
    assert all(e.effect < 0.2 and e.draws_as_bad == 3 for e in effects[1:])
    assert set(first.removed) == {"perplexity"}  # --gsm8k-limit 0 answers no problem


@pytest.mark.parametrize("layers", [(0, 1), (1,)])
def test_every_condition_is_the_loss_of_a_model_with_changed_weights(
    folder: Path, layers: tuple[int, ...]
) -> None:
    strengths = loading_strengths(networks())
    plan = plan_of(strengths=strengths, layers=layers, random_draws=1, gain=3.0)
    rows = rows_of(folder, plan)
    order = summarise_lesions(rows)
    names = [effect.network for effect in order]
    experiments = set()
    for row in rows:
        if row.network is not None:
            ids = [row.network]
        elif row.n_networks:
            ids = names[: row.n_networks]
        else:
            ids = []
        factors = []
        for layer in range(N_LAYERS):
            chosen = np.zeros(WIDTH, dtype=bool)
            chosen[[i for k in ids for i in blocks()[k][layer]]] = True
            if row.share:
                largest = sorted(range(WIDTH), key=lambda i: -strengths[layer][i])
                chosen[largest[: round(row.share * WIDTH)]] = True
            if row.source == "random":
                counts = [np.zeros(WIDTH, dtype=bool)] * layer + [chosen]
                chosen = size_matched(counts, plan.settings.seed, row.draw)[layer]
            on, off = {"kept": (1, 0), "unmasked": (1, 0), "amplified": (3, 1)}.get(
                row.experiment, (0, 1)
            )
            factors.append(np.where(chosen, on, off) if layer in layers else np.ones(WIDTH))
        assert row.value == pytest.approx(loss_with(folder, factors, row.split), abs=2e-5)
        assert row.n_neurons == sum(int((factor != 1).sum()) for factor in factors)
        assert row.n_all == WIDTH * len(layers)
        assert (row.benchmark, row.metric) == ("perplexity", "loss")
        experiments.add((row.experiment, row.source))
    kinds = ("single", "amplified", "removed", "kept", "unmasked")
    assert experiments == {("intact", "network"), *itertools.product(kinds, ("network", "random"))}


def test_all_networks_of_a_partition_kept_are_the_intact_model(folder: Path) -> None:
    rows = {
        (row.experiment, row.n_networks): row
        for row in rows_of(folder, plan_of())
        if row.source == "network" and row.split == "evaluation"
    }
    kept, removed = rows["kept", 3], rows["removed", 3]
    assert (kept.value, kept.n_neurons) == (rows["intact", None].value, 0)
    nothing_left = loss_with(folder, [np.zeros(WIDTH)] * N_LAYERS)
    assert removed.value == pytest.approx(nothing_left, abs=2e-5)
    assert removed.n_neurons == removed.n_all == N_LAYERS * WIDTH


def test_the_order_is_of_the_ranking_split_and_the_values_are_of_the_other(folder: Path) -> None:
    model = load(folder)
    measure = measuring(folder, model)

    def opposed(split: str) -> list:
        sign = -1 if split == "ranking" else 1
        return [dataclasses.replace(m, value=sign * m.value) for m in measure("evaluation")]

    found = lesion(model, opposed, plan_of(max_networks=2), RUN)
    shown = [row for row in found.rows if row.split == "evaluation" and row.source == "network"]
    alone = {row.network: row.value for row in shown if row.experiment == "single"}
    assert found.order == sorted(alone, key=alone.get)
    curve = [row for row in shown if row.experiment == "removed"]
    assert [row.n_networks for row in curve] == [1, 2]
    assert curve[0].value == alone[found.order[0]] < alone[PLANTED]
    assert [effect.network for effect in summarise_lesions(found.rows)] == found.order


def test_the_model_is_as_before_also_when_a_condition_fails(folder: Path) -> None:
    model = load(folder)
    ids = torch.tensor([samples_of(folder, "evaluation")[0].ids])
    before, names = model(ids).logits, set(model.state_dict())
    lesion(model, measuring(folder, model), plan_of(), RUN)
    assert torch.equal(model(ids).logits, before)
    values = itertools.count()

    def breaks(split: str) -> list:
        if next(values) == 5:
            assert not torch.equal(model(ids).logits, before)
            raise KeyboardInterrupt
        return measuring(folder, model)(split)

    with pytest.raises(KeyboardInterrupt):
        lesion(model, breaks, plan_of(), RUN)
    assert torch.equal(model(ids).logits, before)
    assert set(model.state_dict()) == names


def test_equal_masks_are_measured_once(folder: Path) -> None:
    model = load(folder)
    asked: list[str] = []

    def counted(split: str) -> list:
        asked.append(split)
        return measuring(folder, model)(split)

    plan = plan_of(random_draws=1)
    found = lesion(model, counted, plan, RUN)
    # 25: the intact model; 3 single, 3 amplified, 3 removed, 3 kept, each with a random one.
    assert plan.n_conditions == 25
    assert len({(r.experiment, r.source, r.network, r.n_networks) for r in found.rows}) == 25
    # All kept is intact, one removed is that one alone, and all removed leaves random no choice.
    assert found.n_masks == 25 - 6
    assert (asked.count("ranking"), asked.count("evaluation")) == (4, 19)


def test_seeds_reproduce_bit_for_bit_and_change_the_random_sets_alone(
    folder: Path, tmp_path: Path
) -> None:
    def lines(name: str, *more: str) -> list[str]:
        assert run(folder, tmp_path / name, "--random-draws", "2", *more) == 0
        return (tmp_path / name).read_text().splitlines()

    first, again, other = lines("a"), lines("b"), lines("c", "--seed", "9")
    assert first == again
    assert len(first) == len(other)
    differ = {json.loads(a)["source"] for a, c in zip(first, other, strict=True) if a != c}
    assert differ == {"random"}
    # Runs of another seed have other random sets: 3 + 1 here as 4 + 0 there.
    fourth, shifted = (
        [row.value for row in read_lesions([tmp_path / name])]
        for name, *more in (("d", "--seed", "1"), ("e", "--run-seed", "4"))
        if lines(name, *more)
    )
    assert fourth == shifted


def test_accuracies_stand_beside_the_loss_of_the_evaluation_split(
    folder: Path, tmp_path: Path
) -> None:
    files = {name: folder / f"{name}.jsonl" for name in ("cloze", "gsm8k")}
    limits = ["--cloze-limit", "5", "--gsm8k-limit", "1", "--samples", "4", "--max-networks", "1"]
    limits += ["--random-draws", "1", "--max-new-tokens", "2", "--unmask-shares", "0.5"]
    assert run(folder, tmp_path / "l.jsonl", *limits, **files) == 0
    rows = read_lesions([tmp_path / "l.jsonl"])
    measured = {(r.split, r.benchmark, r.metric, r.n) for r in rows}
    assert measured == {
        ("ranking", "perplexity", "loss", 4),
        ("evaluation", "perplexity", "loss", 4),
        ("evaluation", "cloze", "accuracy", 5),
        ("evaluation", "gsm8k", "accuracy", 1),
    }
    notes = read_json(tmp_path / "l.jsonl.manifest.json")["notes"]
    assert notes["conditions"] == 19 and 10 < notes["masks_measured"] < 19
    assert notes["networks_by_effect"][0] == PLANTED
    assert notes["measuring_seconds"] > 0
    assert {r.model for r in rows} == {"tiny"} and {r.seed for r in rows} == {3}
    assert {"cloze", "gsm8k"} < set(summarise_lesions(rows)[0].amplified)


def test_networks_without_loadings_have_no_gradual_unmasking(folder: Path, tmp_path: Path) -> None:
    write_json(tmp_path / "plain.json", {"1": [3, 5]})
    assert run(folder, tmp_path / "l.jsonl", networks=tmp_path / "plain.json") == 0
    rows = read_lesions([tmp_path / "l.jsonl"])
    assert {r.experiment for r in rows} == {"intact", "single", "removed", "kept", "amplified"}
    notes = read_json(tmp_path / "l.jsonl.manifest.json")["notes"]
    assert "no loadings" in notes["unmasked"]


def test_strengths_are_the_largest_z_of_channels_that_vary() -> None:
    found = networks()
    analysis = found.analyses[0]
    partial = dataclasses.replace(
        analysis, layers=(1,), loadings=analysis.loadings[:, :WIDTH], members=analysis.members
    )
    for layers in ((0, 1), (1,)):
        known = found if len(layers) == 2 else dataclasses.replace(found, analyses=[partial])
        strengths = loading_strengths(known)
        loadings = known.analyses[0].loadings.astype(float)
        expected = []
        for channel in range(loadings.shape[1]):
            zs = [0.0]
            for row in loadings:
                used = [v for i, v in enumerate(row) if i != 5]
                mean = sum(used) / len(used)
                deviation = math.sqrt(sum((v - mean) ** 2 for v in used) / len(used))
                zs.append(abs(row[channel] - mean) / deviation if channel != 5 else 0.0)
            expected.append(max(zs))
        assert np.concatenate([strengths[layer] for layer in layers]) == pytest.approx(expected)
        assert [s is None for s in strengths] == [layer not in layers for layer in range(2)]


def test_a_layer_that_was_not_analysed_stays_whole_in_gradual_unmasking() -> None:
    plan = plan_of(strengths=[None, np.arange(WIDTH)])
    for condition, share in zip(plan.unmasked(), (0.1, 0.5), strict=True):
        assert condition.chosen[0].all()
        assert np.flatnonzero(condition.chosen[1]).tolist() == list(
            range(WIDTH - round(share * WIDTH), WIDTH)
        )


def test_the_strongest_are_counted_exactly_and_the_first_of_equals_win() -> None:
    strength = np.repeat([1.0, 3.0, 0.0], [10, 40, 10])
    assert np.flatnonzero(strongest(strength, 0.5)).tolist() == list(range(10, 40))
    assert not strongest(np.arange(8), 0.05).any()
    assert strongest(np.zeros(8), 1.0).all()


def test_the_loss_is_the_logarithm_of_the_perplexity_with_its_error() -> None:
    losses = SampleLosses(np.array([3.0, 8.5, 2.25]), np.array([4, 7, 2]))
    found = loss_of(losses)
    assert found.value == pytest.approx(math.log(losses.perplexity))
    assert found.stderr == pytest.approx(losses.perplexity_stderr / losses.perplexity)
    # A loss whose perplexity overflows is shifted by a constant a token, and its error is not.
    large = loss_of(dataclasses.replace(losses, nll=losses.nll + 5_000 * losses.tokens))
    assert (large.value, large.stderr) == pytest.approx((found.value + 5_000, found.stderr))


def test_a_loss_too_large_for_a_perplexity_is_valid_json(folder: Path, tmp_path: Path) -> None:
    broken = scaled_model(folder, tmp_path / "model", 1e6)
    json_networks = folder / "networks.json"
    more = ["--random-draws", "1", "--gain", "1e3"]
    output = tmp_path / "l.jsonl"
    assert run(folder, output, *more, model=broken, networks=json_networks) == 0
    values = [
        json.loads(line, parse_constant=pytest.fail)["value"]
        for line in output.read_text().splitlines()
    ]
    assert max(values) > 1_000  # exp of which overflows


def test_values_that_are_no_numbers_are_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = scaled_model(folder, tmp_path / "model", float("nan"))
    output = tmp_path / "out" / "l.jsonl"
    assert run(folder, output, model=broken, networks=folder / "networks.json") == 2
    assert "intact: loss: expected a number, found nan" in capsys.readouterr().err
    assert not output.parent.exists()


def scaled_model(folder: Path, output: Path, factor: float) -> Path:
    """The model with another scale of its logits."""
    model = load(folder)
    model.lm_head.weight.data *= factor
    model.save_pretrained(output)
    load_tokenizer(folder / "model").save_pretrained(output)
    return output


def test_bad_input_is_one_line_and_leaves_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    write_json(tmp_path / "first.json", {"0": [1, 2]})
    write_json(tmp_path / "wide.json", {"0": [64]})
    write_tiny_model(tmp_path / "other", seed=1)
    write_jsonl(tmp_path / "bad.jsonl", [{"prompt": "p"}])
    cases: list[tuple[dict[str, Path], list[str], str]] = [
        ({"networks": tmp_path / "first.json"}, ["--layers", "1"], "networks 0: expected at least"),
        ({"networks": tmp_path / "wide.json"}, [], "expected neurons 0 to 63, found 64"),
        ({"networks": tmp_path / "none.json"}, [], "no such file"),
        ({"model": tmp_path / "other"}, [], "made from model"),
        ({}, ["--layers", "1:4"], "layers: expected layers 0 to 1, found 3"),
        ({}, ["--random-draws", "0"], "random_draws: expected a value above 0"),
        ({}, ["--unmask-shares", "0.5", "0.1"], "unmask_shares: expected shares in ascending"),
        ({"ranking": tmp_path / "bad.jsonl"}, [], "bad.jsonl line 1"),
        ({"cloze": tmp_path / "bad.jsonl"}, [], "bad.jsonl line 1"),
    ]
    for files, words, message in cases:
        assert run(folder, tmp_path / "out" / "l.jsonl", *words, **files) == 2, message
        error = capsys.readouterr().err
        assert message in error and "Traceback" not in error
    assert not (tmp_path / "out").exists()


def planted_rows() -> list[Lesion]:
    """Two networks with random draws, whose order differs between the splits."""
    values = {
        ("ranking", None, None): 1.0,
        ("evaluation", None, None): 2.0,
        ("ranking", 7, None): 1.5,
        ("evaluation", 7, None): 2.25,
        ("evaluation", 7, 0): 2.25,
        ("evaluation", 7, 1): 2.0,
        ("ranking", 4, None): 1.25,
        ("evaluation", 4, None): 3.0,
        ("evaluation", 4, 0): 2.5,
        ("evaluation", 4, 1): 2.75,
        ("evaluation", 4, 2): 4.0,
    }
    rows = []
    for (split, network, draw), loss in values.items():
        common = {
            **RUN,
            "experiment": "intact" if network is None else "single",
            "source": "network" if draw is None else "random",
            "split": split,
            "draw": draw,
            "network": network,
            "n_networks": None,
            "share": None,
            "n_neurons": 0 if network is None else network,
            "n_all": 100,
            "stderr": 0.1,
            "n": 50,
        }
        rows.append(Lesion(**common, benchmark="perplexity", metric="loss", value=loss))
        if split == "evaluation":  # accuracies fall where the loss rises
            share = 1 - loss / 10
            rows.append(Lesion(**common, benchmark="cloze", metric="accuracy", value=share))
    return rows


def test_a_summary_ranks_by_one_split_and_compares_on_the_other() -> None:
    first, second = summarise_lesions(planted_rows())
    assert [(e.network, e.rank, e.n_neurons, e.share) for e in (first, second)] == [
        (7, 1, 7, 0.07),
        (4, 2, 4, 0.04),
    ]
    assert (first.ranking_effect, second.ranking_effect) == (0.5, 0.25)
    assert (first.effect, second.effect) == (0.25, 1.0)
    # An equal draw hurts as much; of accuracies the lower one is the worse one.
    assert (first.draws_as_bad, second.draws_as_bad) == (1, 1)
    cloze = second.removed["cloze"]
    assert (cloze.intact, cloze.value, cloze.draws_as_bad) == (0.8, 0.7, 1)
    draws = [0.75, 0.725, 0.6]
    mean = sum(draws) / 3
    assert cloze.random_mean == pytest.approx(mean)
    assert cloze.random_sd == pytest.approx(math.sqrt(sum((d - mean) ** 2 for d in draws) / 2))
    assert first.amplified == {}


def test_a_summary_keeps_models_and_seeds_apart() -> None:
    others = [dataclasses.replace(row, seed=4, value=2 * row.value) for row in planted_rows()]
    found = summarise_lesions([*others, *planted_rows()])
    assert [(e.seed, e.network, e.rank) for e in found] == [
        (4, 7, 1),
        (4, 4, 2),
        (3, 7, 1),
        (3, 4, 2),
    ]
    assert found[0].effect == 2 * found[2].effect


def test_rows_that_are_incomplete_or_doubled_are_refused() -> None:
    rows = planted_rows()
    for wrong in (rows[1:], rows + rows[:1], rows + rows[3:4], rows + rows[4:5], rows + rows[6:7]):
        with pytest.raises(InputError, match="lesions of tiny, stack, seed 3, .*: expected"):
            summarise_lesions(wrong)
    lost = (7, "evaluation", "perplexity")
    without_loss = [row for row in rows if (row.network, row.split, row.benchmark) != lost]
    with pytest.raises(InputError, match="its loss on the evaluation split"):
        summarise_lesions(without_loss)


def test_rows_are_read_as_they_were_written_and_bad_ones_are_named(tmp_path: Path) -> None:
    path = tmp_path / "l.jsonl"
    write_lesions(path, planted_rows())
    assert read_lesions([path, path]) == planted_rows() * 2
    write_lesions(path, [dataclasses.replace(planted_rows()[0], experiment="broken")])
    with pytest.raises(InputError, match=r"l.jsonl line 1: experiment: expected one of intact"):
        read_lesions([path])
