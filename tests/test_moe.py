"""Mixtures of experts: every expert is an MLP of its own to graphs and to masks on weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from families import ALIKE, IDS, LAYERS, E, W, model_of, write_family
from neuron_runs import (
    assert_masks_are_the_reference,
    assert_same_bits,
    last_line,
    layers_of,
    made,
    token_ids,
    watched_steps,
)
from runs import train
from test_resume import assert_alike, kill_at
from torch import Tensor
from transformers import AutoModelForCausalLM

from fnsft.architectures import MLPMatrix, graph_shape, mlp_matrices
from fnsft.artifacts.graphs import read_graph
from fnsft.artifacts.training import read_training
from fnsft.cli.main import main
from fnsft.masks.masker import GradientMasker
from fnsft.masks.optimizer import MaskedAdamW
from fnsft.masks.policies import Highest, Momentum
from fnsft.neurons.strength import mean_activations

WIDTHS = {"Mixtral": 64, "Qwen3Moe": W}


def moe_of(family: str) -> Any:
    return model_of(family, **ALIKE[family])


@pytest.fixture(scope="module", params=ALIKE)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("moe") / request.param
    return write_family(path, request.param, **ALIKE[request.param])


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_family(tmp_path_factory.mktemp("moe") / "Mixtral", "Mixtral")


@pytest.fixture(scope="module")
def files(folder: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return made(folder, data, tmp_path_factory.mktemp("moe-files"))


def backward(model: Any, ids: Tensor = IDS) -> list[MLPMatrix]:
    """Return the matrices with the gradients of a loss."""
    model.zero_grad()
    model(input_ids=ids, labels=ids).loss.backward()
    return mlp_matrices(model)


@pytest.mark.parametrize("family", ALIKE)
def test_moe_matrices_share_memory_and_cover_every_entry_of_the_experts_once(family: str) -> None:
    model = moe_of(family)
    matrices, width = mlp_matrices(model), WIDTHS[family]
    assert graph_shape(model, "mlp") == (LAYERS * E, width)
    roles = ("gate", "up", "down")
    expected = [(layer, role) for layer in range(LAYERS * E) for role in roles]
    assert [(m.layer, m.role) for m in matrices] == expected
    assert [m.index for m in matrices] == list(range(len(matrices)))
    assert len({m.name for m in matrices}) == len(matrices)
    parameters = dict(model.named_parameters())
    covered = {name: torch.zeros_like(p) for name, p in parameters.items() if "experts" in name}
    for matrix in matrices:
        name = matrix.name.partition("[")[0]
        assert parameters[name] is matrix.parameter
        assert matrix.view(matrix.parameter).shape[matrix.neuron_axis] == width
        assert matrix.n_inputs == (width if matrix.role == "down" else 32)
        matrix.view(covered[name]).add_(1)
    assert len(covered) == 2 * LAYERS
    assert all((counts == 1).all() for counts in covered.values())


@pytest.mark.parametrize("family", ALIKE)
def test_lesioned_columns_of_a_moe_expert_are_its_neurons(family: str) -> None:
    """Gate and up are rows of one neuron, and its column of down undoes it as well as they do."""
    model = moe_of(family)
    with torch.no_grad():
        bare = model(IDS).logits
    of_role: dict[str, Tensor] = {}
    for matrix in mlp_matrices(model)[3 * (E + 2) : 3 * (E + 3)]:  # expert 2 of layer 1
        part = matrix.view(matrix.parameter.data).movedim(matrix.neuron_axis, 0)
        kept = part[[1, 5]].clone()
        part[[1, 5]] = 0
        with torch.no_grad():
            of_role[matrix.role] = model(IDS).logits
        part[[1, 5]] = kept
    assert (of_role["gate"] - bare).abs().max() > 1e-3
    for role in ("up", "down"):
        torch.testing.assert_close(of_role[role], of_role["gate"], rtol=1e-4, atol=1e-5)


def slow_activations(folder: Path, samples: list[tuple[int, ...]]) -> list[Tensor]:
    """Return act(gate x)·[routed], token by token and expert by expert, [tokens, w] an expert."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    found = []
    for layer in model.model.layers:
        inputs: list[Tensor] = []
        handle = layer.mlp.register_forward_pre_hook(lambda _, x, to=inputs: to.append(x[0][0]))
        with torch.no_grad():
            for ids in samples:
                model(input_ids=torch.tensor([ids]))
            handle.remove()
            x = torch.cat(inputs)
            chosen = layer.mlp.gate(x)[2]
        experts = layer.mlp.experts
        for expert in range(E):
            gate = experts.gate_up_proj[expert][: experts.gate_up_proj.shape[1] // 2]
            values = torch.zeros(len(x), len(gate))
            for token in range(len(x)):
                if expert in chosen[token]:
                    values[token] = experts.act_fn(gate @ x[token]).detach()
            found.append(values)
    return found


def test_bits_of_a_moe_dump_are_those_of_every_token_in_the_experts_it_is_routed_to(
    folder: Path, files: dict[str, Path], data: Path
) -> None:
    expected = slow_activations(folder, token_ids(folder, data))
    found = layers_of(files["dump"])
    assert len(found) == len(expected) == LAYERS * E
    assert 0.1 < sum(bits.mean() for bits in found) / len(found) < 0.4  # two experts of four
    for bits, values in zip(found, expected, strict=True):
        assert_same_bits(bits, values)


@pytest.mark.parametrize("family", ALIKE)
def test_moe_masks_are_the_top_of_every_experts_collaborative_score(family: str) -> None:
    model = moe_of(family)
    assert_masks_are_the_reference(backward(model), WIDTHS[family])


@pytest.mark.parametrize("policy", [Highest(0.3, 1), Momentum(0.3, 1, 0.9)], ids=str)
@pytest.mark.parametrize("applies_to", ["gradient", "update"])
def test_moe_experts_that_no_token_reached_keep_exact_counts_and_finite_weights(
    policy: Any, applies_to: str
) -> None:
    """Ties of zeros go by the hash. Only momentum and decay move such an expert, and only where
    a mask on the update lets them."""
    model = model_of("Mixtral", num_experts_per_tok=1)
    optimizer = MaskedAdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    unreached = 0
    for step, ids in enumerate((IDS, IDS[:1, :3], IDS[1:, :2])):
        matrices = backward(model, ids)
        masker = GradientMasker(matrices, policy)
        masker.require_finite()
        masks = masker.masks_at(step, optimizer.state)
        kept = [matrix.view(masks.get(matrix.parameter)).clone() for matrix in matrices]
        silent = [not matrix.view(matrix.parameter.grad).any() for matrix in matrices]
        unreached += sum(silent)
        before = [matrix.view(matrix.parameter.detach()).clone() for matrix in matrices]
        if applies_to == "update":
            optimizer.masks = masks
        else:
            masker.apply_to_gradients(step)
        optimizer.step()
        for matrix, mask, old in zip(matrices, kept, before, strict=True):
            new = matrix.view(matrix.parameter.detach())
            assert int(mask.sum()) == round(0.3 * mask.numel())
            assert new.isfinite().all()
            if applies_to == "update":
                assert torch.equal(new[~mask], old[~mask])
                assert (new[mask] != old[mask]).float().mean() > 0.9
    assert unreached >= 3 * 2 * LAYERS


def test_moe_runs_from_capture_to_training_hold_what_their_masks_leave_out(
    folder: Path,
    files: dict[str, Path],
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graph = read_graph(files["graph"])
    assert (graph.n_layers, graph.d_mlp) == (LAYERS * E, WIDTHS[folder.name])
    settings = {"method": "collab", "fraction": 0.3, "k": 5, "weight_decay": 0.1}
    settings |= {"graph": files["graph"], "applies_to": "update", "telemetry_steps": 1}
    with watched_steps(monkeypatch) as masks:
        assert train(folder, data, tmp_path / "run", **settings) == 0
    width = WIDTHS[folder.name]
    assert len(masks) == 4 * 2 * LAYERS
    for mask in masks:  # [E, 2 w, D] or [E, D, w]
        matrices = [part for expert in mask for part in (expert[:width], expert[width:])]
        if mask.shape[2] == width:
            matrices = list(mask)
        assert {int(part.sum()) for part in matrices} == {round(0.3 * width * 32)}
    assert read_training(tmp_path / "run").mask_pass_rate == pytest.approx(0.3, abs=1e-3)


METHODS: dict[str, dict[str, Any]] = {
    "collab-static": {"method": "collab-static", "calibration_samples": 5},
    "active-neurons": {"method": "active-neurons", "calibration_samples": 5},
    "lift": {"method": "lift", "lift_rank": 4},
    "child-tuning-d": {"method": "child-tuning-d", "fisher_samples": 2},
    "hft": {"method": "hft"},
}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_masks_moe_experts(
    mixtral: Path, data: Path, tmp_path: Path, name: str
) -> None:
    settings = METHODS[name] | {"max_steps": 2, "graph_samples": 5}
    assert train(mixtral, data, tmp_path / "run", **settings) == 0
    assert read_training(tmp_path / "run").mask_pass_rate == pytest.approx(0.5, abs=0.02)


def test_means_of_moe_neurons_are_over_all_tokens(mixtral: Path, data: Path) -> None:
    """Of what down reads: 0 where a token is not routed to the expert."""
    model = AutoModelForCausalLM.from_pretrained(mixtral, dtype=torch.float32).eval()
    samples = token_ids(mixtral, data)[:3]
    gates = slow_activations(mixtral, samples)
    inputs: list[list[Tensor]] = [[] for _ in range(LAYERS)]
    for layer, seen in zip(model.model.layers, inputs, strict=True):
        layer.mlp.register_forward_pre_hook(lambda _, x, to=seen: to.append(x[0][0]))
    with torch.no_grad():
        for ids in samples:
            model(input_ids=torch.tensor([ids]))
    read = [torch.cat(seen) for seen in inputs]
    for number, found in enumerate(mean_activations(model, samples)):
        layer, expert = divmod(number, E)
        up = model.model.layers[layer].mlp.experts.gate_up_proj[expert][64:].detach()
        expected = (gates[number] * (read[layer] @ up.T)).abs().mean(0)
        torch.testing.assert_close(torch.from_numpy(found).float(), expected, rtol=1e-3, atol=1e-5)


def test_an_interrupted_moe_run_ends_as_an_uninterrupted_one(
    mixtral: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A checkpoint holds experts as they are trained; one as they are published is refused."""
    settings = {"method": "mofo", "checkpoint_steps": 1, "telemetry_steps": 2, "validations": 2}
    assert train(mixtral, data, tmp_path / "whole", **settings) == 0
    kill_at(3, monkeypatch, lambda: train(mixtral, data, tmp_path / "resumed", **settings))
    saved = tmp_path / "resumed.checkpoints" / "checkpoint-2" / "model.safetensors"
    weights = saved.read_bytes()
    saved.write_bytes((mixtral / "model.safetensors").read_bytes())
    assert train(mixtral, data, tmp_path / "resumed", **settings) == 2
    assert "found model.layers.0.block_sparse_moe" in capsys.readouterr().err.splitlines()[-1]
    saved.write_bytes(weights)
    assert train(mixtral, data, tmp_path / "resumed", **settings) == 0
    assert_alike(tmp_path / "whole", tmp_path / "resumed")


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"mask_mode": "train-only", "method": "lora"}, "found a mixture of experts; graphs and masks"),
    ({"mask_mode": "train-only", "compact": True}, "compact: expected linear layers, found a mix"),
    ({"method": "ssu", "calibration_samples": 2}, "use column_score magnitude or random"),
]


@pytest.mark.parametrize(("settings", "message"), REFUSED)
def test_what_moe_experts_do_not_take_is_refused_in_one_line(
    mixtral: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    settings: dict[str, Any],
    message: str,
) -> None:
    if "mask_mode" in settings:
        networks = tmp_path / "networks.json"
        networks.write_text('{"0": [1, 70], "1": [200]}')
        settings = settings | {"networks": networks}
    assert train(mixtral, data, tmp_path / "run", **settings) == 2
    assert message in last_line(capsys)
    assert not (tmp_path / "run").exists() and not (tmp_path / "run.checkpoints").exists()


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("DeepseekV3", "expected routed experts alone, found shared ones of 48 neurons too"),
        ("Qwen3Moe", "found 1 of 64 neurons and 4 of 24 neurons"),
    ],
)
def test_a_dump_of_a_moe_whose_layers_differ_is_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], family: str, message: str
) -> None:
    folder = write_family(tmp_path / "model", family)
    flags = ["--model", folder, "--data", data / "train.jsonl", "--output", tmp_path / "dump"]
    assert main(["capture", *map(str, flags)]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "dump").exists()
