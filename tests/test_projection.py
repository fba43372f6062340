"""From a hypergraph of activated neurons to a collaboration graph."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import write_tiny_model
from numba import get_num_threads, set_num_threads

from fnsft.artifacts.activations import open_dump, pack_bits, unpack_bits
from fnsft.artifacts.graphs import (
    CollaborationGraph,
    LayerGraph,
    dense_graph_writer,
    open_dense_graph,
    read_graph,
    write_graph,
)
from fnsft.artifacts.identity import model_identity
from fnsft.artifacts.statistics import TokenStatistics, read_statistics, write_statistics
from fnsft.artifacts.storage import read_json, write_jsonl
from fnsft.cli.main import main
from fnsft.errors import InputError
from fnsft.neurons import bits as neuron_bits
from fnsft.neurons import hyperedges, projection
from fnsft.neurons.bits import hyperedge_sizes, strips
from fnsft.neurons.hyperedges import documents_of, hyperedge_weights, weighted_words
from fnsft.neurons.null import ShuffledBits
from fnsft.neurons.projection import project_layer

Bits = np.ndarray  # [tokens, neurons] bool


def reference(bits: Bits, token_weights: np.ndarray, alpha: float) -> np.ndarray:
    """G from its definition, in float64: every token, every pair of its neurons."""
    graph = np.zeros((bits.shape[1], bits.shape[1]))
    for activated, weight in zip(bits, token_weights, strict=True):
        hyperedge = np.flatnonzero(activated)
        for i in hyperedge:
            for j in hyperedge:
                if i != j:
                    graph[i, j] += float(len(hyperedge)) ** -alpha * weight
    return graph


@dataclass
class MemoryBits:
    """Blocks of bits in memory, cut where it is told; a :class:`fnsft.neurons.bits.Bits`."""

    bits: Bits
    cuts: tuple[int, ...] = ()

    @property
    def n_tokens(self) -> int:
        return len(self.bits)

    @property
    def n_neurons(self) -> int:
        return self.bits.shape[1]

    def rows(self, start: int, stop: int) -> Iterator[np.ndarray]:
        for block in np.split(self.bits, self.cuts):
            yield pack_bits(block.T)[start:stop]


def project(
    bits: Bits | MemoryBits,
    weights: np.ndarray,
    alpha: float,
    k_max: int | None = None,
    **options: Any,
) -> LayerGraph:
    """Project with exact weights (and all neighbours) unless told otherwise."""
    bits = MemoryBits(bits) if isinstance(bits, np.ndarray) else bits
    sizes = hyperedge_sizes(bits)
    options = {"spread": 0.0} | options
    weighed = hyperedge_weights(sizes, weights, alpha)
    return project_layer(bits, sizes, weighed, k_max or bits.n_neurons, **options)


def dense(layer: LayerGraph) -> np.ndarray:
    n_neurons = len(layer.indptr) - 1
    matrix = np.zeros((n_neurons, n_neurons), dtype=np.float32)
    rows = np.repeat(np.arange(n_neurons), np.diff(layer.indptr))
    matrix[rows, layer.indices] = layer.weights
    return matrix


@pytest.fixture
def hypergraph() -> tuple[Bits, np.ndarray]:
    """Random, with tokens that activate nothing or weigh nothing, and a neuron that never fires."""
    rng = np.random.default_rng(0)
    bits = rng.random((300, 21)) < rng.random(21)
    bits[rng.random(300) < 0.1] = False
    bits[:, 7] = False
    return bits, rng.integers(0, 5, size=300) ** 1.3


def test_three_tokens_on_four_neurons_by_hand() -> None:
    """E = {0, 1}, {0, 1, 2}, {3}; TR = 1, 2, 5; α = 1: the pairs of x weigh TR / |E|."""
    bits = np.array([[1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 1]], dtype=bool)
    layer = project(bits, np.array([1.0, 2.0, 5.0]), alpha=1.0, k_max=4)
    heavy, light = 1 / 2 + 2 / 3, 2 / 3
    assert layer.indptr.tolist() == [0, 2, 4, 6, 6]
    assert layer.indices.tolist() == [1, 2, 0, 2, 0, 1]
    assert layer.weights == pytest.approx([heavy, light, heavy, light, light, light])
    assert [a.dtype for a in (layer.indptr, layer.indices, layer.weights)] == [
        np.int64,
        np.int32,
        np.float32,
    ]


@pytest.mark.parametrize("alpha", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("pieces", ["whole", "in pieces"])
def test_the_graph_is_the_definition_in_any_pieces(
    hypergraph: tuple[Bits, np.ndarray], alpha: float, pieces: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of the dump, strips, panels, groups of columns and tiles of words."""
    bits, weights = hypergraph
    cuts: tuple[int, ...] = ()
    if pieces == "in pieces":
        cuts = (64, 192, 256)
        monkeypatch.setattr(projection, "PANEL_ROWS", 4)
        monkeypatch.setattr(neuron_bits, "STRIP", 5)
        monkeypatch.setattr(hyperedges, "TILE_WORDS", 2)
    found = dense(project(MemoryBits(bits, cuts), weights, alpha))
    np.testing.assert_allclose(found, reference(bits, weights, alpha), rtol=2e-5, atol=0)


