"""A disk that is full: one line, nothing half-written, and the same command ends well later."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from explore_results import write_results
from faults import Disk, files_in, one_line
from network_rows import lesions_of
from runs import train, words
from test_resume import assert_alike, at_step

from fnsft.artifacts.lesions import write_lesions
from fnsft.cli.main import main

pytestmark = pytest.mark.faults


@dataclass(frozen=True)
class Sources:
    """What the stages read."""

    model: Path
    data: Path
    graph: Path
    lesions: Path
    results: Path
    scratch: Path

    @property
    def model_and_data(self) -> list[str]:
        """The flags of both."""
        return ["--model", str(self.model), "--data", str(self.data / "train.jsonl")]


@pytest.fixture
def sources(
    tiny_model_dir: Path, data: Path, graph: Path, tmp_path_factory: pytest.TempPathFactory
) -> Sources:
    folder = tmp_path_factory.mktemp("sources")
    write_lesions(folder / "lesions.jsonl", lesions_of("tiny", (0, 1), n_networks=3))
    results = write_results(folder / "results")
    return Sources(tiny_model_dir, data, graph, folder / "lesions.jsonl", results, folder)


def projected(s: Sources, out: Path, *flags: str) -> list[str]:
    inputs = [s.graph.with_name("tokens.safetensors"), s.graph.with_name("dump")]
    paths = ["--statistics", str(inputs[0]), "--activations", str(inputs[1])]
    return ["project", *paths, "--output", str(out / "graph.safetensors"), *flags]


def table(s: Sources, out: Path) -> list[str]:
    files = {"output": "t.tex", "csv": "t.csv", "markdown": "t.md", "html": "t.html"}
    flags = [word for name, file in files.items() for word in (f"--{name}", str(out / file))]
    return ["table", "--kind", "networks", "--records", str(s.lesions), *flags]


def tuned(s: Sources, out: Path) -> list[str]:
    checkpoints = s.scratch / f"{out.name}.checkpoints"
    settings = {"method": "random", "fraction": 0.5, "telemetry_steps": 2}
    return words(s.model, s.data, out / "run", checkpoints=checkpoints, **settings)


WRITERS: dict[str, Callable[[Sources, Path], list[str]]] = {
    "tensors": lambda s, out: [
        *("statistics", *s.model_and_data),
        *("--output", str(out / "tokens.safetensors")),
    ],
    "activations": lambda s, out: [
        *("capture", *s.model_and_data, "--sampled-tokens", "50"),
        *("--output", str(out / "dump")),
    ],
    "graph": projected,
    "dense graph": lambda s, out: projected(s, out, "--dense"),
    "records": lambda s, out: [
        *("evaluate", "--model", str(s.model), "--perplexity", str(s.data / "test.jsonl")),
        *("--output", str(out / "metrics.jsonl"), "--model-name", "tiny", "--task", "sums"),
    ],
    "model folder": tuned,
    "twin": lambda s, out: ["twin", "--model", str(s.model), "--output", str(out / "twin")],
    "world": lambda s, out: ["world", "--documents", "60", "--output", str(out / "world")],
    "table": table,
    "figure": lambda s, out: [
        *("figure", "--kind", "lesions", "--inputs", str(s.lesions)),
        *("--output", str(out / "f.pdf")),
    ],
    "page": lambda s, out: ["explore", str(s.results), "--output", str(out / "page.html")],
}
TIMES = ("wall_seconds", "peak_memory_mib")


def comparable(name: str, content: bytes) -> Any:
    """Return what two runs share of a file."""
    if not name.endswith("training.json"):
        return content
    return {key: value for key, value in json.loads(content).items() if key not in TIMES}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_writer_without_room_says_so_and_writes_nothing_by_halves(
    sources: Sources,
    disk: Disk,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    writer: str,
) -> None:
    (tmp_path / "whole").mkdir()
    command = WRITERS[writer](sources, tmp_path / "whole")
    assert main(command) == 0
    whole = files_in(tmp_path / "whole")
    capsys.readouterr()
    command = WRITERS[writer](sources, disk.folder)
    disk.fill(sum(map(len, whole.values())) // 2)
    assert main(command) == 2
    line = one_line(capsys.readouterr().err, command[0])
    assert "room" in line and str(disk.folder) in line and ".partial-" not in line
    for name, content in disk.files().items():
        assert comparable(name, content) == comparable(name, whole[name]), name
    disk.clear()
    assert main(command) == 0
    found = disk.files()
    assert found.keys() == whole.keys()
    for name, content in found.items():
        assert comparable(name, content) == comparable(name, whole[name]), name


RUN: dict[str, Any] = {
    "method": "random",
    "fraction": 0.5,
    "epochs": 3,
    "checkpoint_steps": 2,
    "telemetry_steps": 2,
}


@pytest.mark.parametrize("fits", [False, True])
def test_a_disk_that_fills_in_the_middle_of_a_run_costs_steps_alone(
    sources: Sources,
    disk: Disk,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    fits: bool,
) -> None:
    """At step 5, so that the checkpoint of step 6 has no room, or room for its weights alone."""
    whole, run = tmp_path / "whole", disk.folder / "run"
    assert train(sources.model, sources.data, whole, **RUN) == 0

    def fill() -> None:
        before = disk.folder / "run.checkpoints" / "checkpoint-4"
        size = (before / "model.safetensors").stat().st_size
        disk.fill(size + (64 << 10) if fits else 0)

    with monkeypatch.context() as patch:
        at_step(5, patch, fill)
        assert train(sources.model, sources.data, run, **RUN) == 2
    line = one_line(capsys.readouterr().err, "train")
    assert "checkpoint-6: expected room to write it, found none" in line
    assert not run.exists()
    saved = [path.name for path in run.with_name("run.checkpoints").glob("checkpoint-*")]
    assert saved == ["checkpoint-4"]
    disk.clear()
    assert train(sources.model, sources.data, run, **RUN) == 0
    assert_alike(whole, run)
    notes = json.loads((disk.folder / "run.manifest.json").read_text())["notes"]
    assert notes["resumed_from"] == "checkpoint-4"


def test_a_model_is_refused_before_the_first_step_where_its_run_cannot_fit(
    sources: Sources, disk: Disk, capsys: pytest.CaptureFixture[str]
) -> None:
    disk.fill(100 << 10)
    assert train(sources.model, sources.data, disk.folder / "run", **RUN) == 2
    assert "expected room for" in one_line(capsys.readouterr().err, "train")
    assert not disk.files()
