"""Snakemake: its jobs or head are killed, it is started twice, its configuration changes."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import yaml
from faults import wait_until
from test_resume import assert_alike
from workflow_runs import SMOKE, copy_tree, snakemake

pytestmark = pytest.mark.faults
RUN = "tiny/math/sft/seed0"
TARGET = f"results/smoke/runs/{RUN}"
CHECKPOINTS = f"checkpoints/smoke/{RUN}"
LOG = f"results/smoke/logs/train/{RUN}.log"
OOM_COUNTERS = ("memory.oom_control", "memory.events")
COMMAND = ["--profile", "cpu", "--configfile", *SMOKE, "overlay.yaml", "--", TARGET]


def write_overlay(tree: Path, **training: float) -> None:
    config = {"training": {"epochs": 6} | training, "run": {"methods": ["sft"], "controls": []}}
    (tree / "overlay.yaml").write_text(yaml.safe_dump(config))


@pytest.fixture(scope="module")
def undisturbed(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository in which a run of the smoke configuration has ended."""
    tree = copy_tree(repository, tmp_path_factory.mktemp("undisturbed"))
    write_overlay(tree)
    done = snakemake(tree, *COMMAND)
    assert done.returncode == 0, done.stderr
    return tree


@pytest.fixture
def tree(undisturbed: Path, tmp_path: Path) -> Path:
    """The same, before the run's training."""
    tree = tmp_path / "tree"
    shutil.copytree(undisturbed, tree, symlinks=True)
    shutil.rmtree(tree / TARGET)
    (tree / f"{TARGET}.manifest.json").unlink()
    return tree


class Head:
    """A running Snakemake."""

    def __init__(self, tree: Path) -> None:
        self.tree = tree
        self.said = tree / "head.txt"
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        with self.said.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "snakemake", *COMMAND],
                cwd=tree,
                env=os.environ | {"PYTHONPATH": str(tree), "PATH": path},
                stdout=log,
                stderr=log,
            )

    def training(self) -> psutil.Process:
        """Wait until a checkpoint of its training is there, and return the training."""
        wait_until(
            lambda: (
                self.process.poll() is not None
                or any((self.tree / CHECKPOINTS).glob("checkpoint-*/trainer_state.json"))
            )
        )
        assert self.process.poll() is None, self.said.read_text()
        children = psutil.Process(self.process.pid).children(recursive=True)
        (found,) = (child for child in children if re.search(r"python.* train ", line_of(child)))
        return found

    def code(self) -> int:
        return self.process.wait(300)


def line_of(process: psutil.Process) -> str:
    return " ".join(process.cmdline())


def runs_again(tree: Path, undisturbed: Path) -> None:
    """Run the same command again, to the same end."""
    done = snakemake(tree, *COMMAND)
    assert done.returncode == 0, done.stderr
    assert_alike(undisturbed / TARGET, tree / TARGET)
    assert not (tree / CHECKPOINTS).exists()
    assert not list((tree / "results").rglob(".*partial-*"))


def test_a_training_that_is_killed_under_snakemake_goes_on_with_the_same_line(
    tree: Path, undisturbed: Path
) -> None:
    head = Head(tree)
    head.training().kill()
    assert head.code() == 1
    assert "FAILED fine-tune tiny with sft" in head.said.read_text()
    assert not (tree / TARGET).exists()
    runs_again(tree, undisturbed)
    assert "going on from " in (tree / LOG).read_text()


def test_a_training_that_the_kernel_kills_for_want_of_memory_goes_on_with_the_same_line(
    tree: Path, undisturbed: Path, memory_group: Path
) -> None:
    head = Head(tree)
    (memory_group / "cgroup.procs").write_text(str(head.training().pid))
    assert head.code() == 1
    (told,) = (memory_group / name for name in OOM_COUNTERS if (memory_group / name).exists())
    assert "oom_kill 1" in told.read_text().splitlines()
    assert not (tree / TARGET).exists()
    runs_again(tree, undisturbed)
    assert "going on from " in (tree / LOG).read_text()


def test_a_head_that_is_killed_needs_no_unlocking(tree: Path, undisturbed: Path) -> None:
    """Its training goes on by itself; while it does, the same line says so and harms nothing."""
    head = Head(tree)
    training = head.training()
    head.process.kill()
    assert head.code() == -signal.SIGKILL
    assert list((tree / ".snakemake/locks").iterdir()), "what Snakemake leaves"
    training.suspend()  # that it does not end before
    again = snakemake(tree, *COMMAND)
    assert again.returncode == 1
    assert "cannot be locked" not in again.stderr
    assert f"expected nobody to use it, found process {training.pid} on" in again.stderr
    training.send_signal(signal.SIGTERM)
    training.resume()
    wait_until(lambda: not training.is_running())
    runs_again(tree, undisturbed)


def test_a_second_head_is_refused_and_a_changed_configuration_is_the_next_plan_s(
    tree: Path, undisturbed: Path
) -> None:
    head = Head(tree)
    training = head.training()
    training.suspend()  # that it does not end before
    second = snakemake(tree, *COMMAND)
    assert second.returncode == 1
    assert "cannot be locked" in second.stderr and "Traceback" not in second.stderr
    write_overlay(tree, learning_rate=5e-4)
    training.resume()
    assert head.code() == 0
    assert_alike(undisturbed / TARGET, tree / TARGET)
    plan = snakemake(tree, "-n", *COMMAND)
    rows = re.findall(r"^(\w+) +(\d+)$", plan.stdout + plan.stderr, re.M)
    assert set(rows) == {("train", "1"), ("total", "1")}
    write_overlay(tree)
    plan = snakemake(tree, "-n", *COMMAND)
    assert "Nothing to be done" in plan.stdout + plan.stderr


def test_a_time_limit_on_the_head_ends_its_jobs_well(tree: Path, undisturbed: Path) -> None:
    """As a batch system ends all processes of a job that holds a whole workflow."""
    head = Head(tree)
    training = head.training()
    for process in (*psutil.Process(head.process.pid).children(recursive=True), head.process):
        process.send_signal(signal.SIGTERM)
    assert head.code() == 1
    assert not training.is_running(), "the head has not waited for the checkpoint"
    assert "interrupted; the same command goes on" in (tree / LOG).read_text()
    runs_again(tree, undisturbed)
