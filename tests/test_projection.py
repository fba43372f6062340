"""From activations to a graph: the formula, the ranks, and what is kept of a row."""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from models import write_tiny_model

from fnsft.artifacts.activations import open_dump, pack_bits, unpack_bits
from fnsft.artifacts.graphs import LayerGraph, read_graph
from fnsft.artifacts.identity import model_identity
from fnsft.artifacts.statistics import read_statistics
from fnsft.artifacts.storage import write_jsonl
from fnsft.cli.main import main
from fnsft.errors import InputError
from fnsft.neurons import projection
from fnsft.neurons.frequencies import frequency_ranks, token_weights
from fnsft.neurons.projection import hyperedge_sizes, hyperedge_weights, project_layer


def reference(bits: np.ndarray, token_ids: np.ndarray, alpha: float, beta: float, drop: int):
    """G by its definition, token by token and pair by pair, in float64; bits are [N, T]."""
    counts = {token: int((token_ids == token).sum()) for token in set(token_ids.tolist())}
    rank = {
        token: np.mean(
            [
                1 + sum(c > counts[token] for c in counts.values()) + place
                for place in range(sum(c == counts[token] for c in counts.values()))
            ]
        )
        for token in counts
    }
    dropped = sorted(counts, key=lambda token: (-counts[token], token))[:drop]
    graph = np.zeros((len(bits), len(bits)))
    for x, token in enumerate(token_ids.tolist()):
        edge = np.flatnonzero(bits[:, x])
        if token in dropped or len(edge) == 0:
            continue
        for i, j in product(edge, edge):
            if i != j:
                graph[i, j] += len(edge) ** -alpha * rank[token] ** beta
    return graph


def blocks_of(bits: np.ndarray, block_tokens: int) -> list[np.ndarray]:
    starts = range(0, bits.shape[1], block_tokens)
    return [pack_bits(bits[:, start : start + block_tokens]) for start in starts]


def projected(bits, token_ids, alpha, beta, drop, k_max, block_tokens=64) -> LayerGraph:
    blocks = blocks_of(bits, block_tokens)
    ranks = frequency_ranks(np.bincount(token_ids, minlength=token_ids.max() + 2))
    weights = token_weights(token_ids, ranks, beta, drop)
    sizes = hyperedge_sizes(blocks, len(token_ids))
    return project_layer(blocks, hyperedge_weights(sizes, weights, alpha), k_max)


def as_dense(layer: LayerGraph) -> np.ndarray:
    n = len(layer.indptr) - 1
    dense = np.zeros((n, n))
    for i in range(n):
        row = slice(layer.indptr[i], layer.indptr[i + 1])
        dense[i, layer.indices[row]] = layer.weights[row]
    return dense


@pytest.fixture(scope="module")
def random_case() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    bits = generator.random((37, 301)) < generator.uniform(0, 0.6, (37, 1))
    bits[:, 5] = False  # a token that activates nothing
    token_ids = generator.zipf(1.3, 301).clip(max=40)
    return bits, token_ids


@pytest.mark.parametrize(
    ("alpha", "beta", "drop"), [(2.5, 1.3, 3), (0, 0, 0), (1, 0, 3), (0, 2, 1)]
)
@pytest.mark.parametrize("block_tokens", [64, 128, 512])
def test_the_graph_is_that_of_the_formula(random_case, alpha, beta, drop, block_tokens) -> None:
    bits, token_ids = random_case
    found = as_dense(projected(bits, token_ids, alpha, beta, drop, None, block_tokens))
    np.testing.assert_allclose(found, reference(bits, token_ids, alpha, beta, drop), rtol=2e-6)


def test_rows_in_several_parts_give_the_same_graph(random_case, monkeypatch) -> None:
    bits, token_ids = random_case
    whole = as_dense(projected(bits, token_ids, 2.5, 1.3, 3, None))
    monkeypatch.setattr(projection, "ROWS", 10)
    parts = as_dense(projected(bits, token_ids, 2.5, 1.3, 3, None))
    np.testing.assert_allclose(parts, whole, rtol=1e-6)


def test_a_case_worked_by_hand() -> None:
    """Tokens a, b, b over neurons 0 to 3; b is the more frequent, so TR(b) = 1, TR(a) = 2^β.

    E(a) = {0, 1, 2} weighs 3^−1 · 2 = 2/3; both b have E = {0, 1}, 2^−1 · 1 = 1/2 each.
    """
    bits = np.array([[1, 1, 1], [1, 1, 1], [1, 0, 0], [0, 0, 0]], dtype=bool)
    layer = projected(bits, np.array([7, 4, 4]), alpha=1, beta=1, drop=0, k_max=2)
    expected = np.zeros((4, 4))
    expected[0, 1] = expected[1, 0] = 2 / 3 + 1
    expected[[0, 1], 2] = expected[2, [0, 1]] = 2 / 3
    np.testing.assert_allclose(as_dense(layer), expected, rtol=1e-6)


def test_a_row_keeps_its_largest_weights_in_falling_order(random_case) -> None:
    bits, token_ids = random_case
    whole = as_dense(projected(bits, token_ids, 2.5, 1.3, 3, None))
    kept = projected(bits, token_ids, 2.5, 1.3, 3, 5)
    for i, row in enumerate(whole):
        found = slice(kept.indptr[i], kept.indptr[i + 1])
        order = sorted(np.flatnonzero(row), key=lambda j: (-row[j], j))[:5]
        assert kept.indices[found].tolist() == order
        assert i not in order


