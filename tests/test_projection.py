"""From a hypergraph of activated neurons to a collaboration graph."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import write_tiny_model

from fnsft.artifacts.activations import open_dump, pack_bits, unpack_bits
from fnsft.artifacts.graphs import CollaborationGraph, LayerGraph, read_graph, write_graph
from fnsft.artifacts.identity import model_identity
from fnsft.artifacts.statistics import TokenStatistics, read_statistics, write_statistics
from fnsft.artifacts.storage import read_json, write_jsonl
from fnsft.cli.main import main
from fnsft.errors import InputError
from fnsft.neurons import projection
from fnsft.neurons.projection import hyperedge_sizes, hyperedge_weights, project_layer

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


def packed(bits: Bits, *cuts: int) -> list[np.ndarray]:
    return [pack_bits(block.T) for block in np.split(bits, cuts)]


def project(
    blocks: list[np.ndarray], weights: np.ndarray, alpha: float, k_max: int | None
) -> LayerGraph:
    sizes = hyperedge_sizes(blocks, len(weights))
    return project_layer(blocks, hyperedge_weights(sizes, weights, alpha), k_max)


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
    layer = project(packed(bits), np.array([1.0, 2.0, 5.0]), alpha=1.0, k_max=4)
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
@pytest.mark.parametrize("rows", [4, 1_024], ids=["rows in pieces", "all rows"])
def test_the_graph_is_the_definition_in_any_pieces(
    hypergraph: tuple[Bits, np.ndarray], alpha: float, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projection, "ROWS", rows)
    bits, weights = hypergraph
    for blocks in (packed(bits), packed(bits, 64, 192, 256)):
        found = dense(project(blocks, weights, alpha, None))
        np.testing.assert_allclose(found, reference(bits, weights, alpha), rtol=1e-6, atol=0)


def test_rows_keep_their_k_heaviest_by_decreasing_weight_and_then_by_index(
    hypergraph: tuple[Bits, np.ndarray],
) -> None:
    bits, weights = hypergraph
    every = dense(project(packed(bits), weights, 2.5, None))
    for k_max in (1, 5, 21, 1_000):
        layer = project(packed(bits), weights, 2.5, k_max)
        for i, row in enumerate(every):
            edges = slice(layer.indptr[i], layer.indptr[i + 1])
            expected = sorted((j for j in range(21) if row[j] > 0), key=lambda j: (-row[j], j))
            assert layer.indices[edges].tolist() == expected[:k_max]
            assert np.array_equal(layer.weights[edges], row[expected[:k_max]])


def test_of_equal_weights_the_lower_index_is_kept() -> None:
    bits = np.ones((2, 6), dtype=bool)
    layer = project(packed(bits), np.ones(2), alpha=2.5, k_max=2)
    assert layer.indices.reshape(6, 2).tolist() == [[1, 2], [0, 2], *[[0, 1]] * 4]


def test_without_alpha_and_beta_an_edge_counts_common_tokens(
    hypergraph: tuple[Bits, np.ndarray],
) -> None:
    bits, weights = hypergraph
    used = bits[weights > 0].astype(int)
    counts = used.T @ used
    np.fill_diagonal(counts, 0)
    layer = project(packed(bits), (weights > 0).astype(float), 0.0, None)
    assert np.array_equal(dense(layer), counts)


def test_a_larger_alpha_makes_every_edge_lighter(hypergraph: tuple[Bits, np.ndarray]) -> None:
    """Strictly so, wherever a pair has a common token: |E| is at least 2."""
    bits, weights = hypergraph
    small, large = (dense(project(packed(bits), weights, a, None)) for a in (1.0, 1.5))
    assert (large <= small).all()
    assert (large[small > 0] < small[small > 0]).all()


def test_a_layer_in_which_no_neuron_fires_has_an_empty_graph() -> None:
    layer = project(packed(np.zeros((70, 5), dtype=bool)), np.ones(70), 2.5, 3)
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


@pytest.mark.parametrize("flags", [["--k-max", "5"], ["--dense"]], ids=" ".join)
def test_the_stage_projects_every_layer_of_a_real_model(
    prepared: Path, tiny_model_dir: Path, flags: list[str]
) -> None:
    """Against the definition: ranks by counting, the top 3 tokens dropped, β = 1.3, α = 2.5."""
    assert run_project(prepared, *flags) == 0
    graph = read_graph(prepared / "graph.safetensors", model_identity(tiny_model_dir))
    k_max = 5 if flags[0] == "--k-max" else None
    assert (graph.n_layers, graph.d_mlp, graph.k_max) == (2, 64, k_max)
    dump = open_dump(prepared / "activations")
    ids = dump.token_ids.tolist()
    distinct = sorted(set(ids), key=lambda i: (-ids.count(i), i))
    counts = [ids.count(i) for i in distinct]
    mean_rank = {i: np.mean([r for r, c in enumerate(counts, 1) if c == ids.count(i)]) for i in ids}
    weights = np.array([0 if i in distinct[:3] else mean_rank[i] ** 1.3 for i in ids])
    notes = read_json(prepared / "graph.safetensors.manifest.json")["notes"]
    assert notes["tokens_dropped_as_frequent"] == (weights == 0).sum()
    for number, layer in enumerate(graph.layers):
        blocks = [unpack_bits(block) for block in dump.layer(number)]
        bits = np.concatenate(blocks, axis=1)[:, : len(ids)].T.astype(bool)
        expected = reference(bits, weights, 2.5)
        for i, row in enumerate(expected):
            edges = slice(layer.indptr[i], layer.indptr[i + 1])
            heaviest = np.sort(row[row > 0])[::-1][:k_max]
            np.testing.assert_allclose(layer.weights[edges], heaviest, rtol=1e-5)
            np.testing.assert_allclose(row[layer.indices[edges]], heaviest, rtol=1e-5)


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
    assert notes["edges"] == [64 * 63, 0]


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


@pytest.mark.parametrize("k_max", [2, None])
def test_a_graph_is_read_as_it_was_written(tmp_path: Path, k_max: int | None) -> None:
    graph = CollaborationGraph(small_graph().layers, 3, k_max)
    write_graph(tmp_path / "graph.safetensors", graph, "model")
    found = read_graph(tmp_path / "graph.safetensors", "model")
    assert (found.n_layers, found.d_mlp, found.k_max) == (2, 3, k_max)
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
