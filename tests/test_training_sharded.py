"""Runs that two processes share: DDP and FSDP2, on gloo."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from families import write_family
from ranks import PROGRAMS, in_processes
from runs import first_samples, train, weights, words
from test_resume import assert_alike
from test_selective import listed, parts_of

from fnsft.artifacts.training import read_training

pytestmark = pytest.mark.processes
COLLAB = {"method": "collab", "fraction": 0.5, "affinity": "knn", "k": 5, "max_grad_norm": 0.5}
RUN = COLLAB | {"epochs": 7, "telemetry_steps": 3, "learning_rate": 3e-4, "micro_batch_size": 1}


@pytest.fixture(scope="module")
def twelve(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve samples: three full batches an epoch, 21 steps in seven of them."""
    return first_samples(data, 12, tmp_path_factory.mktemp("twelve"))


CHECKPOINTING = {"gradient_checkpointing": True, "l2_to_start": 0.01}


@pytest.mark.parametrize(("parallel", "more"), [("ddp", {}), ("fsdp", {}), ("fsdp", CHECKPOINTING)])
def test_twenty_steps_in_two_processes_are_those_of_one(
    tiny_model_dir: Path,
    twelve: Path,
    graph: Path,
    tmp_path: Path,
    parallel: str,
    more: dict[str, Any],
) -> None:
    settings = RUN | {"graph": graph, "applies_to": "update"} | more
    assert train(tiny_model_dir, twelve, tmp_path / "one", **settings) == 0
    settings |= {"parallel": parallel}
    arguments = words(tiny_model_dir, twelve, tmp_path / "two", **settings)
    code, said = in_processes(2, [*PROGRAMS[parallel], *arguments])
    assert code == 0, said
    one, two = (read_training(tmp_path / name) for name in ("one", "two"))
    assert two.optimizer_steps == one.optimizer_steps == 21
    for losses in ("train_loss", "validation"):
        found = [[point["loss"] for point in getattr(record, losses)] for record in (one, two)]
        assert found[1] == pytest.approx(found[0], abs=1e-4), losses
    assert two.mask_pass_rate == one.mask_pass_rate
    before, after = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name in before:
        torch.testing.assert_close(after[name], before[name], atol=2e-4, rtol=0)
    shares = {"one": (1, 4, 4), "two": (2, 2, 4)}
    for name, wanted in shares.items():
        notes = json.loads((tmp_path / f"{name}.manifest.json").read_text())["notes"]
        fields = ("processes", "accumulation_steps", "global_batch_size")
        assert tuple(notes[field] for field in fields) == wanted
    assert sorted(p.name for p in (tmp_path / "two").iterdir()) == sorted(
        p.name for p in (tmp_path / "one").iterdir()
    )
    assert not (tmp_path / "two.checkpoints").exists()


def test_a_mixture_of_experts_that_two_processes_share_trains_as_in_one(
    twelve: Path, tmp_path: Path
) -> None:
    folder = write_family(tmp_path / "model", "Mixtral")
    settings = {"method": "mofo", "fraction": 0.5, "applies_to": "update", "epochs": 3}
    settings |= {"learning_rate": 3e-4, "micro_batch_size": 1}
    assert train(folder, twelve, tmp_path / "one", **settings) == 0
    arguments = words(folder, twelve, tmp_path / "two", **settings)
    code, said = in_processes(2, [*PROGRAMS["fsdp"], *arguments])
    assert code == 0, said
    one, two = (read_training(tmp_path / name) for name in ("one", "two"))
    assert two.mask_pass_rate == one.mask_pass_rate == pytest.approx(0.5, abs=1e-3)
    start, before, after = (weights(path) for path in (folder, tmp_path / "one", tmp_path / "two"))
    for name in before:
        torch.testing.assert_close(after[name], before[name], atol=2e-4, rtol=0)
        moved = (before[name] != start[name]) != (after[name] != start[name])
        assert float(moved.float().mean()) < 1e-3, name  # sums in another order, near a threshold


def test_one_process_finds_the_networks_whose_lesion_both_train_with(
    tiny_model_dir: Path, twelve: Path, tmp_path: Path
) -> None:
    settings = {"mask_mode": "lesion", "component_ids": (0, 1, 2), "micro_batch_size": 1}
    settings |= {"epochs": 3, "learning_rate": 3e-4}
    assert train(tiny_model_dir, twelve, tmp_path / "one", **settings) == 0
    arguments = words(tiny_model_dir, twelve, tmp_path / "two", parallel="ddp", **settings)
    code, said = in_processes(2, ["-m", "fnsft", *arguments])
    assert code == 0, said
    assert said.count("lesion: ") == 2, "one line a layer"
    for file in ("networks.json", "forward_mask.safetensors"):
        one, two = ((tmp_path / name / file).read_bytes() for name in ("one", "two"))
        assert one == two
    before, after = (read_training(tmp_path / name) for name in ("one", "two"))
    for losses in ("train_loss", "validation"):
        found = [[point["loss"] for point in getattr(r, losses)] for r in (before, after)]
        assert found[1] == pytest.approx(found[0], abs=1e-4), losses


