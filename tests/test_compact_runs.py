"""``fnsft train --compact``: equal to the masked run, small on the disk, refused elsewhere."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import in_processes
from runs import train, weights, words
from safetensors import safe_open
from test_deltas import apply, export, same_bits, tensors_of
from test_resume import kill_at
from test_selective import family_dir, listed, parts_of, perplexity_of
from test_training_sharded import twelve

from fnsft.artifacts.telemetry import read_neuron_updates
from fnsft.artifacts.training import read_training
from fnsft.config.stages import TrainSettings
from fnsft.errors import InputError
from fnsft.evaluation.loading import load_model
from fnsft.training.compact import FILE_NAME

__all__ = ["family_dir", "twelve"]
ONLY = {"mask_mode": "train-only", "component_ids": (0, 2), "epochs": 2, "weight_decay": 0.1}
# Clipping by a norm that every step exceeds: a factor of its own for each of them.
RUNS: dict[str, dict[str, Any]] = {
    "GPT2": ONLY | {"max_grad_norm": 0.1},
    "Phi3": ONLY | {"max_grad_norm": 0.1, "gradient_checkpointing": True},
    "biases": ONLY | {"max_grad_norm": 0.1, "mask_mode": "freeze"},
}
MORE = [
    {"max_grad_norm": 0, "mask_before_clipping": False, "random_networks": True},
    {"unmasked": "train", "max_grad_norm": 0.1, "l2_to_start": 0.1, "average_with_start": 0.3},
    {"moments": "frozen", "max_grad_norm": 0.1, "mask_layers": "1"},
]


def assert_equal_runs(folder: Path, masked: Path, compact: Path, trained: list[Any]) -> None:
    """Compare weights, inside of the mask by tolerance and outside by bits, and curves."""
    one, other = (read_training(path) for path in (masked, compact))
    for losses in ("train_loss", "validation"):
        found = [[point["loss"] for point in getattr(r, losses)] for r in (one, other)]
        assert found[1] == pytest.approx(found[0], rel=1e-5), losses
    assert other.mask_pass_rate == pytest.approx(one.mask_pass_rate)
    (_, before), (wanted, expected), (model, after) = map(parts_of, (folder, masked, compact))
    for (matrix, was), (_, there), (_, now) in zip(before, expected, after, strict=True):
        chosen = trained[matrix.layer]
        assert torch.equal(now[~chosen].view(torch.int32), was[~chosen].view(torch.int32))
        torch.testing.assert_close(now[chosen], there[chosen], rtol=1e-4, atol=1e-5)
        assert (now[chosen] != was[chosen]).float().mean().nan_to_num(1) > 0.9, matrix.name
    others = dict(wanted.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, others[name], rtol=1e-4, atol=1e-5)
    updates = [read_neuron_updates(path) for path in (masked, compact)]
    assert (updates[0].share == updates[1].share).all()
    assert updates[0].recorded_steps == updates[1].recorded_steps


@pytest.mark.parametrize("family", RUNS)
def test_a_compact_run_ends_as_the_masked_one_and_leaves_the_same_bits_alone(
    family_dir: Callable[[str], Path], data: Path, networks: Path, tmp_path: Path, family: str
) -> None:
    folder, settings = family_dir(family), RUNS[family] | {"networks": networks}
    assert train(folder, data, tmp_path / "masked", **settings) == 0
    assert train(folder, data, tmp_path / "compact", compact=True, **settings) == 0
    trained = listed(0, 2)
    if settings["mask_mode"] == "freeze":
        trained = [~layer for layer in trained]
    assert_equal_runs(folder, tmp_path / "masked", tmp_path / "compact", trained)
    assert "trained_" not in " ".join(weights(tmp_path / "compact"))
    record = read_training(tmp_path / "compact")
    found = perplexity_of(load_model(tmp_path / "compact", "float32"), data, folder)
    assert found == pytest.approx(record.best_validation_perplexity, rel=1e-6)


@pytest.mark.parametrize("given", MORE, ids=lambda given: "-".join(given))
def test_with_other_settings_too(
    tiny_model_dir: Path, data: Path, networks: Path, tmp_path: Path, given: dict[str, Any]
) -> None:
    settings = ONLY | {"networks": networks} | given
    assert train(tiny_model_dir, data, tmp_path / "masked", **settings) == 0
    assert train(tiny_model_dir, data, tmp_path / "compact", compact=True, **settings) == 0
    share = read_neuron_updates(tmp_path / "masked").share
    trained = list(torch.from_numpy(share == 1))
    assert 0 < sum(int(layer.sum()) for layer in trained) < share.size
    assert_equal_runs(tiny_model_dir, tmp_path / "masked", tmp_path / "compact", trained)


@pytest.mark.parametrize("polarity", ["train", "protect"])
def test_neurons_that_a_method_ranks_train_as_slices_too(
    tiny_model_dir: Path, data: Path, tmp_path: Path, polarity: str
) -> None:
    settings = {"method": "active-neurons", "fraction": 0.25, "polarity": polarity}
    settings |= {"max_grad_norm": 0.1, "unmasked": "freeze"}
    assert train(tiny_model_dir, data, tmp_path / "masked", **settings) == 0
    assert train(tiny_model_dir, data, tmp_path / "compact", compact=True, **settings) == 0
    trained = list(torch.from_numpy(read_neuron_updates(tmp_path / "masked").share == 1))
    assert [int(layer.sum()) for layer in trained] == [16, 16]
    assert_equal_runs(tiny_model_dir, tmp_path / "masked", tmp_path / "compact", trained)


@pytest.mark.parametrize("family", ["biases", "GPT2"])
@pytest.mark.parametrize("polarity", ["train", "protect"])
def test_columns_that_a_method_ranks_train_as_slices_too(
    family_dir: Callable[[str], Path], data: Path, tmp_path: Path, family: str, polarity: str
) -> None:
    """With the other weights frozen and not; clipped in every step."""
    settings = {"method": "ssu", "fraction": 0.25, "polarity": polarity, "max_grad_norm": 0.1}
    folder, settings = family_dir(family), settings | {"weight_decay": 0.1, "epochs": 2}
    assert train(folder, data, tmp_path / "masked", **settings) == 0
    assert train(folder, data, tmp_path / "compact", compact=True, **settings) == 0
    one, other = (read_training(tmp_path / name) for name in ("masked", "compact"))
    for losses in ("train_loss", "validation"):
        found = [[point["loss"] for point in getattr(r, losses)] for r in (one, other)]
        assert found[1] == pytest.approx(found[0], rel=1e-5), losses
    assert other.mask_pass_rate == pytest.approx(one.mask_pass_rate) == 0.25
    starts = (folder, tmp_path / "masked", tmp_path / "compact")
    (_, before), (wanted, expected), (model, after) = map(parts_of, starts)
    for (matrix, was), (_, there), (_, now) in zip(before, expected, after, strict=True):
        if matrix.parameter.ndim == 1:
            continue
        axis = 1 if matrix.role != "down" else 0  # of parts with neurons first
        moved = [(part != was).any(dim=1 - axis) for part in (there, now)]
        assert int(moved[0].sum()) == len(moved[0]) // 4
        assert torch.equal(*moved), matrix.name
    others = dict(wanted.named_parameters())
    for name, parameter in model.named_parameters():  # a twentieth of one step
        torch.testing.assert_close(parameter, others[name], rtol=0, atol=5e-5)


def test_columns_of_a_gate_and_an_up_in_one_parameter_are_refused(
    family_dir: Callable[[str], Path],
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert train(family_dir("Phi3"), data, tmp_path / "run", method="ssu", compact=True) == 2
    said = capsys.readouterr().err
    assert "gate_up_proj" in said and "found gate and up in one parameter" in said
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_and_a_delta_hold_what_trains_alone(
    tiny_model_dir: Path,
    data: Path,
    networks: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = ONLY | {"networks": networks, "compact": True, "checkpoint_steps": 2}
    run = tmp_path / "run"
    kill_at(6, monkeypatch, lambda: train(tiny_model_dir, data, run, **settings))
    (checkpoint,) = (tmp_path / "run.checkpoints").glob("checkpoint-*")
    with safe_open(checkpoint / FILE_NAME, "pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    n = [int(layer.sum()) for layer in listed(0, 2)]
    prefix = "model.layers.{}.mlp.{}_proj.trained_weight"
    assert shapes == {
        prefix.format(layer, role): [n[layer], 32] if role != "down" else [32, n[layer]]
        for layer in range(2)
        for role in ("gate", "up", "down")
    }
    state = torch.load(checkpoint / "optimizer.pt", weights_only=True)["state"]
    moments = [state[i][name].numel() for i in state for name in ("exp_avg", "exp_avg_sq")]
    assert sum(moments) == 2 * 3 * 32 * sum(n)
    assert not [path for path in checkpoint.iterdir() if path.name.startswith("model")]
    assert train(tiny_model_dir, data, run, **settings) == 0
    assert export(run, tiny_model_dir, tmp_path / "delta") == 0
    assert apply(tiny_model_dir, tmp_path / "delta", tmp_path / "again") == 0
    assert same_bits(tensors_of(tmp_path / "again"), tensors_of(run))
    size = (tmp_path / "delta" / "delta.safetensors").stat().st_size
    assert size < 0.9 * 4 * sum(w.numel() for w in tensors_of(run).values())


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({}, "found method 'sft'; use method sft with mask_mode train-only or freeze"),
        ({"method": "random"}, "found method 'random'"),
        ({"method": "active-neurons", "neurons": "heads"}, "expected slices of MLPs, found neur"),
        ({"mask_mode": "lesion"}, "found method 'sft' with mask_mode 'lesion'"),
        ({"mask_mode": "train-only", "method": "lora"}, "found method 'lora' with mask_mode"),
        ({"mask_mode": "train-only", "unfreeze": ("1",)}, "found unfreeze, by which more join"),
        (
            {"mask_mode": "freeze", "mask_before_clipping": False},
            "expected mask_before_clipping, or max_grad_norm 0",
        ),
    ],
)
def test_masks_that_change_or_are_no_neurons_are_refused(given: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError, match="compact: .*") as found:
        TrainSettings(compact=True, **given)
    assert line in str(found.value)


def test_fsdp2_is_refused_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = tmp_path / "nowhere"
    settings = {"mask_mode": "train-only", "compact": True}
    assert train(nowhere, nowhere, tmp_path / "run", processes=2, **settings) == 2
    said = capsys.readouterr().err
    assert "found FSDP2 over 2 processes; use --parallel ddp" in said and said.count("\n") == 1
    monkeypatch.setenv("WORLD_SIZE", "3")  # as torchrun sets it
    assert train(nowhere, nowhere, tmp_path / "run", **settings) == 2
    assert "found FSDP2 over 3 processes" in capsys.readouterr().err


@pytest.mark.processes
def test_two_processes_train_the_same_slices_as_one(
    tiny_model_dir: Path, twelve: Path, networks: Path, tmp_path: Path
) -> None:
    settings = ONLY | {"networks": networks, "compact": True, "micro_batch_size": 1}
    assert train(tiny_model_dir, twelve, tmp_path / "one", **settings) == 0
    arguments = words(tiny_model_dir, twelve, tmp_path / "two", parallel="ddp", **settings)
    code, said = in_processes(2, ["-m", "fnsft", *arguments])
    assert code == 0, said
    one, two = (weights(tmp_path / name) for name in ("one", "two"))
    for name in one:
        torch.testing.assert_close(two[name], one[name], atol=2e-4, rtol=0)
