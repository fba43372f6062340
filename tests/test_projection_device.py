"""The projection as an accelerator does it, on the CPU; its kernel in Triton's interpreter."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_projection import Bits, MemoryBits, dense, prepared, reference, run_project

from fnsft import devices
from fnsft.artifacts.activations import pack_bits
from fnsft.artifacts.graphs import LayerGraph, open_dense_graph, read_graph
from fnsft.cli import project as project_cli
from fnsft.neurons import projection_torch
from fnsft.neurons.heaviest import Heaviest
from fnsft.neurons.hyperedges import hyperedge_weights
from fnsft.neurons.projection import NumbaLayer, projector
from fnsft.neurons.unpacking import unpacked

__all__ = ["prepared"]  # a fixture
CPU = torch.device("cpu")
BOUND = 2**-10 + 2**-15  # √w in float16, twice, and a few float32 sums


def project(
    bits: Bits | MemoryBits, weights: np.ndarray, alpha: float, k: int, **options: Any
) -> LayerGraph:
    opened = projector(MemoryBits(bits) if isinstance(bits, np.ndarray) else bits, CPU)
    sizes = opened.sizes()
    return opened.project(sizes, hyperedge_weights(sizes, weights, alpha), k, **options)


def in_small_pieces(monkeypatch: pytest.MonkeyPatch, n_neurons: int) -> None:
    """Two panels or more, of blocks of four rows; groups of two words; products of 50 tokens."""
    for name, value in (
        ("PANEL_BYTES", 4 * n_neurons * 9),
        ("BLOCK_ROWS", 4),
        ("GROUP_TOKENS", 128),
        ("CHUNK_TOKENS", 50),
    ):
        monkeypatch.setattr(projection_torch, name, value)


@pytest.fixture
def hypergraph() -> tuple[Bits, np.ndarray]:
    rng = np.random.default_rng(0)
    bits = rng.random((300, 21)) < rng.random(21)
    bits[rng.random(300) < 0.1] = False
    bits[:, 7] = False
    return bits, rng.integers(0, 900, size=300) ** 1.3


@pytest.mark.parametrize("alpha", [0.0, 2.5])
@pytest.mark.parametrize("pieces", ["whole", "in pieces", "in pieces that do not stay"])
def test_the_graph_is_the_definition_up_to_the_stated_bound(
    hypergraph: tuple[Bits, np.ndarray], alpha: float, pieces: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bits, weights = hypergraph
    cuts: tuple[int, ...] = ()
    if pieces != "whole":
        cuts = (64, 192, 256)
        in_small_pieces(monkeypatch, 21)
    if pieces == "in pieces that do not stay":
        monkeypatch.setattr(projection_torch, "RESIDENT_BYTES", 0)
    matrix = np.full((21, 21), np.nan, dtype=np.float32)
    found = dense(project(MemoryBits(bits, cuts), weights, alpha, 21, dense=matrix))
    exact = reference(bits, weights, alpha)
    np.testing.assert_allclose(found, exact, rtol=BOUND, atol=0)
    assert np.abs(found / np.where(exact > 0, exact, 1) - (exact > 0)).max() > 2**-24
    assert np.array_equal(found, found.T)
    assert np.array_equal(matrix, found)


def test_weights_of_every_order_that_float32_has_keep_their_precision() -> None:
    """Every token joins two neurons that no other token joins."""
    weights = 2.0 ** np.random.default_rng(1).uniform(-125, 127, 100)
    bits = np.repeat(np.eye(100, dtype=bool), 2, axis=1)
    edges = project(bits, weights, 0.0, 1)
    assert edges.indices.tolist() == [i ^ 1 for i in range(200)]
    np.testing.assert_allclose(edges.weights, np.repeat(weights, 2), rtol=BOUND, atol=0)


@pytest.mark.parametrize("normalise", ["cosine", "degree"])
def test_normalised_weights_are_those_of_the_cpu(
    hypergraph: tuple[Bits, np.ndarray], normalise: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bits, weights = hypergraph
    in_small_pieces(monkeypatch, 21)
    opened = NumbaLayer(MemoryBits(bits))
    weighed = hyperedge_weights(opened.sizes(), weights, 2.5)
    expected = dense(opened.project(opened.sizes(), weighed, 21, normalise))  # type: ignore[arg-type]
    found = dense(project(bits, weights, 2.5, 21, normalise=normalise))
    np.testing.assert_allclose(found, expected, rtol=0.032)  # the words' spread
    exact = reference(bits, weights, 2.5)
    mass = exact.sum(axis=1) if normalise == "degree" else weighed @ bits
    exact /= np.sqrt(np.outer(mass, mass) + (np.outer(mass, mass) == 0))
    np.testing.assert_allclose(found, exact, rtol=BOUND)


def test_hyperedge_sizes_are_counted_on_the_device(
    hypergraph: tuple[Bits, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    bits, _ = hypergraph
    in_small_pieces(monkeypatch, 21)
    sizes = projector(MemoryBits(bits, (64, 192)), CPU).sizes()
    assert sizes.dtype == np.int64
    assert np.array_equal(sizes, bits.sum(axis=1))


def test_a_layer_is_read_once_when_its_bits_fit(hypergraph: tuple[Bits, np.ndarray]) -> None:
    bits, weights = hypergraph

    class Counted(MemoryBits):
        reads = 0

        def rows(self, start: int, stop: int) -> Any:
            self.reads += 1
            return super().rows(start, stop)

    counted = Counted(bits)
    project(counted, weights, 2.5, 5, normalise="degree")
    assert counted.reads == 1


@pytest.mark.parametrize("width", [5, 64])
def test_rows_keep_their_heaviest_and_of_equal_weights_the_lower_index(width: int) -> None:
    """Against a sort of all; few distinct weights, so that most rows tie at the last place."""
    rng = np.random.default_rng(2)
    graph = rng.integers(0, 4, (40, 64)).astype(np.float32) / 3
    for k in (1, 7, 30):
        heaviest = Heaviest(40, k, CPU)
        for first in range(0, 64, width):
            panel = torch.from_numpy(graph[:, first : first + width].copy())
            heaviest.offer(slice(0, 15), panel[:15], first)
            heaviest.offer(slice(15, 40), panel[15:].T.contiguous().T, first)
        weights, indices = heaviest.found()
        for row, found, places in zip(graph, weights, indices, strict=True):
            expected = sorted(range(64), key=lambda j, row=row: (-row[j], j))[:k]
            assert np.array_equal(found, row[expected])
            kept = found > 0
            assert places[kept].tolist() == np.array(expected)[kept].tolist()


def test_the_device_finds_the_neighbours_of_the_cpu() -> None:
    rng = np.random.default_rng(3)
    bits = rng.random((2_000, 200)) < rng.random(200) * 0.6
    weights = rng.integers(1, 9_000, 2_000).astype(float)
    opened = NumbaLayer(MemoryBits(bits))
    weighed = hyperedge_weights(opened.sizes(), weights, 2.5)
    ours = opened.project(opened.sizes(), weighed, 20)
    found = project(bits, weights, 2.5, 20)
    shared = [
        len(np.intersect1d(ours.indices[i : i + 20], found.indices[i : i + 20]))
        for i in ours.indptr[:-1]
    ]
    assert np.mean(shared) / 20 > 0.99


def test_a_silent_layer_has_an_empty_graph_on_a_device_too() -> None:
    layer = project(np.zeros((70, 5), dtype=bool), np.ones(70), 2.5, 3)
    assert layer.indptr.tolist() == [0] * 6


def test_the_stage_multiplies_on_the_accelerator_that_it_is_told_to_use(
    prepared: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, taken = prepared / "graph.safetensors", []
    monkeypatch.setattr(devices, "take", taken.append)
    assert run_project(prepared, "--device", "accelerator") == 2
    assert "device: expected an accelerator" in capsys.readouterr().err
    monkeypatch.setattr(project_cli, "accelerator_of", lambda settings: CPU)
    assert run_project(prepared, "--device", "accelerator", "--dense") == 0
    found = open_dense_graph(path)
    every = [found.layer(number) for number in range(found.n_layers)]
    assert run_project(prepared, "--device", "accelerator", "--k-max", "5") == 0
    nearest = read_graph(path)
    monkeypatch.undo()
    monkeypatch.setattr(devices, "take", taken.append)
    assert run_project(prepared, "--dense") == 0
    assert taken == [1, 1, 1, 0]
    on_cpu = open_dense_graph(path)
    for number, matrix in enumerate(every):
        np.testing.assert_allclose(matrix, on_cpu.layer(number), rtol=0.034)
        for i, row in enumerate(matrix):
            edges = slice(*nearest.layers[number].indptr[i : i + 2])
            expected = sorted(np.flatnonzero(row), key=lambda j, row=row: (-row[j], j))[:5]
            assert nearest.layers[number].indices[edges].tolist() == expected


KERNEL = """
import sys
import numpy as np, torch
from fnsft.neurons import unpacking, unpacking_triton
rng = np.random.default_rng(0)
octets = torch.from_numpy(rng.integers(0, 256, (37, 90), dtype=np.uint8))
for dtype in (torch.float16, torch.float32):
    for n_tokens in (1, 300, 512):
        tokens = torch.from_numpy(rng.choice(720, n_tokens, replace=False).astype(np.int32))
        values = torch.from_numpy(rng.random(n_tokens)).to(dtype)
        for part in (octets, octets[5:], octets[:, 10:60]):
            some = tokens % (8 * part.shape[1])
            expected = unpacking.unpacked(part, some, values)
            assert torch.equal(unpacking_triton.unpacked(part, some, values), expected)
print("same")
"""


def test_the_triton_kernel_unpacks_as_torch_does() -> None:
    pytest.importorskip("triton")
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    command = [sys.executable, "-c", KERNEL]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.stdout == "same\n", done.stderr


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_unpacked_values_are_those_of_the_bits(dtype: torch.dtype) -> None:
    rng = np.random.default_rng(4)
    bits = rng.random((11, 200)) < 0.5
    octets = torch.from_numpy(pack_bits(bits).view(np.uint8))
    tokens = rng.permutation(200)[:90]
    values = torch.from_numpy(rng.random(90)).to(dtype)
    found = unpacked(octets, torch.from_numpy(tokens.astype(np.int32)), values)
    assert found.dtype == dtype
    assert np.array_equal(found.numpy(), bits[:, tokens] * values.numpy())
