"""The tree itself: layers, pins, start-up time."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest
import yaml
from clock import starts

from fnsft.cli.main import STAGES

# A layer may import itself and what stands before it.
LAYERS = [
    "errors",
    "devices",
    "compilation",
    "config",
    "artifacts",
    "hub",
    "architectures",
    "data",
    "neurons",
    "masks",
    "training",
    "evaluation",
    "reporting",
    "planning",
    "cli",
]


def imports_of(source: Path) -> set[str]:
    """The layers that a module imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(source.read_text())):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        found |= {name.split(".")[1] for name in names if name.startswith("fnsft.")}
    return found


def test_data_flows_one_way_through_the_layers(repository: Path) -> None:
    wrong = []
    for source in sorted((repository / "fnsft").rglob("*.py")):
        layer = source.relative_to(repository / "fnsft").parts[0].removesuffix(".py")
        if layer in LAYERS:
            allowed = LAYERS[: LAYERS.index(layer) + 1]
            wrong += [f"{source.name} imports {other}" for other in imports_of(source) - {*allowed}]
    assert not wrong


def test_the_names_that_benchmarks_import_exist(repository: Path) -> None:
    missing = []
    for source in sorted((repository / "benchmarks").glob("*.py")):
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fnsft"):
                module = importlib.import_module(str(node.module))
                missing += [
                    (source.name, a.name) for a in node.names if not hasattr(module, a.name)
                ]
    assert not missing


@pytest.mark.parametrize("layer", ["config", "reporting"])
def test_a_layer_without_torch_imports_none(repository: Path, layer: str) -> None:
    for source in (repository / "fnsft" / layer).rglob("*.py"):
        text = source.read_text()
        assert not re.search(r"^\s*(import|from) (torch|transformers|trl)\b", text, re.M), source


def pins(lines: list[str]) -> dict[str, str]:
    found = (line.split(";")[0].split("==") for line in lines if "==" in line)
    return {re.sub(r"[-_.]+", "-", name).lower(): version.strip() for name, version in found}


def test_environment_and_constraints_pin_every_dependency_alike(repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    constraints = pins((repository / "constraints.txt").read_text().splitlines())
    environment = yaml.safe_load((repository / "environment.yml").read_text())
    conda = pins(next(d for d in environment["dependencies"] if isinstance(d, dict))["pip"])
    wanted = project["dependencies"] + project["optional-dependencies"]["test"]
    names = {re.match(r"[A-Za-z0-9._-]+", line)[0].lower() for line in wanted}
    assert set(conda) == names
    assert conda == {name: constraints[name] for name in names}


@pytest.mark.parametrize("arguments", [[], *[[stage] for stage in STAGES]], ids=str)
def test_help_imports_little_and_nothing_that_is_installed(arguments: list[str]) -> None:
    """Imports are what takes time before a stage begins."""
    modules, said = imported("-m", "fnsft", *arguments, "--help")
    assert "usage: fnsft" in said
    tops = {module.partition(".")[0] for module in modules} - of_bare_python()
    python = {*sys.stdlib_module_names, "org"}  # Jython's, which posix asks for
    assert {top for top in tops - python if not top.startswith("_")} == {"fnsft"}
    assert len(modules) < 250


def imported(*arguments: str) -> tuple[list[str], str]:
    """Return the modules that Python imports with these arguments, and what it prints."""
    command = [sys.executable, "-X", "importtime", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return re.findall(r"^import time: .*\| +([\w.]+)$", done.stderr, re.M), done.stdout


@cache
def of_bare_python() -> set[str]:
    """Return what every start imports: some machines have hooks of their own."""
    return {module.partition(".")[0] for module in imported("-c", "")[0]}


def test_help_answers_in_time() -> None:
    """Within half a second of a machine that starts the yardstick in a quarter of one."""
    command = [sys.executable, "-m", "fnsft", "train", "--help"]
    assert starts(lambda: subprocess.run(command, capture_output=True, check=True), 2) <= 2


def test_tests_that_would_begin_too_late_are_skipped_and_counted(repository: Path) -> None:
    test = "tests/test_repository.py::test_data_flows_one_way_through_the_layers"
    command = [sys.executable, "-m", "pytest", "-rs", "--minutes", "0", test]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert "not begun: 0 minutes were over" in done.stdout and "1 skipped" in done.stdout
