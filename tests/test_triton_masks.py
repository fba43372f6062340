"""Triton's kernels: interpreted on the CPU, compiled for GPUs that are not here, and without."""

import ast
import importlib.util
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import torch

from fnsft.masks import kernels

CASES = Path(__file__).with_name("triton_cases.py")
NAMES = [
    node.name
    for node in ast.parse(CASES.read_text()).body
    if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
]
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed (Linux only)"
)


def run_cases(folder: Path, interpreted: bool) -> dict[str, list[ElementTree.Element]]:
    """Run the cases in a process of their own; return their outcomes by function."""
    report = folder / "cases.xml"
    options = ["--noconftest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
    command = [sys.executable, "-m", "pytest", *options, str(CASES)]
    environment = os.environ | {"TRITON_INTERPRET": str(int(interpreted))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert report.exists(), done.stdout + done.stderr
    found: dict[str, list[ElementTree.Element]] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        found.setdefault(case.attrib["name"].split("[")[0], []).append(case)
    return found


def require_success(cases: list[ElementTree.Element]) -> None:
    broken = [
        f"{case.attrib['name']}\n{outcome.text}"
        for case in cases
        for outcome in case
        if outcome.tag in ("failure", "error")
    ]
    assert cases, "it did not run"
    assert not broken, "\n".join(broken)


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[ElementTree.Element]]:
    return run_cases(tmp_path_factory.mktemp("interpreted"), interpreted=True)


@needs_triton
@pytest.mark.parametrize("name", NAMES)
def test_interpreted(name, interpreted):
    require_success(interpreted.get(name, []))


@needs_triton
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_compiled_on_a_gpu(tmp_path):
    found = run_cases(tmp_path, interpreted=False)
    require_success([case for name in NAMES for case in found.get(name, [])])


def test_without_triton_nothing_is_missed():
    program = """
import sys
sys.modules["triton"] = None
import torch
from fnsft.masks import kernels, optimizer, score, top_fraction
assert not kernels._works(torch.device("cpu"))
print(int(top_fraction(torch.rand(10), 0.3).sum()))
"""
    command = [sys.executable, "-c", program]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout == "3\n"


@needs_triton
def test_where_kernels_do_not_run_a_warning_says_so_and_plain_torch_does_the_work():
    # On the CPU nothing compiles them.
    with pytest.warns(UserWarning, match="Triton's kernels do not run here .*; going on without"):
        assert not kernels._works.__wrapped__(torch.device("cpu"))
    assert not kernels.uses_triton(torch.device("cpu"))
    assert not kernels.uses_triton(torch.device("mps"))
