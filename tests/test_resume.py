"""A run that is interrupted, at whatever step, ends as one that is not: bit for bit."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import train, words
from safetensors.torch import load_file

from fnsft.artifacts.training import read_training
from fnsft.training import curve
from fnsft.training.trainer import MaskedTrainer

TRAIN_ONLY = {"mask_mode": "train-only"}
UNFREEZE = TRAIN_ONLY | {"unfreeze": (1, 2)}
RUNS: dict[str, dict[str, Any]] = {
    "sft": {},
    "lora": {"method": "lora"},
    "random": {"method": "random", "fraction": 0.5},
    "random-rescaled": {"method": "random", "fraction": 0.5, "rescale": True},
    "child-tuning-d": {"method": "child-tuning-d", "fraction": 0.5},
    "hft": {"method": "hft", "fraction": 0.5, "applies_to": "update"},
    "highest": {"method": "highest", "fraction": 0.5, "mask_before_clipping": False},
    "gmt": {"method": "gmt", "fraction": 0.5, "window": 2},
    "mofo": {"method": "mofo", "fraction": 0.5},
    "active-neurons": {"method": "active-neurons", "fraction": 0.3, "calibration_samples": 5},
    "ssu": {"method": "ssu", "fraction": 0.5, "calibration_samples": 5},
    "lift": {"method": "lift", "fraction": 0.3, "lift_rank": 4},
    "collab-static": {"method": "collab-static", "fraction": 0.3, "calibration_samples": 5},
    "small-weights": {"method": "small-weights", "fraction": 0.5, "moments": "frozen"},
    "collab": {"method": "collab", "fraction": 0.5, "affinity": "knn", "k": 5},
    "train-only": TRAIN_ONLY,
    "freeze": {"mask_mode": "freeze", "component_ids": (0, 2)},
    "lora-train-only": TRAIN_ONLY | {"method": "lora"},
    "compact": TRAIN_ONLY | {"compact": True},
    "compact-freeze": {"mask_mode": "freeze", "compact": True, "l2_to_start": 0.1},
    "unfreeze": UNFREEZE | {"moments": "frozen"},
    "lora-unfreeze": UNFREEZE | {"method": "lora"},
    "lesion": {"mask_mode": "lesion"},
    "lora-preserve": {"mask_mode": "preserve", "method": "lora", "straight_through": True},
    "lesion-random": {"mask_mode": "lesion", "method": "random", "fraction": 0.5},
    "qlora": {"method": "lora", "quantise": "nf4"},
    **{
        f"update-{moments}": {
            "method": "random",
            "fraction": 0.5,
            "applies_to": "update",
            "moments": moments,
        }
        for moments in ("full", "masked", "frozen")
    },
}
for settings in RUNS.values():
    settings |= {"epochs": 3, "max_grad_norm": 0.5, "weight_decay": 0.1, "checkpoint_steps": 2}
    if settings.get("method", "sft") not in ("sft", "lora") or settings.get("mask_mode"):
        settings["telemetry_steps"] = 2


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A shell starts what it puts in the background with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Killed(BaseException):
    """Ends a run as a signal would, between two steps."""


@pytest.mark.parametrize("name", RUNS)
def test_an_interrupted_run_ends_as_an_uninterrupted_one(
    tiny_model_dir: Path,
    data: Path,
    graph: Path,
    clusters: Path,
    networks: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    settings = RUNS[name]
    if settings.get("method") == "collab":
        settings = settings | {"graph": graph}
    if settings.get("method") == "collab-static":
        settings = settings | {"clusters": clusters}
    if settings.get("mask_mode"):
        settings = settings | {"networks": networks}
    if settings.get("quantise"):
        pytest.importorskip("bitsandbytes")
    assert train(tiny_model_dir, data, tmp_path / "whole", **settings) == 0
    last = read_training(tmp_path / "whole").optimizer_steps
    step = random.Random(name).randrange(3, last)
    kill_at(
        step, monkeypatch, lambda: train(tiny_model_dir, data, tmp_path / "resumed", **settings)
    )
    assert not (tmp_path / "resumed").exists()
    assert train(tiny_model_dir, data, tmp_path / "resumed", **settings) == 0
    manifest = json.loads((tmp_path / "resumed.manifest.json").read_text())
    assert manifest["notes"]["resumed_from"] == f"checkpoint-{(step - 1) // 2 * 2}"
    assert_alike(tmp_path / "whole", tmp_path / "resumed")
    assert not (tmp_path / "resumed.checkpoints").exists()


def kill_at(step: int, monkeypatch: pytest.MonkeyPatch, run: Callable[[], int]) -> None:
    """Start a run, and end it at the end of a step."""

    def kill() -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        at_step(step, patch, kill)
        run()


def at_step(step: int, patch: pytest.MonkeyPatch, do: Callable[[], None]) -> None:
    """Do something at the end of a step of the runs that follow."""
    on_step_end = curve.ValidationCurve.on_step_end

    def done(self: Any, args: Any, state: Any, control: Any, **given: Any) -> None:
        if state.global_step == step:
            do()
        on_step_end(self, args, state, control, **given)

    patch.setattr(curve.ValidationCurve, "on_step_end", done)


def assert_alike(whole: Path, resumed: Path) -> None:
    """Compare weights, curves and the masks' records of two runs, bit for bit."""
    (file,) = [f for f in ("model", "adapter_model") if (whole / f"{f}.safetensors").exists()]
    one, other = (load_file(folder / f"{file}.safetensors") for folder in (whole, resumed))
    assert all(torch.equal(one[key], other[key]) for key in one)
    records = [read_training(folder) for folder in (whole, resumed)]
    assert records[0].validation == records[1].validation
    assert records[0].train_loss == records[1].train_loss
    masked = (whole / "neuron_updates.safetensors").exists()
    assert masked == (records[0].mask_pass_rate is not None)
    masks = [folder / "masks.jsonl" for folder in (whole, resumed)]
    assert masks[0].exists() == masks[1].exists()
    if masks[0].exists():
        assert masks[0].read_text() == masks[1].read_text()
    if masked:
        updates = [load_file(folder / "neuron_updates.safetensors") for folder in (whole, resumed)]
        assert all(torch.equal(updates[0][key], updates[1][key]) for key in updates[0])


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    ("name", "step", "checkpoint_steps"),
    [("gmt", 3, 0), ("update-frozen", 4, 0), ("lora-unfreeze", 5, 4), ("collab", 12, 5)],
)
def test_a_run_that_a_signal_ends_saves_its_step_once_and_ends_as_one_that_is_not(
    tiny_model_dir: Path,
    data: Path,
    graph: Path,
    networks: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    step: int,
    checkpoint_steps: int,
    number: signal.Signals,
) -> None:
    """At a step of no checkpoint, at the end of an epoch, and at the end of the run."""
    settings = RUNS[name] | {"checkpoint_steps": checkpoint_steps}
    settings |= {"graph": graph} if name == "collab" else {}
    settings |= {"networks": networks} if settings.get("mask_mode") else {}
    output, saved = tmp_path / "resumed", []
    assert train(tiny_model_dir, data, tmp_path / "whole", **settings) == 0
    save = MaskedTrainer._save_checkpoint

    def counted(self: Any, *arguments: Any) -> None:
        saved.append(self.state.global_step)
        save(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(MaskedTrainer, "_save_checkpoint", counted)
        at_step(step, patch, lambda: signal.raise_signal(number))
        before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
        assert train(tiny_model_dir, data, output, **settings) == 128 + number
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == before
    assert saved == sorted(set(saved)) and saved[-1] == step
    assert "fnsft train: interrupted; the same command goes on\n" in capsys.readouterr().err
    assert not output.exists()
    assert train(tiny_model_dir, data, output, **settings) == 0
    notes = json.loads((tmp_path / "resumed.manifest.json").read_text())["notes"]
    assert notes["resumed_from"] == f"checkpoint-{step}"
    assert_alike(tmp_path / "whole", output)


@pytest.mark.usefixtures("interruptible")
def test_a_second_interrupt_ends_a_run_at_once(
    tiny_model_dir: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        at_step(3, patch, twice)
        assert train(tiny_model_dir, data, tmp_path / "run", checkpoint_steps=2) == 130
    saved = (tmp_path / "run.checkpoints").glob("checkpoint-*")
    assert [path.name for path in saved] == ["checkpoint-2"]


@pytest.mark.faults
@pytest.mark.processes
@pytest.mark.parametrize("seed", [0, 1])
def test_a_run_that_is_killed_at_random_moments_ends_as_one_that_is_not(
    tiny_model_dir: Path, data: Path, tmp_path: Path, seed: int
) -> None:
    """SIGKILL, wherever it strikes: in a step, or while a checkpoint is written."""
    name = ("update-full", "child-tuning-d")[seed]
    settings = RUNS[name] | {"epochs": 12, "checkpoint_steps": 1}
    assert train(tiny_model_dir, data, tmp_path / "whole", **settings) == 0
    checkpoints, moments = tmp_path / "resumed.checkpoints", random.Random(seed)
    command = [sys.executable, "-m", "fnsft"]
    command += words(tiny_model_dir, data, tmp_path / "resumed", **settings)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    kills = 0
    for _ in range(3):
        before = set(checkpoints.glob("checkpoint-*"))
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        while process.poll() is None and set(checkpoints.glob("checkpoint-*")) <= before:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.3))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.communicate()
    assert kills, "the run was over before it could be killed"
    if not (tmp_path / "resumed").exists():
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert_alike(tmp_path / "whole", tmp_path / "resumed")


def test_a_checkpoint_that_was_cut_short_is_not_resumed_from(
    tiny_model_dir: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = RUNS["random"] | {"checkpoint_steps": 1}
    assert train(tiny_model_dir, data, tmp_path / "whole", **settings) == 0
    kill_at(3, monkeypatch, lambda: train(tiny_model_dir, data, tmp_path / "resumed", **settings))
    (whole,) = (tmp_path / "resumed.checkpoints").glob("checkpoint-*")
    short = whole.with_name("checkpoint-99")
    short.mkdir()
    (short / "model.safetensors").write_bytes(b"half of it")
    assert train(tiny_model_dir, data, tmp_path / "resumed", **settings) == 0
    notes = json.loads((tmp_path / "resumed.manifest.json").read_text())["notes"]
    assert notes["resumed_from"] == whole.name
    assert_alike(tmp_path / "whole", tmp_path / "resumed")
