"""Commands that are killed, told to end, starved, or started twice end as undisturbed ones."""

import contextlib
import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from faults import Command, files_in, one_line, wait_until
from runs import first_samples, train, words, write_prepared
from test_resume import assert_alike, at_step

from fnsft.artifacts.manifest import recorded_stage
from fnsft.artifacts.storage import written_whole
from fnsft.cli.main import main
from fnsft.config.stages import ProjectSettings

pytestmark = pytest.mark.faults
RUN: dict[str, Any] = {
    "method": "random",
    "fraction": 0.5,
    "applies_to": "update",
    "moments": "frozen",
    "epochs": 15,
    "checkpoint_steps": 1,
    "telemetry_steps": 2,
    "max_grad_norm": 0.5,
    "weight_decay": 0.1,
}


@pytest.fixture(scope="module")
def whole(tiny_model_dir: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The undisturbed run."""
    output = tmp_path_factory.mktemp("undisturbed") / "run"
    assert train(tiny_model_dir, data, output, **RUN) == 0
    return output


class Training:
    """The same training again, in processes that tests disturb."""

    def __init__(self, model: Path, data: Path, folder: Path, **settings: Any) -> None:
        self.output = folder / "run"
        self.checkpoints = folder / "run.checkpoints"
        self.words = words(model, data, self.output, **RUN | settings)
        self.log = folder / "said.txt"

    def start(self, *more: str, **given: Any) -> Command:
        """Start it and wait for a checkpoint that was not there."""
        before = self.saved()
        command = Command([*self.words, *more], self.log, **given)
        command.until(lambda: self.saved() > before)
        return command

    def saved(self) -> int:
        """The step of the last checkpoint that is begun."""
        found = self.checkpoints.glob("checkpoint-*")
        return max((int(path.name.split("-")[1]) for path in found), default=0)

    def finish(self, whole: Path) -> None:
        """Run the same command to its end, and compare."""
        command = Command(self.words, self.log)
        assert command.code() == 0, command.said
        assert_alike(whole, self.output)
        left = sorted(path.name for path in self.output.parent.iterdir())
        assert left == ["run", "run.manifest.json", "said.txt"]


@pytest.fixture
def training(tiny_model_dir: Path, data: Path, tmp_path: Path) -> Training:
    return Training(tiny_model_dir, data, tmp_path)


def test_training_that_is_killed_again_and_again_goes_on(training: Training, whole: Path) -> None:
    moments = random.Random(0)
    for _ in range(3):
        command = training.start()
        time.sleep(moments.uniform(0, 0.1))
        command.signal(signal.SIGKILL)
        assert command.code() == -signal.SIGKILL
        assert not training.output.exists()
    training.finish(whole)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_training_that_is_told_to_end_saves_a_checkpoint_and_goes_on(
    training: Training, whole: Path, number: int
) -> None:
    command = training.start()
    command.signal(number)
    assert command.code() == 128 + number
    assert one_line(command.said, "train").endswith("interrupted; the same command goes on")
    assert not training.output.exists()
    training.finish(whole)
    assert f"going on from {training.checkpoints}" in training.log.read_text()


def test_a_time_limit_that_leaves_no_time_for_a_checkpoint_costs_steps_alone(
    training: Training, whole: Path
) -> None:
    """SIGTERM, and SIGKILL before the checkpoint can be whole."""
    for seconds in (0.0, 0.02, 0.05):
        command = training.start()
        command.signal(signal.SIGTERM)
        time.sleep(seconds)
        command.signal(signal.SIGKILL)
        assert command.code() in (-signal.SIGKILL, 128 + signal.SIGTERM)
        assert not training.output.exists()
    training.finish(whole)


def test_of_two_processes_one_is_killed_and_then_both_are_told_to_end(
    tiny_model_dir: Path, data: Path, tmp_path: Path
) -> None:
    """With torchrun: all end together, and what goes on ends as what was not disturbed."""
    twelve = first_samples(data, 12, tmp_path / "twelve")
    settings = {"parallel": "ddp", "micro_batch_size": 1, "epochs": 20, "processes": 2}
    folders = [tmp_path / name for name in ("whole", "disturbed")]
    for folder in folders:
        folder.mkdir()
    undisturbed, training = (Training(tiny_model_dir, twelve, f, **settings) for f in folders)
    command = Command(undisturbed.words, undisturbed.log)
    assert command.code() == 0, command.said

    command = training.start()
    agent = psutil.Process(command.process.pid)
    workers = {worker.environ().get("RANK"): worker for worker in agent.children()}
    workers["1"].kill()
    assert command.code() == 2
    assert "2 processes ended" in command.said.splitlines()[-1]
    wait_until(lambda: not any(lives(worker) for worker in workers.values()))

    command = training.start()
    command.signal(signal.SIGTERM)
    assert command.code() == 128 + signal.SIGTERM
    assert "Traceback" not in command.said
    assert command.said.count("interrupted; the same command goes on") == 1
    assert not training.output.exists()
    training.finish(undisturbed.output)


def lives(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def test_a_stage_that_is_told_to_end_leaves_nothing_half_written(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    rows = [{"prompt": f"{n} and 9?", "completion": f" It is {n + 9}."} for n in range(4000)]
    data = write_prepared(tmp_path / "data", {"train": rows}) / "train.jsonl"
    flags = ["--model", str(tiny_model_dir), "--data", str(data), "--batch-size", "1"]
    (tmp_path / "out").mkdir()
    output = tmp_path / "out" / "dump"
    command = Command(["capture", *flags, "--output", str(output)], tmp_path / "said.txt")
    command.until(lambda: any(output.parent.glob(".dump.partial-*/layer*")))
    command.signal(signal.SIGTERM)
    assert command.code() == 128 + signal.SIGTERM
    assert one_line(command.said, "capture").endswith("interrupted; the same command goes on")
    assert not list(output.parent.iterdir())


def killed_in(body: Callable[[], None]) -> int:
    """Run a body in a fork until it stops to wait, kill it there, and return its number."""
    child = os.fork()
    if child == 0:
        body()
        os._exit(1)
    os.waitpid(child, os.WUNTRACED)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return child


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def test_what_a_killed_process_was_writing_goes_when_its_output_is_written_again(
    tmp_path: Path,
) -> None:
    output = tmp_path / "model"

    def half() -> None:
        with written_whole(output) as partial:
            partial.mkdir()
            (partial / "model.safetensors").write_text("half")
            stop()

    child = killed_in(half)
    (left,) = tmp_path.iterdir()
    assert left.name.endswith(f"-{child}") and not output.exists()
    alive = left.with_name(left.name.replace(f"-{child}", f"-{os.getppid()}"))
    elsewhere = left.with_name(f".model.partial-elsewhere-{child}")
    old = left.with_name(f".model.partial-long-ago-{child}")
    for folder in (alive, elsewhere, old):
        folder.mkdir()
    os.utime(old, (0, 0))
    with written_whole(output) as partial:
        partial.mkdir()
    assert not left.exists() and not old.exists()
    assert alive.exists() and elsewhere.exists(), "their processes may live"


def test_a_kill_between_a_folder_and_its_manifest_is_no_reason_to_refuse_the_folder(
    tmp_path: Path,
) -> None:
    output = tmp_path / "out"

    def write(text: str, then: Callable[[], None]) -> None:
        with recorded_stage(ProjectSettings(), {}, output):
            with written_whole(output) as partial:
                partial.mkdir()
                (partial / "weights").write_text(text)
            then()

    write("first", lambda: None)
    killed_in(lambda: write("second", stop))
    assert (output / "weights").read_text() == "second"
    assert not (tmp_path / "out.manifest.json").exists(), "that of the first would lie"
    write("third", lambda: None)
    assert (output / "weights").read_text() == "third"
    assert sorted(os.listdir(tmp_path)) == ["out", "out.manifest.json"]


def test_a_second_training_into_the_same_checkpoints_is_refused(
    training: Training, whole: Path, tmp_path: Path
) -> None:
    first = training.start()
    second = Command([*training.words, "--resume", "never"], tmp_path / "second.txt")
    assert second.code() == 2
    line = one_line(second.said, "train")
    assert "run.checkpoints: expected nobody to use it, found process" in line
    assert f"process {first.process.pid} on " in line
    first.signal(signal.SIGTERM)
    assert first.code() == 128 + signal.SIGTERM
    second.log.unlink()
    training.finish(whole)


def test_training_without_memory_says_so_and_ends_well_with_more(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    rows = [{"prompt": "What is it?", "completion": " one two" * 55} for _ in range(64)]
    data = write_prepared(tmp_path / "data", {"train": rows, "validation": rows[:2]})
    settings = {"batch-size": 64, "micro-batch-size": 64, "epochs": 1, "checkpoint_steps": 1}
    (tmp_path / "runs").mkdir()
    undisturbed = tmp_path / "runs" / "whole"
    assert train(tiny_model_dir, data, undisturbed, **settings) == 0
    again = words(tiny_model_dir, data, tmp_path / "runs" / "run", **settings)
    command = Command(again, tmp_path / "said.txt", spare_memory=200 << 20)
    assert command.code() == 2, command.said
    assert "memory ran out" in one_line(command.said, "train")
    assert not (tmp_path / "runs" / "run").exists()
    command = Command(again, tmp_path / "said.txt")
    assert command.code() == 0, command.said
    assert_alike(undisturbed, tmp_path / "runs" / "run")


def test_training_whose_model_vanishes_ends_in_one_line_and_goes_on_when_it_is_back(
    tiny_model_dir: Path,
    data: Path,
    tmp_path: Path,
    whole: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model, away = tmp_path / "tiny", tmp_path / "away"
    model.symlink_to(tiny_model_dir)
    run = tmp_path / "out" / "run"
    with monkeypatch.context() as patch:
        at_step(5, patch, lambda: model.rename(away))
        assert main(words(model, data, run, **RUN)) == 2
    assert f"{model}: no such file" in one_line(capsys.readouterr().err, "train")
    assert not run.exists()
    away.rename(model)
    assert main(words(model, data, run, **RUN)) == 0
    assert_alike(whole, run)
    assert files_in(run.parent).keys() == {f"run/{name}" for name in files_in(whole)}


def test_training_goes_on_from_the_last_checkpoint_that_is_whole(
    training: Training, whole: Path
) -> None:
    """The youngest one is cut short in turn at each of its files."""
    command = training.start()
    command.signal(signal.SIGTERM)
    assert command.code() == 128 + signal.SIGTERM
    step = training.saved()
    young = training.checkpoints / f"checkpoint-{step}"
    for name in ("model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json"):
        later = young.with_name(f"checkpoint-{step + 90}")
        young.rename(later)
        content = (later / name).read_bytes()
        (later / name).write_bytes(content[: len(content) // 2])
        command = Command([*training.words, "--resume", "require"], training.log)
        assert command.code() == 2, command.said
        assert "expected a checkpoint to go on from, found none" in command.said
        (later / name).write_bytes(content)
        later.rename(young)
    content = (young / "optimizer.pt").read_bytes()
    (young / "optimizer.pt").write_bytes(content[:-50])
    training.finish(whole)
    manifest = json.loads((training.output.parent / "run.manifest.json").read_text())
    assert manifest["notes"]["resumed_from"] is None