def test_under_fsdp2_the_rows_biases_and_columns_of_a_network_move_alone(
    twelve: Path, networks: Path, tmp_path: Path
) -> None:
    folder, output = tmp_path / "model", tmp_path / "run"
    write_family(folder, family="Llama", mlp_bias=True)
    settings = {"mask_mode": "train-only", "networks": networks, "unfreeze": (2,), "epochs": 2}
    settings |= {"weight_decay": 0.1, "max_grad_norm": 0.1, "micro_batch_size": 1}
    code, said = in_processes(2, [*PROGRAMS["fsdp"], *words(folder, twelve, output, **settings)])
    assert code == 0, said
    assert train(folder, twelve, tmp_path / "one", **settings) == 0
    one, two = weights(tmp_path / "one"), weights(output)
    for name in one:  # clipped by the same norm
        torch.testing.assert_close(two[name], one[name], atol=2e-4, rtol=0)
    (old, before), (new, after) = parts_of(folder), parts_of(output)
    assert [matrix.parameter.ndim for matrix, _ in before] == [2] * 6 + [1] * 4
    for (matrix, was), (_, now) in zip(before, after, strict=True):
        moved = (was != now).any(dim=1)
        assert torch.equal(moved, listed(0, 2)[matrix.layer]), matrix.name
    moved_elsewhere = [
        name
        for (name, was), now in zip(old.named_parameters(), new.parameters(), strict=True)
        if not torch.equal(was, now) and (".mlp." not in name or "down_proj.bias" in name)
    ]
    assert moved_elsewhere == []


KILLED: dict[str, dict[str, Any]] = {
    "collab": {"method": "collab", "fraction": 0.5, "affinity": "knn", "k": 5},
    "child-tuning-d": {"method": "child-tuning-d", "fraction": 0.5},
    "unfreeze": {"mask_mode": "train-only", "unfreeze": (1,)},
    "lesion": {"method": "random", "fraction": 0.5, "mask_mode": "lesion"},
}


@pytest.mark.faults
@pytest.mark.parametrize("name", KILLED)
def test_a_run_under_fsdp2_that_is_killed_ends_as_one_that_is_not(
    tiny_model_dir: Path, twelve: Path, graph: Path, tmp_path: Path, name: str
) -> None:
    settings: dict[str, Any] = {"epochs": 2, "checkpoint_steps": 2, "telemetry_steps": 2}
    settings |= {"applies_to": "update", "moments": "frozen"} | KILLED[name]
    settings |= {"graph": graph} if name == "collab" else {}
    program = PROGRAMS["fsdp"]
    whole, resumed = (
        words(tiny_model_dir, twelve, tmp_path / name, **settings) for name in ("whole", "resumed")
    )
    code, said = in_processes(2, [*program, *whole])
    assert code == 0, said
    code, _ = in_processes(2, [*program, *resumed], DIE_AT="5")
    assert code != 0 and not (tmp_path / "resumed").exists()
    code, said = in_processes(2, [*program, *resumed])
    assert code == 0, said
    notes = json.loads((tmp_path / "resumed.manifest.json").read_text())["notes"]
    assert notes["resumed_from"] == "checkpoint-4"
    assert_alike(tmp_path / "whole", tmp_path / "resumed")


def test_processes_start_with_one_flag_and_fsdp2_without_an_accelerator_is_refused(
    tiny_model_dir: Path, twelve: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    if torch.accelerator.is_available():
        pytest.skip("there is an accelerator")
    assert train(tiny_model_dir, twelve, tmp_path / "run", processes=2, parallel="fsdp") == 2
    said = capfd.readouterr().err
    assert "expected parameters that FSDP2 has sharded, found whole ones" in said
    assert "use --parallel ddp" in said
    assert "2 processes ended with code 2; the first message above says why" in said
    assert not list(tmp_path.iterdir())


def test_deepspeed_is_refused_with_a_line_that_names_fsdp2(
    tiny_model_dir: Path,
    twelve: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    assert train(tiny_model_dir, twelve, tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert "found DeepSpeed" in error and "--parallel fsdp" in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_batch_that_the_processes_cannot_share_is_refused(
    tiny_model_dir: Path,
    twelve: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert train(tiny_model_dir, twelve, tmp_path / "run") == 2
    message = "batch_size: expected a multiple of 3 (micro_batch_size 2, 3 processes), found 4"
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
