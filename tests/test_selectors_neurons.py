"""Selectors of whole neurons: their scores written out slowly, and what they let move."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import NETWORKS, train, weights
from transformers import AutoModelForCausalLM

from fnsft.architectures import mlp_matrices
from fnsft.artifacts.clusters import read_clusters
from fnsft.artifacts.training import read_training
from fnsft.config.stages import TrainSettings
from fnsft.data.tokens import Encoded, load_split, load_tokenizer
from fnsft.errors import InputError
from fnsft.masks.gradients import neuron_gradients
from fnsft.masks.ranking import highest, highest_clusters, ranked_count
from fnsft.neurons.strength import mean_activations

N, FRACTION = 64, 0.3


@pytest.fixture
def loaded(tiny_model_dir: Path, data: Path) -> tuple[Any, list[Encoded]]:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    samples = load_split(data / "train.jsonl", load_tokenizer(tiny_model_dir), 1024).samples
    return model, list(samples)


def slow_activations(model: Any, samples: list[list[int]]) -> np.ndarray:
    """The mean of |input of down|, [layers, N], of one unpadded sample after the other."""
    seen: list[list[torch.Tensor]] = [[] for _ in model.model.layers]
    hooks = [
        layer.mlp.down_proj.register_forward_pre_hook(
            lambda _, args, number=number: seen[number].append(args[0][0].abs())
        )
        for number, layer in enumerate(model.model.layers)
    ]
    for sample in samples:
        model(torch.tensor([sample]))
    for hook in hooks:
        hook.remove()
    return np.stack([torch.cat(values).double().mean(0).detach().numpy() for values in seen])


def chosen_of(scores: np.ndarray, count: int) -> list[set[int]]:
    return [set(sorted(range(N), key=lambda i: -layer[i])[:count]) for layer in scores]


def moved_neurons(before: dict[str, Any], after: dict[str, Any], layer: int) -> list[set[int]]:
    """The neurons of which something moved, and those of which all did, in gate, up and down."""
    path = f"model.layers.{layer}.mlp."
    changed = [
        before[f"{path}{role}_proj.weight"] != after[f"{path}{role}_proj.weight"]
        for role in ("gate", "up", "down")
    ]
    by_neuron = torch.cat([changed[0], changed[1], changed[2].T], dim=1)
    some, every = by_neuron.any(1), by_neuron.float().mean(1) > 0.9
    return [set(mask.nonzero().flatten().tolist()) for mask in (some, every)]


def test_activity_is_the_mean_over_tokens_and_never_over_padding(loaded) -> None:
    model, samples = loaded
    uneven = [[*sample.ids, *sample.ids[: number % 5]] for number, sample in enumerate(samples)]
    found = np.stack(mean_activations(model, uneven))
    np.testing.assert_allclose(found, slow_activations(model, uneven), rtol=1e-4)


@pytest.mark.parametrize("polarity", ["train", "protect"])
def test_a_share_of_exactly_p_trains_in_either_polarity(polarity) -> None:
    for n in range(1, 60):
        for fraction in (0.1, 0.3, 0.5, 0.7):
            ranked = ranked_count(n, fraction, polarity)
            assert (ranked if polarity == "train" else n - ranked) == round(fraction * n)


def test_the_highest_scores_are_taken_and_ties_fall_differently_in_every_layer() -> None:
    scores = np.random.default_rng(0).random(50)
    assert set(np.flatnonzero(highest(scores, 7, 0, 0))) == set(np.argsort(scores)[-7:])
    scores = np.array([2.0] * 3 + [1.0] * 40 + [0.5] * 7)
    draws = {highest(scores, 13, seed, layer).tobytes() for seed in (0, 1) for layer in (0, 1)}
    assert len(draws) == 4
    for draw in map(np.frombuffer, draws, [bool] * 4):
        assert draw[:3].all() and draw[3:43].sum() == 10


@pytest.mark.parametrize("polarity", ["train", "protect"])
def test_active_neurons_alone_train_or_are_protected_to_the_bit(
    tiny_model_dir: Path, data: Path, tmp_path: Path, loaded, polarity: str
) -> None:
    settings = {"method": "active-neurons", "fraction": FRACTION, "calibration_samples": 9}
    settings |= {"epochs": 2, "weight_decay": 0.1, "polarity": polarity}
    assert train(tiny_model_dir, data, tmp_path / "run", **settings) == 0
    before, after = weights(tiny_model_dir), weights(tmp_path / "run")
    model, samples = loaded
    count = ranked_count(N, FRACTION, polarity)
    chosen = chosen_of(slow_activations(model, [sample.ids for sample in samples[:9]]), count)
    for layer, ranked in enumerate(chosen):
        trained = ranked if polarity == "train" else set(range(N)) - ranked
        assert len(trained) == round(FRACTION * N)
        assert moved_neurons(before, after, layer) == [trained, trained]
    others = [name for name in before if ".mlp." not in name]
    moved = [not torch.equal(before[name], after[name]) for name in others]
    assert not any(moved) if polarity == "train" else any(moved)
    notes = json.loads((tmp_path / "run.manifest.json").read_text())["notes"]
    assert notes["ranked_highest"] == [count, count]
    assert read_training(tmp_path / "run").mask_pass_rate == pytest.approx(FRACTION, abs=0.01)


@pytest.mark.parametrize("compact", [False, True])
def test_a_share_of_no_neuron_is_refused(
    tiny_model_dir: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    compact: bool,
) -> None:
    settings = {"method": "active-neurons", "fraction": 0.001, "calibration_samples": 2}
    assert train(tiny_model_dir, data, tmp_path / "run", **settings, compact=compact) == 2
    error = capsys.readouterr().err
    assert f"found p=0.001 of {N}, of which none would train; raise --fraction" in error
    assert not (tmp_path / "run").exists()


def test_networks_polarity_is_what_train_only_and_freeze_say() -> None:
    for polarity, mode, rest in (("train", "train-only", "freeze"), ("protect", "freeze", "train")):
        for method in ("sft", "lora"):
            one, other = (
                TrainSettings(method, polarity=polarity),
                TrainSettings(method, mask_mode=mode),
            )
            assert one == other
            assert (one.mask_mode, one.polarity, one.unmasked) == (mode, polarity, rest)
            assert one.flags() == other.flags()
    assert TrainSettings(mask_mode="lesion").polarity is None
    assert TrainSettings("active-neurons").polarity == "train"


def test_protected_networks_stay_to_the_bit_by_their_polarity_alone(
    tiny_model_dir: Path, data: Path, networks: Path, tmp_path: Path
) -> None:
    settings = {"polarity": "protect", "networks": networks, "component_ids": [0]}
    assert train(tiny_model_dir, data, tmp_path / "run", **settings) == 0
    before, after = weights(tiny_model_dir), weights(tmp_path / "run")
    for layer, listed in NETWORKS[0].items():
        assert moved_neurons(before, after, layer)[0] == set(range(N)) - set(listed)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mask_mode": "freeze", "polarity": "train"}, "'freeze' says 'protect', found 'train'"),
        ({"mask_mode": "lesion", "polarity": "train"}, "polarity: is about networks whose weights"),
        ({"method": "random", "polarity": "train"}, "polarity: .* found method 'random'"),
        ({"method": "active-neurons", "applies_to": "gradient"}, "'active-neurons' leaves entries"),
        ({"method": "active-neurons", "structure": "first"}, "structure: active-neurons draws"),
    ],
)
def test_a_selector_of_neurons_refuses_what_it_cannot_be(given, message) -> None:
    with pytest.raises(InputError, match=message):
        TrainSettings(**given)


def slow_gradients(model: Any, samples: list[Encoded]) -> np.ndarray:
    """The mean |gradient| of every neuron's weights, [layers, N], of the summed loss."""
    model.zero_grad()
    for sample in samples:
        logits = model(torch.tensor([sample.ids])).logits[0].log_softmax(-1)
        first = len(sample.prompt_ids)
        loss = -sum(logits[p - 1, sample.ids[p]] for p in range(first, len(sample.ids)))
        loss.backward()
    found = []
    for layer in model.model.layers:
        parts = [getattr(layer.mlp, f"{role}_proj").weight.grad for role in ("gate", "up", "down")]
        rows = torch.cat([parts[0], parts[1], parts[2].T], dim=1).double().abs()
        found.append([float(sum(row) / len(row)) for row in rows])
    return np.array(found)


