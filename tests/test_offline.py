"""Without a network: what is fetched ahead is all that the other rules need."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from fake_hub import FakeHub, Repo, environment, fnsft, running_hub
from workflow_runs import SMOKE, copy_tree

# Notes every attempt at the network, and lets none pass.
GUARD = """
import os, socket, sys

def refuse(*arguments, **named):
    with open(os.environ["ATTEMPTS"], "a") as file:
        print(sys.argv, arguments[-1], file=file)
    raise OSError("a job has tried the network")

class Socket(socket.socket):
    def connect(self, address):
        if self.family != socket.AF_UNIX:
            refuse(address)
        return super().connect(address)

    connect_ex = connect

socket.socket = Socket
socket.getaddrinfo = socket.create_connection = refuse
"""
CARD = """---
configs:
- config_name: main
  data_files:
  - {split: train, path: train.jsonl}
  - {split: test, path: test.jsonl}
---
"""
OVERLAY = {
    "experiment": "offline",
    "models": {"hubbed": {"origin": "hub", "name": "ada/tiny"}},
    "tasks": {
        "sums": {
            **{"origin": "hub", "name": "org/sums", "hub_config": "main", "format": "gsm8k"},
            **{"train": "train", "test": "test", "n_train": 16, "n_validation": 4, "n_test": 4},
        }
    },
    "run": {"models": ["hubbed"], "task": "sums", "methods": ["sft"], "controls": []},
}
SETTINGS = ["--configfile", *SMOKE, "offline.yaml"]


def rows(first: int, n: int) -> bytes:
    numbers = range(first, first + n)
    lines = [f'{{"question": "{i} and 1?", "answer": "#### {i + 1}"}}\n' for i in numbers]
    return "".join(lines).encode()


@pytest.fixture(scope="module")
def hub(tiny_model_dir: Path) -> Iterator[FakeHub]:
    with running_hub() as hub:
        model = {file.name: file.read_bytes() for file in tiny_model_dir.iterdir()}
        hub.repos["ada/tiny"] = Repo(model)
        splits = {"train.jsonl": rows(0, 30), "test.jsonl": rows(100, 8)}
        hub.repos["org/sums"] = Repo({"README.md": CARD.encode()} | splits)
        yield hub


@dataclass
class Node:
    """A folder from which commands are started in a network namespace with no network in it."""

    folder: Path
    prefix: list[str]
    hub: FakeHub

    @property
    def attempts(self) -> Path:
        return self.folder / "attempts"

    def run(self, tree: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
        scripts = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        paths = f"{self.folder}{os.pathsep}{tree}"
        more = {"PYTHONPATH": paths, "PATH": scripts, "ATTEMPTS": str(self.attempts)}
        command = [*self.prefix, sys.executable, "-m", *map(str, words)]
        given = environment(self.hub, self.folder, **more)
        return subprocess.run(
            command, cwd=tree, env=given, capture_output=True, text=True, timeout=600
        )


@pytest.fixture(scope="module")
def node(hub: FakeHub, tmp_path_factory: pytest.TempPathFactory) -> Node:
    folder = tmp_path_factory.mktemp("node")
    (folder / "sitecustomize.py").write_text(GUARD)
    for flags in ("-n", "-rn"):
        prefix = ["unshare", flags]
        if shutil.which("unshare") and not subprocess.run([*prefix, "true"]).returncode:
            return Node(folder, prefix, hub)
    pytest.skip("no network namespace: unshare needs root, or user namespaces")


@pytest.fixture(scope="module")
def tree(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = copy_tree(repository, tmp_path_factory.mktemp("clone"))
    (tree / "offline.yaml").write_text(yaml.safe_dump(OVERLAY))
    return tree


@pytest.mark.workflow
def test_what_is_fetched_ahead_is_all_that_the_other_rules_need(
    hub: FakeHub, tree: Path, node: Node, tmp_path: Path
) -> None:
    scripts = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    given = environment(hub, tmp_path, PYTHONPATH=str(tree), PATH=scripts)
    command = [sys.executable, "-m", "snakemake", "fetch", "--cores", "1", *SETTINGS]
    done = subprocess.run(command, cwd=tree, env=given, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    fetched = [path for _, path in hub.seen]
    results = tree / "results/offline"
    made = [results / "runs/hubbed/sums/sft/seed0", results / "metrics/hubbed/sums/base.jsonl"]
    made.append(results / "neurons/hubbed/sums/seed0/graphs/paper.safetensors")
    targets = [path.relative_to(tree) for path in made]
    done = node.run(tree, "snakemake", "--profile", "cpu", *SETTINGS, "--", *targets)
    assert done.returncode == 0, done.stderr
    assert all(path.exists() for path in made)
    assert not node.attempts.exists(), node.attempts.read_text()
    assert [path for _, path in hub.seen] == fetched


def test_where_there_is_no_network_a_stage_that_tries_it_is_caught(
    node: Node, repository: Path, tmp_path: Path
) -> None:
    words = ["fetch", "--kind", "model", "--name", "ada/tiny", "--output", tmp_path / "model"]
    done = node.run(repository, "fnsft", *words)
    assert done.returncode == 2
    assert f"the hub at {node.hub.url} cannot be reached" in done.stderr
    assert "fetch" in node.attempts.read_text()
    node.attempts.unlink()


def test_jobs_of_the_workflow_ask_no_hub_and_say_what_to_do(hub: FakeHub, tmp_path: Path) -> None:
    n_seen = len(hub.seen)
    words = ["train", "--model", "ada/tiny", "--data", "org/sums", "--output", "run"]
    done = fnsft(hub, tmp_path, *words, FNSFT_OFFLINE="1")
    assert done.returncode == 2
    assert "HF_HUB_OFFLINE forbids the network; fetch it ahead" in done.stderr
    assert done.stderr.count("\n") == 1
    assert len(hub.seen) == n_seen
    fetch = ["fetch", "--kind", "model", "--name", "ada/tiny", "--output", "model"]
    assert fnsft(hub, tmp_path, *fetch, FNSFT_OFFLINE="1").returncode == 0
    assert len(hub.seen) > n_seen
