"""What the graph changes about a mask: against plain NumPy and unpadded gradients."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import write_tiny_model
from transformers import AutoModelForCausalLM

from fnsft.architectures import mlp_matrices
from fnsft.artifacts.graphs import CollaborationGraph, LayerGraph, read_graph, write_graph
from fnsft.artifacts.identity import model_identity
from fnsft.artifacts.measures import Measure, read_measures
from fnsft.artifacts.storage import read_json, write_jsonl
from fnsft.cli.main import main
from fnsft.cli.overlap import build_policies
from fnsft.config.stages import OverlapSettings
from fnsft.data.tokens import Encoded, load_split, load_tokenizer
from fnsft.errors import InputError
from fnsft.masks.gradients import accumulate_gradients
from fnsft.masks.overlap import compare_masks, compare_policies
from fnsft.masks.policies import MatrixStep
from fnsft.masks.selection import Selection
from fnsft.neurons.measures import MASK_MEASURES

TEXTS = ["Ada has 3 apples.", "Q", "Write a function of two numbers, please.", "How many?", "14"]


def masks_and_gradient() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    gradient = rng.standard_normal((9, 7)) * rng.lognormal(0, 2, (9, 7))
    return gradient, {name: rng.random((9, 7)) < 0.4 for name in ("highest", "collab", "random")}


def test_shares_are_counted_entry_by_entry() -> None:
    gradient, masks = masks_and_gradient()
    tensors = {name: torch.from_numpy(mask) for name, mask in masks.items()}
    found = compare_masks(torch.from_numpy(gradient), tensors)
    entries = [tuple(e) for e in np.argwhere(masks["collab"])]
    energy = sum(float(g) ** 2 for g in gradient.flat)
    expected = {
        f"mask_shared_with_{name}": sum(bool(masks[name][e]) for e in entries) / len(entries)
        for name in ("highest", "random")
    } | {
        f"gradient_energy_{name}": sum(float(gradient[tuple(e)]) ** 2 for e in np.argwhere(mask))
        / energy
        for name, mask in masks.items()
    }
    assert found == pytest.approx(expected, rel=1e-5)


def test_shares_of_nothing_are_left_out() -> None:
    gradient, masks = masks_and_gradient()
    tensors = {name: torch.from_numpy(mask) for name, mask in masks.items()}
    zeros = compare_masks(torch.zeros(9, 7), tensors)
    assert set(zeros) == {"mask_shared_with_highest", "mask_shared_with_random"}
    empty = compare_masks(
        torch.from_numpy(gradient), {name: torch.zeros(9, 7).bool() for name in masks}
    )
    assert empty == {f"gradient_energy_{name}": 0 for name in masks}


def encoded(model: Path, texts: list[str], folder: Path) -> tuple[Path, list[Encoded]]:
    path = folder / "train.jsonl"
    write_jsonl(path, [{"prompt": text, "completion": text[::-1]} for text in texts])
    return path, load_split(path, load_tokenizer(model), 1_024).samples


def slow_gradients(model: Any, batch: list[Encoded]) -> list[torch.Tensor]:
    """Gradients of the completions' negative log-likelihood, sample by sample, unpadded."""
    model.zero_grad()
    for sample in batch:
        logits = model(torch.tensor([sample.ids])).logits[0]
        first = len(sample.prompt_ids)
        nll = -logits.log_softmax(-1)[range(first - 1, len(sample.ids) - 1), sample.completion_ids]
        nll.sum().backward()
    return [m.view(m.parameter.grad).clone() for m in mlp_matrices(model)]


def test_gradients_are_those_of_the_completions_whatever_is_padded(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    _, batch = encoded(tiny_model_dir, TEXTS, tmp_path)
    assert len(batch) == 5  # two passes of at most four
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32).eval()
    accumulate_gradients(model, batch[:1])
    accumulate_gradients(model, batch)  # what the batch before left is gone
    found = [m.view(m.parameter.grad).clone() for m in mlp_matrices(model)]
    for one, expected in zip(found, slow_gradients(model, batch), strict=True):
        torch.testing.assert_close(one, expected, rtol=1e-4, atol=1e-6)