def test_a_neuron_s_gradient_is_the_mean_over_its_weights_and_leaves_the_model_alone(
    loaded,
) -> None:
    model, samples = loaded
    model.train()
    model.model.norm.weight.requires_grad_(False)
    found = neuron_gradients(model, mlp_matrices(model), samples[:5])
    assert model.training and all(p.grad is None for p in model.parameters())
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["model.norm.weight"]
    np.testing.assert_allclose(np.stack(found), slow_gradients(model, samples[:5]), rtol=1e-3)


def nearest_prefix(scores: np.ndarray, labels: np.ndarray, count: int) -> set[int]:
    """Whole clusters in order of their mean, as many as come nearest to the count."""
    names = [f"own {i}" if label < 0 else int(label) for i, label in enumerate(labels)]
    members = {name: [i for i, n in enumerate(names) if n == name] for name in names}
    order = sorted(members, key=lambda name: -np.mean(scores[members[name]]))
    prefixes = [
        {i for name in order[:taken] for i in members[name]} for taken in range(1, len(order))
    ]
    return min(prefixes, key=lambda prefix: abs(len(prefix) - count))


@pytest.mark.parametrize("seed", range(8))
def test_clusters_are_taken_whole_and_come_as_near_as_they_can(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, scores = rng.integers(-1, 6, 40), rng.random(40)
    for count in range(41):
        found = set(np.flatnonzero(highest_clusters(scores, labels, count)))
        assert found == nearest_prefix(scores, labels, count)


def test_of_equal_clusters_the_first_is_taken_and_never_all_or_none() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2])
    for count, expected in ((0, 3), (3, 3), (4, 3), (5, 5), (6, 5)):
        assert np.flatnonzero(highest_clusters(np.ones(6), labels, count)).tolist() == list(
            range(expected)
        )


