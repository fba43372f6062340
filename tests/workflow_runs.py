"""Snakemake on copies of the tree: planned, and run with the smoke configuration."""

import fcntl
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

SMOKE = ["workflow/configs/tiny.yaml", "workflow/configs/smoke.yaml"]
LABEL = "Tiny-0.9M"
TARGET = "results/table1.tex"


def copy_tree(repository: Path, folder: Path) -> Path:
    """Copy what git knows of the repository, links kept."""
    command = ["git", "-C", str(repository), "ls-files", "-co", "--exclude-standard"]
    for name in subprocess.run(command, capture_output=True, text=True).stdout.splitlines():
        source, target = repository / name, folder / name
        if source.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)
    return folder


def started(tree: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start snakemake in a tree, with the tree's own package first on the path."""
    scripts = Path(sys.executable).parent
    environment = os.environ | {
        "PYTHONPATH": str(tree),
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
    }
    command = [sys.executable, "-m", "snakemake", *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=tree, stdout=pipe, stderr=pipe, text=True, env=environment)


def ended(head: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    """Wait until a started snakemake ends."""
    stdout, stderr = head.communicate()
    return subprocess.CompletedProcess(head.args, head.returncode, stdout, stderr)


def snakemake(tree: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run snakemake in a tree."""
    return ended(started(tree, *arguments))


def planned(tree: Path, *overlays: Path | str, target: str = TARGET) -> dict[str, int]:
    """Return how often each rule would run."""
    arguments = ["--profile", "cpu", "--configfile", *SMOKE, *map(str, overlays)]
    done = snakemake(tree, "-n", *arguments, "--", target)
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^(\w+) +(\d+)$", done.stderr + done.stdout, re.M)
    return {rule: int(n) for rule, n in rows if rule != "total"}


@pytest.fixture(scope="session")
def smoke_run(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository in which the smoke configuration has run; all workers share it."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    tree, done = shared / "smoke", shared / "smoke.done"
    with open(shared / "smoke.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            copy_tree(repository, tree)
            ran = snakemake(tree, "--profile", "cpu", "--configfile", *SMOKE, "--", TARGET)
            assert ran.returncode == 0, ran.stderr
            done.touch()
    return tree


@pytest.fixture(scope="module")
def finished(smoke_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository in which the smoke configuration has run."""
    tree = tmp_path_factory.mktemp("clone") / "tree"
    shutil.copytree(smoke_run, tree, symlinks=True)
    return tree


@pytest.fixture
def overlay(tmp_path: Path):
    def write(**config) -> Path:
        path = tmp_path / "overlay.yaml"
        path.write_text(yaml.safe_dump(config))
        return path

    return write
