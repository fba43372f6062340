"""Artefacts that were cut short are named in one line, by every stage that reads them."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from explore_results import write_metrics
from faults import one_line
from network_rows import lesions_of, networks_of
from runs import words

from fnsft.artifacts.lesions import write_lesions
from fnsft.artifacts.networks import write_networks
from fnsft.artifacts.storage import write_json
from fnsft.cli.main import main

pytestmark = pytest.mark.faults
Files = dict[str, Path]


@pytest.fixture
def files(tiny_model_dir: Path, data: Path, graph: Path, clusters: Path, tmp_path: Path) -> Files:
    """Whole artefacts of every kind, this test's own."""
    folder = tmp_path / "in"
    shutil.copytree(tiny_model_dir, folder / "model")
    shutil.copytree(data, folder / "data")
    (folder / "data/prompt_format.json").unlink()
    write_json(folder / "data.manifest.json", {"stage": "prepare", "settings": {}})
    shutil.copytree(graph.parent, folder / "graph")
    write_networks(folder / "networks.safetensors", networks_of(), "m")
    write_lesions(folder / "lesions.jsonl", lesions_of("tiny", (0, 1), n_networks=3))
    write_metrics(folder / "results")
    return {
        "model": folder / "model",
        "data": folder / "data",
        "statistics": folder / "graph/tokens.safetensors",
        "dump": folder / "graph/dump",
        "graph": folder / "graph" / graph.name,
        "clusters": folder / "graph" / clusters.name,
        "networks": folder / "networks.safetensors",
        "lesions": folder / "lesions.jsonl",
        "records": next(folder.glob("results/metrics/**/world.jsonl")),
        "output": tmp_path / "out" / "x.safetensors",
    }


def reading(stage: str, *names: str) -> Callable[[Files], list[str]]:
    """Return a command of a stage that reads the files of these flags."""

    def command(files: Files) -> list[str]:
        given = {"data": files["data"] / "train.jsonl", "activations": files["dump"]}
        flags = [word for name in names for word in (f"--{name}", str((files | given)[name]))]
        return [stage, *flags, "--output", str(files["output"])]

    return command


def training(**settings: str) -> Callable[[Files], list[str]]:
    def command(files: Files) -> list[str]:
        given = {name: files.get(value, value) for name, value in settings.items()}
        return words(files["model"], files["data"], files["output"].with_suffix(""), **given)

    return command


def table(files: Files) -> list[str]:
    out = files["output"]
    outputs = ["--output", str(out.with_suffix(".tex")), "--csv", str(out.with_suffix(".csv"))]
    return ["table", "--kind", "benchmarks", "--records", str(files["records"]), *outputs]


def figure(kind: str, name: str) -> Callable[[Files], list[str]]:
    def command(files: Files) -> list[str]:
        output = ["--output", str(files["output"].with_suffix(".pdf"))]
        return ["figure", "--kind", kind, "--inputs", str(files[name]), *output]

    return command


COLLAB = {"method": "collab", "fraction": "0.5"}
# What is cut: a file, below one of the fixture's or itself; who reads it.
CUT: dict[str, tuple[str, str, Callable[[Files], list[str]]]] = {
    "statistics": ("statistics", "", reading("project", "statistics", "activations")),
    "activations": (
        "dump",
        "layer_000.safetensors",
        reading("project", "statistics", "activations"),
    ),
    "tokens": ("dump", "tokens.safetensors", reading("project", "statistics", "activations")),
    "graph": ("graph", "", reading("cluster", "graph")),
    "graph of a run": ("graph", "", training(**COLLAB, graph="graph")),
    "clusters": ("clusters", "", training(**COLLAB, affinity="cluster", clusters="clusters")),
    "networks": ("networks", "", figure("coverage", "networks")),
    "networks of a run": ("networks", "", training(mask_mode="lesion", networks="networks")),
    "model of a run": ("model", "model.safetensors", training()),
    "model": ("model", "model.safetensors", reading("capture", "model", "data")),
    "twin of a model": ("model", "config.json", reading("twin", "model")),
    "tokenizer": ("model", "tokenizer.json", reading("statistics", "model", "data")),
    "configuration": ("model", "config.json", reading("capture", "model", "data")),
    "rows": ("data", "train.jsonl", reading("statistics", "model", "data")),
    "rows of a run": ("data", "validation.jsonl", training()),
    "manifest": ("data", "../data.manifest.json", training()),
    "records": ("records", "", table),
    "lesions": ("lesions", "", figure("lesions", "lesions")),
}


@pytest.mark.parametrize("kind", CUT)
def test_what_was_cut_short_is_named_and_nothing_is_made_of_it(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    name, below, command = CUT[kind]
    path = (files[name] / below).resolve() if below else files[name]
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    (tmp_path / "out").mkdir()
    given = command(files)
    assert main(given) == 2
    line = one_line(capsys.readouterr().err, given[0])
    assert path.name in line or str(path.parent) in line
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("kind", ["statistics", "graph", "model", "rows", "lesions"])
def test_the_same_commands_end_well_with_what_is_whole(
    files: Files, tmp_path: Path, kind: str
) -> None:
    """Else what refuses the cut files might be something else."""
    assert main(CUT[kind][2](files)) == 0
    assert list((tmp_path / "out").iterdir())