@pytest.mark.parametrize("polarity", ["train", "protect"])
def test_the_clusters_of_highest_gradient_train_or_are_protected(
    tiny_model_dir: Path, data: Path, clusters: Path, tmp_path: Path, loaded, polarity: str
) -> None:
    settings = {"method": "collab-static", "fraction": FRACTION, "calibration_samples": 9}
    settings |= {"clusters": clusters, "polarity": polarity, "weight_decay": 0.1, "epochs": 2}
    assert train(tiny_model_dir, data, tmp_path / "run", **settings) == 0
    before, after = weights(tiny_model_dir), weights(tmp_path / "run")
    model, samples = loaded
    scores, parts = slow_gradients(model, samples[:9]), read_clusters(clusters).layers
    for layer, part in enumerate(parts):
        count = ranked_count(N, FRACTION, polarity)
        ranked = nearest_prefix(scores[layer], part.labels, count)
        trained = ranked if polarity == "train" else set(range(N)) - ranked
        assert 0 < len(trained) < N
        assert moved_neurons(before, after, layer) == [trained, trained]


def test_static_clusters_are_made_of_the_training_samples_when_none_are_given(
    tiny_model_dir: Path, data: Path, tmp_path: Path
) -> None:
    settings = {"method": "collab-static", "fraction": 0.5, "calibration_samples": 4}
    assert train(tiny_model_dir, data, tmp_path / "run", **settings) == 0
    assert (tmp_path / "run" / "clusters.safetensors").is_file()