def test_a_large_layer_with_many_panels_is_the_float64_product() -> None:
    """More than one panel, strip, and group of columns; words of 64 tokens; an odd N."""
    rng = np.random.default_rng(1)
    bits = rng.random((3_000, 601)) < rng.random(601) * 0.6
    weights = rng.integers(1, 9, 3_000).astype(float)
    sizes = bits.sum(axis=1)
    exact = (bits.T * (weights * sizes**-1.5)) @ bits.astype(float)
    np.fill_diagonal(exact, 0)
    matrix = np.full((601, 601), np.nan, dtype=np.float32)
    found = dense(project(bits, weights, 1.5, dense=matrix))
    np.testing.assert_allclose(found, exact, rtol=2e-5)
    assert np.array_equal(found, found.T)
    assert np.array_equal(matrix, found)


@pytest.mark.parametrize("spread", [0.5, hyperedges.SPREAD, 0.001])
def test_no_weight_is_off_by_more_than_the_spread(
    hypergraph: tuple[Bits, np.ndarray], spread: float
) -> None:
    bits, _ = hypergraph
    weights = np.random.default_rng(2).pareto(0.5, len(bits)) + 1e-3
    exact = reference(bits, weights, 2.5)
    found = dense(project(bits, weights, 2.5, spread=spread)).astype(float)
    assert np.array_equal(found > 0, exact > 0)
    off = np.abs(np.log(found[exact > 0] / exact[exact > 0]))
    assert off.max() <= np.log1p(spread) + 2e-5
    assert off.max() > np.log1p(spread) / 50  # it is used, not only kept


def test_every_word_holds_at_most_64_neighbours_in_weight() -> None:
    weights = np.random.default_rng(3).pareto(0.7, 5_000)
    weights[::7] = 0
    plan = weighted_words(weights)
    assert sorted(plan.order.tolist()) == np.flatnonzero(weights).tolist()
    assert plan.starts[0] == plan.tiles[0] == 0
    assert (plan.starts[-1], plan.tiles[-1]) == (len(plan.order), plan.n_words)
    scales = np.repeat(plan.scales, np.diff(plan.tiles))
    for q, (start, stop) in enumerate(itertools.pairwise(plan.starts)):
        inside = weights[plan.order[start:stop]]
        assert 1 <= len(inside) <= 64
        assert inside.max() <= inside.min() * (1 + hyperedges.SPREAD) * (1 + 1e-12)
        assert plan.integers[q] * scales[q] == pytest.approx(inside.mean(), rel=2**-17)
    assert len(weighted_words(np.ones(640)).integers) == 10


@pytest.mark.parametrize("normalise", ["cosine", "degree"])
def test_normalised_weights_are_divided_by_both_neurons_mass_or_degree(
    hypergraph: tuple[Bits, np.ndarray], normalise: str
) -> None:
    bits, weights = hypergraph
    exact = reference(bits, weights, 2.5)
    sizes = np.maximum(bits.sum(axis=1), 1)
    mass = (weights * sizes**-2.5) @ bits if normalise == "cosine" else exact.sum(axis=1)
    expected = exact / np.sqrt(np.outer(mass, mass) + (np.outer(mass, mass) == 0))
    found = dense(project(bits, weights, 2.5, normalise=normalise))
    np.testing.assert_allclose(found, expected, rtol=2e-5)
    if normalise == "cosine":
        assert 0 < found.max() <= 1 + 1e-6