def test_a_loss_that_is_not_finite_is_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    _, batch = encoded(tiny_model_dir, TEXTS, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    model.lm_head.weight.data[0, 0] = torch.nan
    with pytest.raises(InputError, match="expected a finite loss, found nan"):
        accumulate_gradients(model, batch)


def ring_graph(model: Path, path: Path, n_layers: int, n_neurons: int, k: int = 4) -> Path:
    """Every neuron's neighbours are the next ``k``, the nearer the heavier."""
    following = (np.arange(n_neurons)[:, None] + np.arange(1, k + 1)) % n_neurons
    layer = LayerGraph(
        np.arange(0, k * n_neurons + 1, k),
        following.ravel().astype(np.int32),
        np.tile(np.arange(k, 0, -1), n_neurons).astype(np.float32),
    )
    graph = CollaborationGraph([layer] * n_layers, n_neurons, k)
    write_graph(path, graph, model_identity(model))
    return path


def overlap(model: Path, data: Path, graph: Path, output: Path, *flags: str) -> int:
    paths = ["--model", str(model), "--data", str(data), "--graph", str(graph)]
    names = ["--model-name", "tiny", "--task", "sums", "--graph-name", "paper", "--run-seed", "7"]
    return main(["overlap", *paths, *names, "--output", str(output), *flags])


SMALL = ["--batches", "2", "--batch-size", "2", "--k", "3", "--fraction", "0.6", "--lam", "0.7"]


def test_the_stage_is_the_definition_on_every_matrix(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The masks of highest and collab from sorted float64 scores, on the first two batches."""
    data, samples = encoded(tiny_model_dir, TEXTS, tmp_path)
    graph = ring_graph(tiny_model_dir, tmp_path / "graph.safetensors", 2, 64)
    output = tmp_path / "overlap.jsonl"
    assert overlap(tiny_model_dir, data, graph, output, *SMALL) == 0
    assert "6 matrices on 2 batches" in capsys.readouterr().err
    found = {(m.measure, m.layer, m.part): m for m in read_measures([output])}
    assert {name for name, _, _ in found} == set(MASK_MEASURES)
    assert len(found) == 7 * 6
    row = found["mask_shared_with_random", 1, "down"]
    assert (row.model, row.source, row.task, row.graph, row.seed, row.n) == (
        "tiny",
        "model",
        "sums",
        "paper",
        7,
        2,
    )
    w = sum(np.roll(np.eye(64), j, axis=1) * weight / 9 for j, weight in ((1, 4), (2, 3), (3, 2)))
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32).eval()
    batches = [slow_gradients(model, batch) for batch in (samples[:2], samples[2:4])]
    for number, matrix in enumerate(mlp_matrices(model)):
        shared, energies = [], []
        for gradients in batches:
            g = gradients[number].double().numpy()
            scores = 0.3 * abs(g) + 0.7 * (w @ abs(g) if matrix.role != "down" else abs(g) @ w.T)
            kept = round(0.6 * g.size)
            highest, collab = (
                set(np.argsort(-values.ravel())[:kept].tolist()) for values in (abs(g), scores)
            )
            shared.append(len(highest & collab) / kept)
            energies.append((g.ravel()[sorted(collab)] ** 2).sum() / (g**2).sum())
        for name, values in (
            ("mask_shared_with_highest", shared),
            ("gradient_energy_collab", energies),
        ):
            row = found[name, matrix.layer, matrix.role]
            assert row.value == pytest.approx(np.mean(values), abs=2e-3)
            assert row.stderr == pytest.approx(abs(values[0] - values[1]) / 2, abs=2e-3)


class Everything:
    """A policy that masks nothing and remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[MatrixStep] = []

    def select(self, gradient: torch.Tensor, at: MatrixStep) -> Selection:
        self.asked.append(at)
        return Selection(torch.ones_like(gradient, dtype=torch.bool))


def test_every_batch_is_a_step_of_its_own_and_updates_nothing(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    _, samples = encoded(tiny_model_dir, TEXTS, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    policy = Everything()
    matrices = mlp_matrices(model)
    found = compare_policies(model, matrices, {"collab": policy}, [samples[:2], samples[2:]])
    assert found == [{"gradient_energy_collab": [1, 1]}] * 6
    assert policy.asked == [
        MatrixStep(m.layer, m.neuron_axis, m.index, step) for step in (0, 1) for m in matrices
    ]
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_among_ties_the_random_mask_is_independent_of_the_others(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    graph = read_graph(ring_graph(tiny_model_dir, tmp_path / "graph.safetensors", 2, 64))
    policies = build_policies(graph, OverlapSettings(fraction=0.5, k=3), torch.device("cpu"))
    zeros, at = torch.zeros(64, 32), MatrixStep(layer=1, neuron_axis=0, index=4, step=2)
    masks = {name: policy.select(zeros, at).mask for name, policy in policies.items()}
    found = compare_masks(zeros, masks)
    assert found["mask_shared_with_random"] == pytest.approx(0.5, abs=0.05)
    assert found["mask_shared_with_highest"] == 1


def rows_of(path: Path, measure: str) -> list[Measure]:
    return [row for row in read_measures([path]) if row.measure == measure]


@pytest.mark.parametrize("fraction", ["0.3", "0.7"])
def test_random_masks_share_and_hold_what_chance_gives(
    fraction: str, tiny_model_dir: Path, tmp_path: Path
) -> None:
    data, _ = encoded(tiny_model_dir, TEXTS, tmp_path)
    graph = ring_graph(tiny_model_dir, tmp_path / "graph.safetensors", 2, 64)
    output = tmp_path / "overlap.jsonl"
    flags = ["--batch-size", "2", "--k", "4", "--fraction", fraction]
    assert overlap(tiny_model_dir, data, graph, output, *flags) == 0
    for row in rows_of(output, "mask_shared_with_random"):
        assert row.n == 3  # five samples, two a batch
        assert row.value == pytest.approx(float(fraction), abs=0.03)
    for row in rows_of(output, "gradient_energy_random"):
        assert row.value == pytest.approx(float(fraction), abs=0.08)
    best = rows_of(output, "gradient_energy_highest")
    for name in ("collab", "shuffled", "random"):
        for row, most in zip(rows_of(output, f"gradient_energy_{name}"), best, strict=True):
            assert row.value < most.value


def test_without_weight_on_neighbours_the_graph_changes_nothing(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    data, _ = encoded(tiny_model_dir, TEXTS, tmp_path)
    graph = ring_graph(tiny_model_dir, tmp_path / "graph.safetensors", 2, 64)
    output = tmp_path / "overlap.jsonl"
    assert overlap(tiny_model_dir, data, graph, output, *SMALL, "--lam", "0") == 0
    for name in ("mask_shared_with_highest", "mask_shared_with_shuffled"):
        assert [row.value for row in rows_of(output, name)] == [1] * 6


def test_a_trained_model_s_own_graph_is_compared(shared_data: Path, tmp_path: Path) -> None:
    """Shuffling the neurons changes some entries of the mask, and not most of them."""
    model = shared_data / "models" / "stories260k"
    data, _ = encoded(model, TEXTS, tmp_path)
    source = ["--model", str(model), "--data", str(data)]
    tokens, dump, graph = (tmp_path / name for name in ("t.safetensors", "dump", "g.safetensors"))
    assert main(["statistics", *source, "--output", str(tokens)]) == 0
    assert main(["capture", *source, "--output", str(dump)]) == 0
    inputs = ["--statistics", str(tokens), "--activations", str(dump), "--output", str(graph)]
    assert main(["project", *inputs]) == 0
    output = tmp_path / "overlap.jsonl"
    assert overlap(model, data, graph, output) == 0
    shared = rows_of(output, "mask_shared_with_shuffled")
    assert len(shared) == 15 and {row.part for row in shared} == {"gate", "up", "down"}
    assert all(0.7 < row.value < 1 for row in shared)
    notes = read_json(tmp_path / "overlap.jsonl.manifest.json")["notes"]
    assert notes == {"batches": 1, "samples": 5, "samples_left_out": 0}
    assert all(row.stderr is None for row in shared)


def test_a_graph_of_another_model_shape_or_with_too_few_neighbours_is_refused(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tiny_model(tmp_path / "other", seed=1)
    data, _ = encoded(tiny_model_dir, TEXTS, tmp_path)
    graph, output = tmp_path / "graph.safetensors", tmp_path / "overlap.jsonl"
    cases = [
        (tmp_path / "other", 2, 64, "made from model"),
        (tiny_model_dir, 1, 64, f"{graph}: expected 2 layers of 64 neurons, found 1 of 64"),
        (tiny_model_dir, 2, 32, f"{graph}: expected 2 layers of 64 neurons, found 2 of 32"),
        (tiny_model_dir, 2, 64, "k: expected at most the k_max=4 neighbours"),
    ]
    for model, n_layers, n_neurons, message in cases:
        ring_graph(model, graph, n_layers, n_neurons)
        assert overlap(tiny_model_dir, data, graph, output, "--k", "5") == 2
        assert message in capsys.readouterr().err
    assert not output.exists()
    assert read_graph(graph).k_max == 4