def test_k_max_of_all_neurons_or_more_keeps_every_edge(random_case) -> None:
    bits, token_ids = random_case
    whole = as_dense(projected(bits, token_ids, 2.5, 1.3, 3, None))
    np.testing.assert_array_equal(as_dense(projected(bits, token_ids, 2.5, 1.3, 3, 1000)), whole)


def test_a_layer_that_never_fires_has_no_edge(random_case) -> None:
    bits, token_ids = random_case
    layer = projected(np.zeros_like(bits), token_ids, 2.5, 1.3, 3, 5)
    assert layer.indptr.tolist() == [0] * (len(bits) + 1)


def test_ranks_are_by_falling_frequency_and_shared_by_equals() -> None:
    assert frequency_ranks(np.array([5, 0, 9, 5, 1])).tolist() == [2.5, 0, 1, 2.5, 4]


def test_the_most_frequent_tokens_make_no_hyperedge() -> None:
    ranks = frequency_ranks(np.array([5, 0, 9, 5, 1]))
    weights = token_weights(np.array([0, 2, 3, 4]), ranks, beta=1.0, drop_top_tokens=2)
    assert weights.tolist() == [0, 0, 2.5, 4], "of equals the smaller id goes first"


def test_weights_beyond_float32_are_refused() -> None:
    with pytest.raises(InputError, match="use smaller exponents"):
        hyperedge_weights(np.array([3000]), np.array([1.0]), alpha=20)


@pytest.mark.parametrize("n_tokens", [1, 63, 64, 65, 200])
def test_packed_bits_unpack_to_what_they_were(n_tokens: int) -> None:
    bits = np.random.default_rng(n_tokens).random((5, n_tokens)) < 0.5
    assert (unpack_bits(pack_bits(bits))[:, :n_tokens] == bits).all()
    assert not unpack_bits(pack_bits(bits))[:, n_tokens:].any()
    # A view that is not contiguous, as a transposed batch is.
    assert (pack_bits(np.asfortranarray(bits)) == pack_bits(bits)).all()


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, a split, its statistics and its dump."""
    folder = tmp_path_factory.mktemp("chain")
    write_tiny_model(folder / "model")
    rows = [{"prompt": f"Question: {i}+{i}?\nAnswer:", "completion": f" {2 * i}"} for i in range(9)]
    write_jsonl(folder / "train.jsonl", rows)
    inputs = ["--model", str(folder / "model"), "--data", str(folder / "train.jsonl")]
    assert main(["statistics", *inputs, "--output", str(folder / "tokens.safetensors")]) == 0
    assert main(["capture", *inputs, "--output", str(folder / "dump")]) == 0
    return folder


def project(chain: Path, output: Path, **inputs: Path) -> int:
    statistics = inputs.get("statistics", chain / "tokens.safetensors")
    dump = inputs.get("activations", chain / "dump")
    flags = ["--statistics", str(statistics), "--activations", str(dump)]
    return main(["project", *flags, "--output", str(output), "--k-max", "7"])


def test_the_stage_agrees_with_the_formula(chain: Path, tmp_path: Path) -> None:
    assert project(chain, tmp_path / "g.safetensors") == 0
    graph = read_graph(tmp_path / "g.safetensors", model_identity(chain / "model"))
    dump = open_dump(chain / "dump")
    counts = np.bincount(dump.token_ids, minlength=320)
    assert (read_statistics(chain / "tokens.safetensors").counts == counts).all()
    assert (graph.n_layers, graph.d_mlp, graph.k_max) == (2, 64, 7)
    for number, layer in enumerate(graph.layers):
        bits = np.concatenate([unpack_bits(block) for block in dump.layer(number)], axis=1)
        bits = bits[:, : dump.shape.n_tokens].astype(bool)
        whole = reference(bits, dump.token_ids, 2.5, 1.3, 3)
        kept = as_dense(layer)
        assert ((kept > 0).sum(axis=1) <= 7).all()
        np.testing.assert_allclose(kept[kept > 0], whole[kept > 0], rtol=1e-5)
    notes = json.loads((tmp_path / "g.safetensors.manifest.json").read_text())["notes"]
    assert notes["tokens"] == len(dump.token_ids)


def test_foreign_and_truncated_inputs_are_named(chain: Path, tmp_path: Path, capsys) -> None:
    write_tiny_model(tmp_path / "other", seed=1)
    flags = ["--model", str(tmp_path / "other"), "--data", str(chain / "train.jsonl")]
    main(["statistics", *flags, "--output", str(tmp_path / "tokens.safetensors")])
    capsys.readouterr()
    output = tmp_path / "g.safetensors"
    assert project(chain, output, statistics=tmp_path / "tokens.safetensors") == 2
    assert "made from model" in capsys.readouterr().err
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes((chain / "tokens.safetensors").read_bytes()[:100])
    assert project(chain, output, statistics=cut) == 2
    assert "truncated or not safetensors" in capsys.readouterr().err
    assert project(chain, output, activations=tmp_path / "nowhere") == 2
    assert "no such file or folder" in capsys.readouterr().err
    assert not output.exists()