@pytest.mark.parametrize("options", [{}, {"normalise": "degree"}, {"spread": 0.03}], ids=str)
def test_one_thread_and_two_give_the_same_bytes(options: dict[str, Any]) -> None:
    rng = np.random.default_rng(4)
    bits, weights = rng.random((1_000, 300)) < 0.3, rng.pareto(1.0, 1_000)
    threads, found = get_num_threads(), []
    try:
        for n in (1, min(2, threads)):
            set_num_threads(n)
            layer = project(bits, weights, 2.5, 20, **options)
            found.append([a.tobytes() for a in (layer.indptr, layer.indices, layer.weights)])
    finally:
        set_num_threads(threads)
    assert found[0] == found[1]


def test_the_order_of_the_tokens_changes_no_neighbour(
    hypergraph: tuple[Bits, np.ndarray],
) -> None:
    bits, weights = hypergraph
    shuffled = np.random.default_rng(5).permutation(len(bits))
    first, second = (project(bits[o], weights[o], 2.5) for o in (slice(None), shuffled))
    assert np.array_equal(first.indices, second.indices)
    np.testing.assert_allclose(first.weights, second.weights, rtol=1e-6)


def test_strips_are_the_bits_token_by_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neuron_bits, "STRIP", 70)
    bits = np.random.default_rng(6).random((130, 150)) < 0.4
    seen = np.zeros((192, 150), dtype=bool)
    for neurons, token_major in strips(MemoryBits(bits, (64,))):
        octets = token_major.view(np.uint8)
        unpacked = np.unpackbits(octets, axis=1, bitorder="little")
        seen[:, neurons] = unpacked[:, : neurons.stop - neurons.start]
    assert np.array_equal(seen[:130], bits)
    assert not seen[130:].any()
    assert np.array_equal(hyperedge_sizes(MemoryBits(bits)), bits.sum(axis=1))


def test_the_null_keeps_every_neurons_rate_and_not_who_fires_with_whom() -> None:
    rng = np.random.default_rng(7)
    bits = np.repeat(rng.random((2_000, 1)) < 0.5, 10, axis=1)  # all neurons fire together
    null = ShuffledBits(MemoryBits(bits, (64, 640)), seed=0)
    (words,) = null.rows(0, 10)
    shuffled = unpack_bits(words)[:, :2_000].T.astype(bool)
    assert shuffled.sum(axis=0).tolist() == bits.sum(axis=0).tolist()
    assert not unpack_bits(words)[:, 2_000:].any()
    common = (shuffled.T.astype(int) @ shuffled)[np.triu_indices(10, 1)]
    assert common == pytest.approx(np.full(45, bits[:, 0].mean() ** 2 * 2_000), rel=0.15)
    (part,) = null.rows(3, 5)
    assert np.array_equal(part, words[3:5])
    (other,) = ShuffledBits(MemoryBits(bits), seed=1).rows(0, 10)
    assert not np.array_equal(other, words)


def test_the_halves_are_disjoint_and_whole() -> None:
    offsets = np.array([0, 3, 4, 9])
    even, odd = documents_of(offsets, "even"), documents_of(offsets, "odd")
    assert odd.tolist() == [False] * 3 + [True] + [False] * 5
    assert np.array_equal(even, ~odd)
    assert documents_of(offsets, "all").all()
    with pytest.raises(InputError, match="no odd one among 1"):
        documents_of(offsets[:2], "odd")


def test_rows_keep_their_k_heaviest_by_decreasing_weight_and_then_by_index(
    hypergraph: tuple[Bits, np.ndarray],
) -> None:
    bits, weights = hypergraph
    every = dense(project(bits, weights, 2.5))
    for k_max in (1, 5, 21, 1_000):
        layer = project(bits, weights, 2.5, k_max)
        for i, row in enumerate(every):
            edges = slice(layer.indptr[i], layer.indptr[i + 1])
            expected = sorted((j for j in range(21) if row[j] > 0), key=lambda j: (-row[j], j))
            assert layer.indices[edges].tolist() == expected[:k_max]
            assert np.array_equal(layer.weights[edges], row[expected[:k_max]])


