"""Spectral clusters: against a dense Laplacian, planted communities, and awkward graphs."""

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from fnsft.artifacts.activations import pack_bits
from fnsft.artifacts.clusters import read_clusters
from fnsft.artifacts.graphs import CollaborationGraph, LayerGraph, write_graph
from fnsft.artifacts.storage import read_json
from fnsft.cli.main import main
from fnsft.errors import InputError
from fnsft.neurons import clustering
from fnsft.neurons.clustering import (
    cluster_layer,
    entropy_bits,
    laplacian_eigenvectors,
    symmetric_knn,
)
from fnsft.neurons.hyperedges import hyperedge_weights
from fnsft.neurons.projection import project_layer

K_MAX = 300
BASIC = {"k": 8, "n_eigenvectors": 3, "n_clusters": 4, "min_entropy_bits": 0.0, "seed": 0}


def as_layer(matrix: np.ndarray) -> LayerGraph:
    """The positive entries of [N, N] as the graph is stored: rows by decreasing weight."""
    rows = [sorted(np.flatnonzero(row), key=lambda j: (-row[j], j)) for row in matrix]
    indptr = np.cumsum([0] + [len(row) for row in rows])
    weights = [matrix[i, j] for i, row in enumerate(rows) for j in row]
    indices = np.array(list(itertools.chain(*rows)), dtype=np.int32)
    return LayerGraph(indptr, indices, np.array(weights, dtype=np.float32))


