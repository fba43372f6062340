"""``benchmarks/gpu.py`` at toy sizes on the CPU, with nothing installed that it may not need."""

import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from fnsft.artifacts.activations import unpack_bits


@pytest.fixture(scope="module")
def gpu(repository: Path) -> ModuleType:
    path = repository / "benchmarks" / "gpu.py"
    spec = importlib.util.spec_from_file_location("benchmark_of_gpus", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.processes
def test_the_gpu_benchmark_runs_where_little_is_installed(
    repository: Path, tmp_path: Path, gpu: ModuleType
) -> None:
    """From another folder, as whoever copies the repository does; no package of ours is found."""
    command = [sys.executable, str(repository / "tests" / "bare_imports.py")]
    command += [str(repository / "benchmarks" / "gpu.py"), "--device", "cpu", "--quick"]
    command += ["--sections", *reversed(gpu.SECTIONS)]  # none needs what another has imported
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    *parts, last = map(json.loads, done.stdout.splitlines())
    assert [list(part) for part in parts] == [[name] for name in reversed(gpu.SECTIONS)]
    for name in gpu.SECTIONS:
        assert "error" not in last[name], done.stderr
        assert last[name]["section_seconds"] > 0
    assert last["quick"]
    assert {name for name, aim in last["aims"].items() if aim["met"] is None} == {
        "projection.share_of_matmul_rate",  # of rates that are measured last here
        "selection.float32_selection_passes",
        "selection.bfloat16_selection_passes",
    }
    assert last["projection"]["largest_relative_error"] < 2e-3
    assert last["projection"]["knn_recall"] > 0.99
    assert last["networks"]["recovery"] > 0.9


@pytest.fixture
def bench(gpu: ModuleType) -> Any:
    return gpu.Bench(torch.device("cpu"), gpu.QUICK, time.monotonic() + 60)


def test_a_section_that_fails_keeps_what_it_found_and_stops_no_other(
    gpu: ModuleType, bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(bench: Any) -> Any:
        yield {"found": 1 / 3}
        raise ValueError("no such\nthing")

    monkeypatch.setitem(gpu.SECTIONS, "machine", failing)
    found = gpu.guarded("machine", bench)
    assert found["found"] == 0.33333
    assert found["error"] == "ValueError: no such"
    bench.end = 0.0
    assert gpu.guarded("machine", bench) == {"error": "not run: no time was left"}
    compared = gpu.aims({"machine": found, "capture": {"share_of_bare_forward": 0.9}})
    assert compared["capture.share_of_bare_forward"]["met"] is True
    assert compared["projection.seconds_per_layer"] == {"value": None, "aim": "<= 2", "met": None}


def test_the_benchmarks_exact_rows_are_the_float64_sums_of_its_bits(
    gpu: ModuleType, bench: Any
) -> None:
    bits = gpu.RandomBits(bench)
    weights = gpu.zipf_weights(bits.n_tokens)
    unpacked = np.concatenate([unpack_bits(b) for b in bits.rows(0, bits.n_neurons)], axis=1)
    assert not unpacked[:, bits.n_tokens :].any()
    assert unpacked.mean() == pytest.approx(0.25, abs=0.01)
    tokens = unpacked[:, : bits.n_tokens].astype(float)
    expected = (tokens[[3, 7]] * weights) @ tokens.T
    expected[[0, 1], [3, 7]] = 0
    rows = np.array([3, 7])
    np.testing.assert_allclose(bits.exact_rows(rows, weights, bench.device), expected, rtol=1e-12)


def test_pairs_are_those_of_the_blocks_on_and_above_the_diagonal(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fnsft.neurons import projection_torch

    monkeypatch.setattr(projection_torch, "BLOCK_ROWS", 2)
    assert gpu.multiplied_pairs(5) == 2 * 5 + 2 * 3 + 1
    monkeypatch.setattr(projection_torch, "PANEL_BYTES", 4 * 5 * 3)  # panels of three rows
    assert gpu.multiplied_pairs(5) == (2 * 5 + 1 * 3) + 2 * 2