def test_of_equal_weights_the_lower_index_is_kept() -> None:
    bits = np.ones((2, 6), dtype=bool)
    layer = project(bits, np.ones(2), alpha=2.5, k_max=2)
    assert layer.indices.reshape(6, 2).tolist() == [[1, 2], [0, 2], *[[0, 1]] * 4]


def test_without_alpha_and_beta_an_edge_counts_common_tokens(
    hypergraph: tuple[Bits, np.ndarray],
) -> None:
    bits, weights = hypergraph
    used = bits[weights > 0].astype(int)
    counts = used.T @ used
    np.fill_diagonal(counts, 0)
    layer = project(bits, (weights > 0).astype(float), 0.0)
    assert np.array_equal(dense(layer), counts)


def test_a_larger_alpha_makes_every_edge_lighter(hypergraph: tuple[Bits, np.ndarray]) -> None:
    """Strictly so, wherever a pair has a common token: |E| is at least 2."""
    bits, weights = hypergraph
    small, large = (dense(project(bits, weights, a)) for a in (1.0, 1.5))
    assert (large <= small).all()
    assert (large[small > 0] < small[small > 0]).all()


def test_a_layer_in_which_no_neuron_fires_has_an_empty_graph() -> None:
    layer = project(np.zeros((70, 5), dtype=bool), np.ones(70), 2.5, 3)
    assert layer.indptr.tolist() == [0] * 6
    assert len(layer.indices) == len(layer.weights) == 0


def test_weights_beyond_float32_are_refused_and_not_lost() -> None:
    with pytest.raises(InputError, match="expected hyperedge weights within float32"):
        hyperedge_weights(np.array([100, 5]), np.ones(2), alpha=30.0)
    with pytest.raises(InputError, match="expected hyperedge weights within float32"):
        hyperedge_weights(np.array([100]), np.array([1e40]), alpha=0.0)


TEXTS = ("Ada has 3 apples and buys 14 more.", "Write a function.", "How many does Ada have?")