def blocks(*sizes: int, bridges: float = 0.01, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Weights near 1 inside of blocks and a few heavier between them, mixed; and the block."""
    rng = np.random.default_rng(seed)
    block = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    weights = rng.uniform(0.8, 1.2, (len(block), len(block)))
    between = block[:, None] != block
    weights[between] *= 1.5 * (rng.random(between.sum()) < bridges)
    weights = np.triu(weights, 1)
    return (weights + weights.T).astype(np.float32), block


def hub(n: int = 60, seed: int = 0) -> np.ndarray:
    """A chain of neurons that all hear neuron 0 loudest, whose weights span eight decades."""
    weights = np.zeros((n, n), dtype=np.float32)
    weights[0, 1:] = weights[1:, 0] = np.random.default_rng(seed).uniform(1e2, 1e3, n - 1)
    for i in range(1, n - 1):
        weights[i, i + 1] = weights[i + 1, i] = 10.0 ** -(i % 6)
    return weights


class Incidence:
    """A layer's bits from bools [tokens, neurons]."""

    def __init__(self, tokens: np.ndarray) -> None:
        self.words = pack_bits(tokens.T)
        self.n_tokens, self.n_neurons = tokens.shape

    def rows(self, start: int, stop: int) -> Iterator[np.ndarray]:
        yield self.words[start:stop]


def laplacian(matrix: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """L by its definition, entry by entry, and the degrees; of a graph without isolated neurons."""
    n = len(matrix)
    knn = np.zeros((n, n))
    for i, row in enumerate(matrix):
        for j in sorted(np.flatnonzero(row), key=lambda j: (-row[j], j))[:k]:
            knn[i, j] = row[j]
    degrees = [sum(max(knn[i, j], knn[j, i]) for j in range(n)) for i in range(n)]
    found = np.eye(n)
    for i, j in itertools.product(range(n), repeat=2):
        found[i, j] -= max(knn[i, j], knn[j, i]) / math.sqrt(degrees[i] * degrees[j])
    return found, np.array(degrees)


def same_partition(one: np.ndarray, other: np.ndarray) -> bool:
    pairs = set(zip(one.tolist(), other.tolist(), strict=True))
    return len(pairs) == len(set(one.tolist())) == len(set(other.tolist()))


GRAPHS = {
    "connected": blocks(30, 20, 10)[0],
    "four components": blocks(20, 20, 11, 9, bridges=0)[0],
    "hub": hub(),
}


@pytest.mark.parametrize("solver", ["dense", "lanczos"])
@pytest.mark.parametrize("name", GRAPHS)
def test_the_eigenvectors_are_those_of_the_laplacian_without_the_trivial_one(
    name: str, solver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if solver == "lanczos":
        monkeypatch.setattr(clustering, "DENSE_NEURONS", 0)
        monkeypatch.setattr(clustering, "eigh", None)
    expected, degrees = laplacian(GRAPHS[name], k=8)
    graph = symmetric_knn(as_layer(GRAPHS[name]), 8)
    values, vectors = laplacian_eigenvectors(graph, 7, seed=0)
    assert (values[0] > 0) == (name != "four components")
    np.testing.assert_allclose(values, np.linalg.eigvalsh(expected)[1:8], atol=1e-10)
    np.testing.assert_allclose(expected @ vectors, vectors * values, atol=1e-9)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(7), atol=1e-9)
    np.testing.assert_allclose(np.sqrt(degrees) @ vectors, 0, atol=1e-9 * degrees.sum())
    assert (vectors.max(axis=0) >= -vectors.min(axis=0)).all()


def test_a_component_is_one_eigenvalue_of_zero_in_a_large_graph_too() -> None:
    """Above the dense solver's size; a Lanczos solver alone would miss some of the nine."""
    n, part = 900, 90
    weights = np.zeros((n, n), dtype=np.float32)
    for i in range(n):
        for step in (1, 2, 3):
            j = i // part * part + (i + step) % part
            weights[i, j] = weights[j, i] = 1
    graph = symmetric_knn(as_layer(weights), 6)
    values, vectors = laplacian_eigenvectors(graph, 12, seed=0)
    assert np.flatnonzero(values == 0).tolist() == list(range(9))
    laplacian_of_vectors = vectors - graph @ vectors / 6
    np.testing.assert_allclose(laplacian_of_vectors, vectors * values, atol=1e-9)
    # A ring of 90 with steps 1 to 3: eigenvalue 1 − Σ cos(2π step/90)/3, twice in each ring.
    slowest = 1 - sum(math.cos(2 * math.pi * step / part) for step in (1, 2, 3)) / 3
    np.testing.assert_allclose(values[9:], slowest, atol=1e-10)


def test_planted_communities_are_recovered_and_numbered_by_size() -> None:
    matrix, block = blocks(14, 40, 26, 20, seed=3)
    found = cluster_layer(as_layer(matrix), K_MAX, **BASIC)
    by_size = np.argsort([1, 3, 2, 0])  # sizes 40, 26, 20, 14 are blocks 1, 2, 3, 0
    assert by_size.tolist() == [3, 0, 2, 1]
    expected = np.array([3, 0, 1, 2])[block]
    assert np.array_equal(found.labels, expected)
    assert np.array_equal(found.labels_unsplit, expected)
    assert found.labels.dtype == found.labels_unsplit.dtype == np.int32


def test_of_equal_clusters_the_one_with_the_lowest_neuron_comes_first() -> None:
    matrix, block = blocks(20, 20, 20, seed=5)
    found = cluster_layer(as_layer(matrix), K_MAX, **BASIC | {"n_clusters": 3})
    assert same_partition(found.labels, block)
    first = [members[0] for members in found.members]
    assert first == sorted(first)


def test_rows_of_the_embedding_have_length_one_or_no_edge() -> None:
    matrix, _ = blocks(30, 20, 10)
    matrix[[4, 17]] = 0
    matrix[:, [4, 17]] = 0
    found = cluster_layer(as_layer(matrix), K_MAX, **BASIC)
    lengths = np.linalg.norm(found.embedding, axis=1)
    assert np.flatnonzero(found.labels == -1).tolist() == [4, 17]
    assert np.flatnonzero(lengths == 0).tolist() == [4, 17]
    np.testing.assert_allclose(np.delete(lengths, [4, 17]), 1, rtol=1e-6)
    assert (found.embedding.dtype, found.eigenvalues.dtype) == (np.float32, np.float64)
    assert found.embedding.shape == (60, 3)
    assert (np.diff(found.eigenvalues) >= 0).all()


def test_a_neuron_is_connected_by_the_rows_of_others_too() -> None:
    """Row 3 is empty, and neuron 0 keeps it: max(K, Kᵀ) has the edge in both rows."""
    weights = np.zeros((5, 5), dtype=np.float32)
    weights[0, 3], weights[0, 1], weights[1, 0], weights[1, 2], weights[2, 1] = 5, 2, 1, 3, 3
    knn = symmetric_knn(as_layer(weights), 1).toarray()
    expected = np.zeros((5, 5))
    expected[0, 3] = expected[3, 0] = 5
    expected[1, 2] = expected[2, 1] = 3
    assert np.array_equal(knn, expected)


@pytest.mark.parametrize("alpha", [0.0, 1.0, 2.5])
def test_the_clustered_graph_has_the_cut_of_its_hypergraph(alpha: float) -> None:
    """Projected with β = 0, the weight across a cut S is Σ_e |S∩e|·(|e| − |S∩e|)/|e|^α."""
    rng = np.random.default_rng(0)
    one = np.zeros((1, 20), dtype=bool)
    one[0, :13] = True
    for tokens in (one, rng.random((150, 20)) < rng.random(20)):
        sizes = tokens.sum(axis=1)
        weights = hyperedge_weights(sizes, np.ones(len(tokens)), alpha)
        layer = project_layer(Incidence(tokens), sizes, weights, 20, spread=0)
        graph = symmetric_knn(layer, 19).toarray()
        inside = np.zeros(20, dtype=bool)
        for neuron in rng.permutation(20):
            inside[neuron] = True
            within = (tokens & inside).sum(axis=1)
            cut = (within * (sizes - within) * np.maximum(sizes, 1.0) ** -alpha).sum()
            assert graph[inside][:, ~inside].sum() == pytest.approx(cut, rel=1e-4)


def test_the_entropy_of_halves_and_quarters_by_hand() -> None:
    assert entropy_bits(np.array([0, 0, 1, 2, -1, -1, -1])) == 1.5
    assert entropy_bits(np.zeros(9, dtype=int)) == 0
    assert entropy_bits(np.full(9, -1)) == 0


@pytest.mark.parametrize("wanted", [0.0, 2.5, 4.0])
def test_the_largest_cluster_is_split_until_the_entropy_is_reached(wanted: float) -> None:
    matrix, _ = blocks(40, 30, 30, seed=1)
    settings = BASIC | {"n_clusters": 3, "n_eigenvectors": 2, "min_entropy_bits": wanted}
    found = cluster_layer(as_layer(matrix), K_MAX, **settings)
    before, after = entropy_bits(found.labels_unsplit), entropy_bits(found.labels)
    assert before == pytest.approx(-(0.4 * math.log2(0.4) + 0.6 * math.log2(0.3)))
    if wanted == 0:
        assert np.array_equal(found.labels, found.labels_unsplit)
    else:
        assert after >= wanted
        assert len(found.members) < 2 ** (wanted + 1), "split further than was asked"
    for members in found.members:
        assert len(set(found.labels_unsplit[members])) == 1, "a cluster is cut, never mixed"
    sizes = [len(members) for members in found.members]
    assert sizes == sorted(sizes, reverse=True)


def test_more_entropy_than_neurons_can_carry_ends_with_single_neurons() -> None:
    matrix, _ = blocks(7, 5, seed=2)
    settings = BASIC | {"k": 6, "n_eigenvectors": 32, "min_entropy_bits": 9.0}
    found = cluster_layer(as_layer(matrix), K_MAX, **settings)
    assert sorted(found.labels) == list(range(12))
    assert found.embedding.shape == (12, 11)


def test_a_largest_cluster_of_one_point_ends_the_splitting() -> None:
    """Two components and one eigenvector: the embedding has two points alone."""
    matrix, block = blocks(25, 15, bridges=0)
    settings = BASIC | {"n_eigenvectors": 1, "n_clusters": 8, "min_entropy_bits": 4.0}
    found = cluster_layer(as_layer(matrix), K_MAX, **settings)
    assert np.array_equal(found.labels, block)
    assert np.array_equal(found.labels_unsplit, block)


def test_components_are_clusters_when_there_are_as_many() -> None:
    matrix, block = blocks(30, 20, 10, bridges=0, seed=4)
    settings = BASIC | {"n_eigenvectors": 2, "n_clusters": 3}
    found = cluster_layer(as_layer(matrix), K_MAX, **settings)
    assert np.array_equal(found.labels, block)
    assert found.eigenvalues.tolist() == [0, 0]


def test_of_too_many_components_the_largest_are_told_apart() -> None:
    matrix, block = blocks(30, 20, 10, 8, 6, bridges=0, seed=4)
    settings = BASIC | {"n_eigenvectors": 2, "n_clusters": 3, "k": 5}
    found = cluster_layer(as_layer(matrix), K_MAX, **settings)
    assert np.array_equal(found.labels, np.array([0, 1, 2, 0, 0])[block])


def test_a_hub_splits_no_cluster_off_by_being_a_hub() -> None:
    """All neurons hear neuron 0 most; the two blocks behind it are found nevertheless."""
    matrix, block = blocks(30, 29, bridges=0, seed=6)
    everywhere = np.pad(matrix, ((1, 0), (1, 0)), constant_values=2)
    everywhere[0, 0] = 0
    settings = BASIC | {"n_eigenvectors": 1, "n_clusters": 2}
    found = cluster_layer(as_layer(everywhere), K_MAX, **settings)
    assert same_partition(found.labels[1:], block)


@pytest.mark.parametrize("n_edges", [0, 1])
def test_a_layer_with_hardly_an_edge_has_what_clusters_there_are(n_edges: int) -> None:
    weights = np.zeros((30, 30), dtype=np.float32)
    weights[5, 9] = n_edges
    found = cluster_layer(as_layer(weights), K_MAX, **BASIC | {"min_entropy_bits": 4.0})
    expected = np.full(30, -1)
    expected[[5, 9]] = (0, 1) if n_edges else -1
    assert np.array_equal(found.labels, expected)
    assert found.embedding.shape == (30, n_edges)
    # Two neurons and an edge: L = [[1, −1], [−1, 1]].
    assert found.eigenvalues.tolist() == pytest.approx([2.0] * n_edges)


def as_bytes(**settings: Any) -> bytes:
    matrix, _ = blocks(200, 150, 130, seed=8)
    found = cluster_layer(as_layer(matrix), K_MAX, **BASIC | settings)
    return b"".join(part.tobytes() for part in vars(found).values())


def test_the_same_input_gives_the_same_bytes_with_any_number_of_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two threads may well agree by luck, so that those inside are counted too."""
    settings = {"min_entropy_bits": 4.0, "n_eigenvectors": 8}
    threads_inside = set()

    def spied(*arguments: Any) -> np.ndarray:
        threads_inside.update(library["num_threads"] for library in threadpool_info())
        return unit_rows(*arguments)

    unit_rows = clustering._unit_rows
    monkeypatch.setattr(clustering, "_unit_rows", spied)
    found = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            found += [as_bytes(**settings), as_bytes(**settings)]
    assert len(set(found)) == 1
    assert threads_inside == {1}
    assert as_bytes(**settings, seed=1) not in found


def test_eigenvectors_that_do_not_converge_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clustering, "RESTARTS", 1)
    with pytest.raises(
        InputError, match="expected 8 beyond those of components to converge, found"
    ):
        as_bytes(n_eigenvectors=8)


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """Two layers of 60 neurons: three blocks and four isolated neurons; no edge."""
    matrix, _ = blocks(30, 16, 10)
    layer = as_layer(np.pad(matrix, (0, 4)))
    silent = as_layer(np.zeros((60, 60), dtype=np.float32))
    k_max = int(np.diff(layer.indptr).max())
    path = tmp_path / "graph.safetensors"
    write_graph(path, CollaborationGraph([layer, silent], 60, k_max), "model")
    return path


def run_cluster(graph: Path, **settings: Any) -> int:
    output = graph.with_name("clusters.safetensors")
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    return main(["cluster", "--graph", str(graph), "--output", str(output), *flags])


def test_the_stage_writes_clusters_and_says_what_it_found(
    graph: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = BASIC | {"min_entropy_bits": 2.0, "n_clusters": 3}
    assert run_cluster(graph, **settings) == 0
    found = read_clusters(graph.with_name("clusters.safetensors"), "model")
    assert found.d_mlp == 60
    matrix, block = blocks(30, 16, 10)
    assert same_partition(found.layers[0].labels_unsplit, np.pad(block, (0, 4), constant_values=9))
    members = read_json(graph.with_name("clusters.json"))
    assert members == {"0": found.layers[0].members, "1": []}
    notes = read_json(graph.with_name("clusters.safetensors.manifest.json"))["notes"]
    shares = np.array([30, 16, 10]) / 56
    before = -(shares * np.log2(shares)).sum()
    assert notes["entropy_bits_unsplit"] == [pytest.approx(before, abs=1e-4), 0]
    assert notes["entropy_bits"] == [
        pytest.approx(entropy_bits(found.layers[0].labels), abs=1e-4),
        0,
    ]
    assert notes["entropy_bits"][0] >= 2 > before
    assert notes["clusters"] == [len(members["0"]), 0]
    assert notes["eigenvectors"] == [3, 0]
    assert notes["neurons_without_edge"] == [4, 60]
    assert notes["layers_without_edge"] == [1]
    assert notes["layers_below_min_entropy"] == []
    line = capsys.readouterr().err
    assert "no edge in layers [1]" in line
    assert "under" not in line


def test_a_layer_that_cannot_carry_the_entropy_is_named(
    graph: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cluster(graph, **BASIC | {"min_entropy_bits": 30.0}) == 0
    assert "under 30.0 bits in layers [0]" in capsys.readouterr().err
    notes = read_json(graph.with_name("clusters.safetensors.manifest.json"))["notes"]
    assert notes["layers_below_min_entropy"] == [0]


@pytest.mark.parametrize(
    ("k", "message"),
    [(40, "k: expected at most the k_max="), (60, "k: expected fewer than the 60 neurons")],
)
def test_more_neighbours_than_there_are_is_bad_input(
    graph: Path, capsys: pytest.CaptureFixture[str], k: int, message: str
) -> None:
    assert run_cluster(graph, k=k) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not graph.with_name("clusters.safetensors").exists()