@pytest.fixture
def prepared(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """A folder with train.jsonl, tokens.safetensors and activations/ of the tiny model."""
    write_jsonl(tmp_path / "train.jsonl", [{"prompt": t, "completion": t[::-1]} for t in TEXTS])
    source = ["--model", str(tiny_model_dir), "--data", str(tmp_path / "train.jsonl")]
    assert main(["statistics", *source, "--output", str(tmp_path / "tokens.safetensors")]) == 0
    assert main(["capture", *source, "--output", str(tmp_path / "activations")]) == 0
    return tmp_path


def run_project(folder: Path, *flags: str) -> int:
    paths = ["--statistics", str(folder / "tokens.safetensors")]
    paths += ["--activations", str(folder / "activations")]
    return main(["project", *paths, "--output", str(folder / "graph.safetensors"), *flags])


@pytest.mark.parametrize("documents", ["all", "odd"])
def test_the_stage_projects_every_layer_of_a_real_model(
    prepared: Path, tiny_model_dir: Path, documents: str
) -> None:
    """Against the definition: ranks by counting, the top 3 tokens dropped, β = 1.3, α = 2.5."""
    model = model_identity(tiny_model_dir)
    assert run_project(prepared, "--documents", documents, "--dense") == 0
    every = open_dense_graph(prepared / "graph.safetensors", model)
    matrices = [every.layer(number) for number in range(every.n_layers)]
    assert run_project(prepared, "--documents", documents, "--k-max", "5") == 0
    graph = read_graph(prepared / "graph.safetensors", model)
    assert (graph.n_layers, graph.d_mlp, graph.k_max) == (2, 64, 5)
    dump = open_dump(prepared / "activations")
    ids = dump.token_ids.tolist()
    distinct = sorted(set(ids), key=lambda i: (-ids.count(i), i))
    counts = [ids.count(i) for i in distinct]
    mean_rank = {i: np.mean([r for r, c in enumerate(counts, 1) if c == ids.count(i)]) for i in ids}
    weights = np.array([0 if i in distinct[:3] else mean_rank[i] ** 1.3 for i in ids])
    if documents == "odd":
        weights[: dump.sample_offsets[1]] = weights[dump.sample_offsets[2] :] = 0
    notes = read_json(prepared / "graph.safetensors.manifest.json")["notes"]
    assert notes["tokens_without_weight"] == (weights == 0).sum()
    for number, layer in enumerate(graph.layers):
        blocks = [unpack_bits(block) for block in dump.layer(number)]
        bits = np.concatenate(blocks, axis=1)[:, : len(ids)].T.astype(bool)
        expected = reference(bits, weights, 2.5)
        for i, row in enumerate(expected):
            edges = slice(layer.indptr[i], layer.indptr[i + 1])
            heaviest = np.sort(row[row > 0])[::-1][:5]
            np.testing.assert_allclose(layer.weights[edges], heaviest, rtol=0.032)
            np.testing.assert_allclose(row[layer.indices[edges]], heaviest, rtol=0.064)
        np.testing.assert_allclose(matrices[number], expected, rtol=0.032)


def test_more_neighbours_than_there_are_means_all_of_them(
    prepared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_project(prepared, "--k-max", "1000") == 0
    assert "the 63 heaviest neighbours of 64 neurons" in capsys.readouterr().err
    graph = read_graph(prepared / "graph.safetensors")
    assert graph.k_max == 63
    assert max(np.diff(layer.indptr).max() for layer in graph.layers) <= 63


def test_a_silent_layer_is_noted(
    tmp_path: Path, prepared: Path, tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from fnsft.artifacts.activations import DumpWriter, write_dump_tokens

    dump = open_dump(prepared / "activations")
    folder = tmp_path / "silent" / "activations"
    folder.mkdir(parents=True)
    (prepared / "tokens.safetensors").rename(folder.parent / "tokens.safetensors")
    with DumpWriter(folder, dump.shape, dump.model) as writer:
        writer.append(0, np.ones((dump.shape.n_tokens, 64), dtype=bool))
        writer.append(1, np.zeros((dump.shape.n_tokens, 64), dtype=bool))
    write_dump_tokens(folder, dump.shape, dump.token_ids, dump.sample_offsets, dump.model)
    assert run_project(folder.parent) == 0
    assert "no edge in layers [1]" in capsys.readouterr().err
    notes = read_json(folder.parent / "graph.safetensors.manifest.json")["notes"]
    assert notes["layers_without_edge"] == [1]
    assert notes["tokens_without_neuron"] == [0, dump.shape.n_tokens]
    assert notes["neurons_without_edge"] == [0, 64]
    edges = [len(layer.indices) for layer in read_graph(folder.parent / "graph.safetensors").layers]
    assert edges == [64 * 63, 0]


def test_one_document_has_a_graph_but_no_second_half(
    prepared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_jsonl(prepared / "train.jsonl", [{"prompt": TEXTS[0], "completion": TEXTS[1]}])
    source = ["--model", str(prepared / "model"), "--data", str(prepared / "train.jsonl")]
    write_tiny_model(prepared / "model")
    assert main(["statistics", *source, "--output", str(prepared / "tokens.safetensors")]) == 0
    assert main(["capture", *source, "--output", str(prepared / "activations")]) == 0
    assert run_project(prepared, "--documents", "even") == 0
    assert run_project(prepared, "--documents", "odd") == 2
    assert "documents: no odd one among 1; use all" in capsys.readouterr().err


def test_a_dense_graph_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "graph.safetensors"
    with dense_graph_writer(path, 2, 3, "model") as layers:
        layers[0][:] = np.arange(9).reshape(3, 3)
        layers[1][1, 2] = 5
        assert not path.exists()
    graph = open_dense_graph(path, "model")
    assert (graph.n_layers, graph.d_mlp) == (2, 3)
    assert np.array_equal(graph.layer(0), np.arange(9).reshape(3, 3))
    assert graph.layer(1).sum() == graph.layer(1)[1, 2] == 5
    with pytest.raises(InputError, match="expected collaboration-graph of schema 1"):
        read_graph(path)
    with pytest.raises(InputError, match="made from model model, expected model other"):
        open_dense_graph(path, "other")
    with pytest.raises(RuntimeError), dense_graph_writer(path, 2, 3, "model"):
        raise RuntimeError
    assert np.array_equal(open_dense_graph(path).layer(0), np.arange(9).reshape(3, 3))
    with dense_graph_writer(path, 1, 3, "model") as layers:
        layers[0][0, 1] = np.nan
    with pytest.raises(InputError, match="layer 0: expected finite weights"):
        open_dense_graph(path).layer(0)
    truncate(path)
    with pytest.raises(InputError, match="truncated"):
        open_dense_graph(path)


def test_a_dense_graph_that_the_disk_cannot_hold_is_refused_before_a_byte(tmp_path: Path) -> None:
    path = tmp_path / "graph.safetensors"
    with (
        pytest.raises(InputError, match="expected room for"),
        dense_graph_writer(path, 1_000, 1 << 20, "model"),
    ):
        pass
    assert not list(tmp_path.iterdir())


def test_statistics_of_another_model_are_refused(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tiny_model(tmp_path / "other", seed=1)
    statistics = read_statistics(prepared / "tokens.safetensors")
    other = model_identity(tmp_path / "other")
    write_statistics(prepared / "tokens.safetensors", statistics, other)
    assert run_project(prepared) == 2
    assert f"made from model {other}" in capsys.readouterr().err
    assert not (prepared / "graph.safetensors").exists()


def test_statistics_of_another_split_are_refused(
    prepared: Path, tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = prepared / "tokens.safetensors"
    statistics = read_statistics(path)
    statistics.ranks[open_dump(prepared / "activations").token_ids[4]] = 0
    write_statistics(path, statistics, model_identity(tiny_model_dir))
    assert run_project(prepared) == 2
    assert "make both from the same training split" in capsys.readouterr().err


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4])


def make_foreign(path: Path) -> None:
    write_statistics(path, TokenStatistics(np.ones(2, np.int64), np.ones(2)), "model")


@pytest.mark.parametrize("damage", [truncate, make_foreign, Path.unlink])
@pytest.mark.parametrize("name", ["activations/tokens.safetensors", "activations/layer_001"])
def test_a_damaged_or_foreign_dump_is_bad_input(
    prepared: Path, name: str, damage: Callable[[Path], Any]
) -> None:
    damage(prepared / f"{name.removesuffix('.safetensors')}.safetensors")
    assert run_project(prepared) == 2
    assert not (prepared / "graph.safetensors").exists()


def small_graph() -> CollaborationGraph:
    """Two layers of three neurons; row 0 of the first has two edges, row 1 one."""
    edges = LayerGraph(
        np.array([0, 2, 3, 3]), np.array([1, 2, 0], np.int32), np.array([3, 1, 2], np.float32)
    )
    nothing = LayerGraph(np.zeros(4, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
    return CollaborationGraph([edges, nothing], d_mlp=3, k_max=2)


def test_a_graph_is_read_as_it_was_written(tmp_path: Path) -> None:
    graph = small_graph()
    write_graph(tmp_path / "graph.safetensors", graph, "model")
    found = read_graph(tmp_path / "graph.safetensors", "model")
    assert (found.n_layers, found.d_mlp, found.k_max) == (2, 3, 2)
    for before, after in zip(graph.layers, found.layers, strict=True):
        for field in ("indptr", "indices", "weights"):
            assert np.array_equal(getattr(before, field), getattr(after, field))
            assert getattr(before, field).dtype == getattr(after, field).dtype


def test_a_graph_of_another_model_kind_or_length_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "graph.safetensors"
    write_graph(path, small_graph(), "model")
    with pytest.raises(InputError, match="made from model model, expected model other"):
        read_graph(path, "other")
    truncate(path)
    with pytest.raises(InputError, match="truncated"):
        read_graph(path)
    make_foreign(path)
    with pytest.raises(InputError, match="expected collaboration-graph of schema 1"):
        read_graph(path)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("indptr", [0, 2, 1, 3]),
        ("indptr", [0, 2, 3]),
        ("indptr", [0, 2, 3, 4]),
        ("indices", [1, 3, 0]),
        ("weights", [3, 0, 2]),
        ("weights", [3, np.nan, 2]),
        ("weights", [3, 2]),
    ],
)
def test_a_layer_that_is_no_graph_is_refused(
    tmp_path: Path, field: str, values: list[float]
) -> None:
    graph = small_graph()
    fields = vars(graph.layers[0]) | {field: np.array(values)}
    write_graph(
        tmp_path / "graph.safetensors",
        CollaborationGraph([LayerGraph(**fields), graph.layers[1]], 3, 2),
        "model",
    )
    with pytest.raises(InputError, match="layer 0: expected positive weights between 3 neurons"):
        read_graph(tmp_path / "graph.safetensors")
