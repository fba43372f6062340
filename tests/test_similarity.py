"""Whether neighbours are described alike: formulas, planted groups, chance, and the two tables."""

import csv
import dataclasses
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from fnsft.artifacts.descriptions import Description, read_descriptions, write_descriptions
from fnsft.artifacts.graphs import CollaborationGraph, LayerGraph, write_graph
from fnsft.artifacts.similarity import read_similarity, write_similarity
from fnsft.cli.main import main
from fnsft.config.stages import SimilaritySettings
from fnsft.errors import InputError
from fnsft.neurons.embeddings import embed
from fnsft.neurons.similarity import (
    Connections,
    Share,
    neuron_vectors,
    random_neighbours,
    rank_bounds,
    rank_connections,
    top_shares,
)

Q = (5.0, 10.0, 20.0, 30.0, 50.0, 100.0)


def unit(rng: np.random.Generator, n: int, d: int = 16) -> np.ndarray:
    vectors = rng.normal(size=(n, d))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_similarity_is_the_weighted_mean_of_the_cosines_of_all_pairs_of_descriptions() -> None:
    rng = np.random.default_rng(0)
    vectors, scores = unit(rng, 7), rng.random(7)
    neurons = np.array([0, 0, 1, 2, 2, 4, 4])  # 3 has none
    scores[5:] = 0  # and those of 4 are not valid
    found, defined = neuron_vectors(vectors, scores, neurons, 5)
    assert defined.tolist() == [True, True, True, False, False]
    for i, j in itertools.combinations(range(3), 2):
        pairs = [(a, b) for a in np.flatnonzero(neurons == i) for b in np.flatnonzero(neurons == j)]
        weights = np.array([scores[a] * scores[b] for a, b in pairs])
        cosines = np.array([float(vectors[a] @ vectors[b]) for a, b in pairs])
        assert found[i] @ found[j] == pytest.approx((weights * cosines).sum() / weights.sum())


@pytest.mark.parametrize("n", [1, 25, 200])
def test_a_bound_is_the_share_at_which_so_low_a_rank_has_the_chance_that_is_left(n: int) -> None:
    bounds = rank_bounds(n, 0.9)
    for rank in range(n):
        assert binom.cdf(rank, n, bounds[rank]) == pytest.approx(0.1)
    assert bounds[n] == 1 and (np.diff(bounds) > 0).all()


def ring(n: int, offsets: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Connect every neuron with those at some distances."""
    rows = np.repeat(np.arange(n), len(offsets))
    return rows, (rows + np.tile(offsets, n)) % n


def test_a_rank_counts_the_others_that_are_as_similar_without_itself_and_the_neighbours() -> None:
    rng = np.random.default_rng(1)
    vectors, defined = unit(rng, 30), np.ones(30, dtype=bool)
    defined[[4, 17]] = False
    rows, columns = ring(30, (1, 5, 9))
    found = rank_connections(vectors, defined, rows, columns, 200, rng)
    kept = [(i, j) for i, j in zip(rows, columns, strict=True) if defined[i] and defined[j]]
    assert list(zip(found.rows, found.columns, strict=True)) == kept
    for at, (i, j) in enumerate(kept):
        own = {int(b) for a, b in kept if a == i}
        others = [m for m in range(30) if defined[m] and m != i and m not in own]
        similar = vectors[others] @ vectors[i]
        assert found.n_random[at] == len(others)
        assert found.ranks[at] == (similar >= vectors[j] @ vectors[i]).sum()
        assert found.random_similarity[at] == pytest.approx(similar.mean(), abs=1e-6)


def test_all_neighbours_of_a_neuron_are_ranked_among_the_same_neurons() -> None:
    rng = np.random.default_rng(2)
    vectors = np.repeat(unit(rng, 300), 2, axis=0)  # neurons 2m and 2m + 1 are the same
    rows = np.repeat(np.arange(600), 2)
    pairs = rng.integers(1, 300, 600) + np.arange(600) // 2
    columns = np.stack([2 * pairs, 2 * pairs + 1], axis=1).ravel() % 600
    found = rank_connections(vectors, np.ones(600, dtype=bool), rows, columns, 50, rng)
    first, second = found.ranks.reshape(600, 2).T
    assert (first == second).all() and len(np.unique(first)) > 40
    assert (found.n_random == 50).all()


def test_ties_count_against_a_neighbour() -> None:
    vectors = np.tile(unit(np.random.default_rng(3), 1), (50, 1))
    found = rank_connections(
        vectors, np.ones(50, dtype=bool), *ring(50, (1,)), 20, np.random.default_rng(0)
    )
    assert (found.ranks == 20).all()
    assert [top.n for top, _ in top_shares(found, Q, 0.9)] == [0, 0, 0, 0, 0, 50]


def test_random_neighbours_are_in_each_top_as_often_as_is_expected() -> None:
    rng = np.random.default_rng(4)
    n = 3_000  # of as many dimensions, so that nobody is the neighbour of many
    vectors, defined = unit(rng, n, 64), np.ones(n, dtype=bool)
    rows, columns = random_neighbours(np.repeat(np.arange(n), 3), defined, rng)
    assert (rows != columns).all()
    assert (np.diff(np.sort(columns.reshape(n, 3), axis=1), axis=1) > 0).all()  # all different
    found = rank_connections(vectors, defined, rows, columns, 200, rng)
    shares = top_shares(found, Q, 0.9)
    bounds = rank_bounds(200, 0.9)
    for q, (top, within) in zip(Q, shares, strict=True):
        assert top.expected == pytest.approx((bounds <= q / 100).sum() / 201)
        if q < 100:
            assert top.stderr is not None and within.stderr is not None
            assert abs(top.share - top.expected) < 4 * top.stderr
            assert abs(within.share - within.expected) < 4 * within.stderr
    assert sum(within.n for _, within in shares) == shares[-1][0].n == len(rows)


def test_a_random_neighbour_is_another_neuron_that_is_described() -> None:
    defined = np.array([True, False, True, True, True])
    rows = np.repeat([0, 2, 3, 4], 3)
    _, columns = random_neighbours(rows, defined, np.random.default_rng(0))
    drawn = [set(columns[rows == i]) for i in (0, 2, 3, 4)]
    assert drawn == [{0, 2, 3, 4} - {i} for i in (0, 2, 3, 4)]


def test_random_neighbours_of_a_neuron_do_not_depend_on_how_many_others_have() -> None:
    defined = np.ones(3_000, dtype=bool)
    few, many = (np.repeat(np.arange(60), [2] * 59 + [last]) for last in (2, 900))
    alone, beside = (
        random_neighbours(rows, defined, np.random.default_rng(3))[1] for rows in (few, many)
    )
    assert (alone == beside[:120]).all()


def test_errors_of_a_share_take_connections_with_a_neuron_in_common_together() -> None:
    rng = np.random.default_rng(7)
    rows = np.repeat(np.arange(12), 5)
    columns = np.concatenate([rng.choice(8, 5, replace=False) for _ in range(12)])
    ranks = np.where(0.1 * columns + 0.06 * rows + 0.3 * rng.random(60) > 0.8, 0, 200)
    same, n = np.zeros(60), np.full(60, 200)

    def top_of(rows: np.ndarray, columns: np.ndarray) -> Share:
        return top_shares(Connections(rows, columns, ranks, n, same, same), (5.0,), 0.9)[0][0]

    off = (ranks == 0) - (ranks == 0).mean()
    common = (rows[:, None] == rows) | (columns[:, None] == columns)
    slow = (off[:, None] * off * common).sum()
    n_ends = len(np.unique(columns))
    assert top_of(rows, columns).stderr == pytest.approx(np.sqrt(n_ends / (n_ends - 1) * slow) / 60)
    share = (ranks == 0).mean()
    alone = top_of(np.arange(60), np.arange(60))
    assert (alone.n, alone.share) == ((ranks == 0).sum(), share)
    assert alone.stderr == pytest.approx(np.sqrt(share * (1 - share) / 59))
    assert top_of(rows, np.zeros(60, dtype=int)).stderr is None


GROUPS = 50
VOCABULARY = [f"{a}{b}{c}" for a in "bdfgk" for b in "aeiou" for c in "lmnrst"]


def group_texts(rng: np.random.Generator) -> list[str]:
    """Six neurons a group, whose texts draw on the same three words."""
    texts = []
    for group in range(GROUPS):
        words = VOCABULARY[3 * group : 3 * group + 3]
        texts += [", ".join(f'" {word}"' for word in rng.permutation(words)) for _ in range(6)]
    return texts


def test_neighbours_that_share_a_vocabulary_rank_first_and_a_shuffled_graph_by_chance() -> None:
    rng = np.random.default_rng(5)
    vectors = embed(group_texts(rng), SimilaritySettings())
    n = 6 * GROUPS
    rows = np.repeat(np.arange(n), 5)
    inside = np.array([[6 * (i // 6) + (i + m) % 6 for m in range(1, 6)] for i in range(n)]).ravel()
    defined = np.ones(n, dtype=bool)
    found = rank_connections(vectors, defined, rows, inside, 200, rng)
    assert (found.ranks == 0).all()
    assert top_shares(found, Q, 0.9)[0][0].share == 1.0
    shuffled = rng.permutation(n)
    order = np.argsort(shuffled[rows], kind="stable")
    rows, columns = shuffled[rows][order], shuffled[inside][order]
    found = rank_connections(vectors, defined, rows, columns, 200, rng)
    for top, _ in top_shares(found, (10.0, 30.0), 0.9):
        assert top.stderr is not None and abs(top.share - top.expected) < 4 * top.stderr


def test_texts_are_vectors_of_length_1_and_nearer_the_more_they_share() -> None:
    texts = ["apples, pears", "an apple", "ten o'clock", "apples, pears", '"="']
    for n_components in (2, 128):
        found = embed(texts, SimilaritySettings(n_components=n_components))
        lengths = np.linalg.norm(found, axis=1).round(6)
        assert set(lengths) == ({0, 1} if n_components == 2 else {1})  # two do not hold them all
        assert (found[0] == found[3]).all()
    assert found[0] @ found[1] > 0.1 > abs(found[0] @ found[2])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("texts", [["x", "x"], ["apples, pears"], ["x", "x "]])
def test_texts_that_are_too_few_or_too_short_to_reduce_are_vectors_too(texts: list[str]) -> None:
    found = embed(texts, SimilaritySettings())
    assert np.linalg.norm(found, axis=1) == pytest.approx(1) and (found[0] == found[-1]).all()


# --- the stage and its tables ---


def graph_of(columns: np.ndarray, k: int) -> LayerGraph:
    n = len(columns) // k
    weights = np.tile(np.arange(k, 0, -1, dtype=np.float32), n)
    return LayerGraph(np.arange(n + 1) * k, columns.astype(np.int32), weights)


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """Two layers whose groups share a vocabulary; of the graphs one follows them, one does not."""
    rng = np.random.default_rng(6)
    n = 6 * GROUPS
    inside = np.array([[6 * (i // 6) + (i + m) % 6 for m in range(1, 6)] for i in range(n)]).ravel()
    anyone = random_neighbours(np.repeat(np.arange(n), 5), np.ones(n, dtype=bool), rng)[1]
    for name, columns in (("graph", inside), ("null", anyone)):
        layers = [graph_of(columns, 5)] * 2
        write_graph(tmp_path / f"{name}.safetensors", CollaborationGraph(layers, n, 5), "abc")
    descriptions = [
        Description(layer, neuron, "+", text, 0.0 if neuron == 0 else 0.5)
        for layer in (0, 1)
        for neuron, text in enumerate(group_texts(rng))
    ]
    write_descriptions(tmp_path / "d.jsonl", descriptions, "abc")
    return tmp_path


def similarity(folder: Path, graph: str, source: str, *flags: Any) -> int:
    paths = ["--graph", folder / f"{graph}.safetensors", "--descriptions", folder / "d.jsonl"]
    paths += ["--output", folder / f"{source}.jsonl"]
    names = ["--model-name", "m", "--task", "t", "--graph-name", "g", "--run-seed", "0"]
    words = [*paths, *names, "--source", source, "--n-random", "100", *flags]
    return main(["similarity", *map(str, words)])


def table(folder: Path, kind: str, *sources: str) -> int:
    records = [str(folder / f"{source}.jsonl") for source in sources]
    outputs = ["--output", str(folder / "t.tex"), "--csv", str(folder / "t.csv")]
    return main(["table", "--kind", kind, "--records", *records, *outputs])


def cells_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open()))


def test_planted_groups_stand_out_of_all_controls_in_both_tables(
    planted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert similarity(planted, "graph", "model") == 0
    assert "in the top 5 %: 100.0% (model)" in capsys.readouterr().err
    assert similarity(planted, "null", "token-shuffled") == 0
    rows = read_similarity([planted / "model.jsonl"])
    assert {row.source for row in rows} == {"model", "random-neighbours"}
    assert [row.layer for row in rows] == [0] * 12 + [1] * 12
    own = [row for row in rows if row.source == "model"]
    # Five neighbours name the neuron that is not described, and it names five.
    assert {(row.n, row.n_left_out, row.n_undescribed) for row in own} == {(1490, 10, 1)}
    assert all(row.n_top == 1490 for row in own) and own[0].similarity > own[0].random_similarity
    sources = ("model", "token-shuffled")
    assert table(planted, "similarity", *sources) == 0
    cells = {(c["row"], c["column"]): c for c in cells_of(planted / "t.csv")}
    assert float(cells["model", "top 5"]["value"]) == 1.0
    for control in ("tokens shuffled", "random neighbours"):
        found = float(cells[control, "top 30"]["value"])
        assert abs(found - float(cells["expected of unrelated neurons", "top 30"]["value"])) < 0.08
    assert table(planted, "similarity-layers", *sources) == 0
    cells = {(c["section"], c["row"], c["column"]): c for c in cells_of(planted / "t.csv")}
    assert float(cells["model", "layer 1", "0–5"]["value"]) == 1.0
    assert float(cells["model", "layer 1", "50–100"]["value"]) == 0.0
    for control in ("tokens shuffled", "random neighbours"):
        own_bins = [
            float(c["value"]) for (s, r, _), c in cells.items() if (s, r) == (control, "layer 0")
        ]
        assert sum(own_bins) == pytest.approx(1) and own_bins[-1] > 0.3
    text = (planted / "t.tex").read_text()
    assert "left out for it: 20." in text and "a published" not in text
    assert "share of up to 100 random neurons" in text and "Items: connections 1,4" in text


@pytest.mark.parametrize("kind", ["similarity", "similarity-layers"])
def test_a_share_of_no_or_of_all_connections_has_no_error_and_no_bound(
    planted: Path, kind: str
) -> None:
    assert similarity(planted, "graph", "model") == 0
    assert table(planted, kind, "model") == 0
    own = [c for c in cells_of(planted / "t.csv") if c["metric"] == "share_of_connections"]
    certain = [c for c in own if float(c["value"]) in (0, 1) and "expected" not in c["row"]]
    assert certain and not any(c["uncertainty"] or c["low"] or c["high"] for c in certain)
    text = (planted / "t.tex").read_text()
    assert "one-sided 95" not in text and "independent" in text


@pytest.mark.parametrize("kind", ["similarity", "similarity-layers"])
def test_a_layer_that_nothing_describes_is_counted_and_weighs_nothing(
    planted: Path, kind: str
) -> None:
    own = [one for one in read_descriptions(planted / "d.jsonl") if one.layer == 1]
    write_descriptions(planted / "d.jsonl", own, "abc")
    assert similarity(planted, "graph", "model") == 0
    rows = read_similarity([planted / "model.jsonl"])
    assert [row.layer for row in rows] == [0] * 12 + [1] * 12
    assert {(row.n, row.n_undescribed, row.n_left_out) for row in rows[:6]} == {(0, 300, 1500)}
    assert rows[0].similarity is rows[0].expected_top is None and rows[12].n == 1490
    assert table(planted, kind, "model") == 0
    text = (planted / "t.tex").read_text()
    assert "above 0: 301; connections left out for it: 1,510." in text
    cells = [c for c in cells_of(planted / "t.csv") if c["column"] in ("top 5", "0–5")]
    assert float(cells[0]["value"]) == 1.0 and "layer 0" not in {c["row"] for c in cells}
    write_similarity(planted / "model.jsonl", rows[:12])
    assert table(planted, kind, "model") == 2


def test_rows_of_two_embeddings_draws_or_sets_of_q_do_not_mix(
    planted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert similarity(planted, "graph", "model") == 0
    rows = read_similarity([planted / "model.jsonl"])
    assert (rows[0].embedding, rows[0].n_components, rows[0].draw_seed) == ("tfidf", 128, 0)
    changes: list[tuple[dict[str, Any], str]] = [
        ({"embedding": "sentence-transformers"}, "expected one embedding "),
        ({"embedding_model": "x"}, "expected one embedding_model for all similarities, found None"),
        ({"n_components": 64}, "expected one n_components for all similarities, found 128, 64"),
        ({"draw_seed": 1}, "expected one draw_seed for all similarities, found 0, 1"),
    ]
    for change, message in changes:
        write_similarity(
            planted / "x.jsonl", [dataclasses.replace(r, seed=1, **change) for r in rows]
        )
        assert table(planted, "similarity", "model", "x") == 2
        assert message in capsys.readouterr().err
    fewer = [dataclasses.replace(row, seed=1) for row in rows if row.q != 20]
    write_similarity(planted / "x.jsonl", fewer)
    assert table(planted, "similarity", "model", "x") == 2
    error = capsys.readouterr().err
    assert "m: expected the same q of all similarities, found 5, 10, 20, 30, 50, 100 and" in error


def test_a_file_without_similarities_or_with_impossible_ones_is_refused(
    planted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert similarity(planted, "graph", "model") == 0
    row = read_similarity([planted / "model.jsonl"])[0]
    for rows, message in (
        ([], "expected similarities, found none"),
        ([dataclasses.replace(row, n=0)], "expected similarities of the graph of m, found none"),
        ([dataclasses.replace(row, n=-1)], "line 1: expected n of at least 0"),
        ([dataclasses.replace(row, similarity=None)], "line 1: expected n of at least 0"),
    ):
        write_similarity(planted / "x.jsonl", rows)
        assert table(planted, "similarity", "x") == 2
        assert message in capsys.readouterr().err


def test_of_many_layers_neighbouring_ones_are_taken_together_and_seeds_have_a_spread(
    planted: Path,
) -> None:
    assert similarity(planted, "null", "model") == 0
    rows = read_similarity([planted / "model.jsonl"])
    first = [row for row in rows if row.layer == 0 and row.source == "model"]
    many = [dataclasses.replace(row, layer=layer) for layer in range(32) for row in first]
    more = [dataclasses.replace(row, seed=1, n_bin=row.n_bin + 10 * (row.q == 5)) for row in many]
    for name, written in (("model", many), ("both", many + more)):
        write_similarity(planted / f"{name}.jsonl", written)
    assert table(planted, "similarity-layers", "model") == 0
    cells = cells_of(planted / "t.csv")
    names = list(dict.fromkeys(cell["row"] for cell in cells))
    assert (len(names), names[0], names[-2:]) == (12, "layers 0–2", ["layers 30–31", "all layers"])
    chance = [float(cell["value"]) for cell in cells if cell["row"] == "all layers"]
    assert sum(chance) == pytest.approx(1) and chance[0] == pytest.approx(first[0].expected_top)
    # Three layers that are the same have the share of one, and its error over the root of 3.
    stderr = first[0].stderr_bin
    assert stderr is not None
    assert float(cells[0]["value"]) == pytest.approx(first[0].n_bin / first[0].n, abs=1e-6)
    assert float(cells[0]["uncertainty"]) == pytest.approx(stderr / np.sqrt(3), rel=1e-3)
    assert table(planted, "similarity-layers", "both") == 0
    cell = cells_of(planted / "t.csv")[0]
    assert float(cell["uncertainty"]) == pytest.approx(10 / first[0].n / np.sqrt(2), rel=1e-3)


def test_a_database_says_that_its_twin_is_missing_and_its_rows_do_not_mix_with_others(
    planted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert similarity(planted, "graph", "model") == 0
    rows = read_similarity([planted / "model.jsonl"])
    published = [dataclasses.replace(row, descriptions="database") for row in rows]
    write_similarity(planted / "published.jsonl", published)
    assert table(planted, "similarity", "published") == 0
    assert "describes no random-initialised twin" in (planted / "t.tex").read_text()
    own = [row for row in rows if row.source == "model"]
    twin = [dataclasses.replace(row, source="random-init") for row in own]
    write_similarity(planted / "twin.jsonl", twin)
    assert table(planted, "similarity", "published", "twin") == 2
    assert "expected one descriptions" in capsys.readouterr().err
    assert table(planted, "similarity", "model", "model") == 2
    assert "found layer 0 of model (seed 0, q = 5) twice" in capsys.readouterr().err
    assert table(planted, "similarity", "twin") == 2
    assert "expected similarities of the graph of m, found none" in capsys.readouterr().err


def test_what_does_not_belong_together_is_refused_in_one_line(
    planted: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(message: str, *flags: Any) -> None:
        assert similarity(planted, "graph", "model", *flags) == 2
        error = capsys.readouterr().err.splitlines()
        assert len(error) == 1 and message in error[0]
        assert not (planted / "model.jsonl").exists()

    refused("expected at most the k_max=5 neighbours", "--k", 6)
    refused("q: expected shares in ascending order", "--q", 10, 5)
    refused("embedding_model: needed with embedding", "--embedding", "sentence-transformers")
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    sentence = ("--embedding", "sentence-transformers", "--embedding-model", planted)
    refused("pip install 'fnsft[sentence]'", *sentence)
    write_descriptions(planted / "d.jsonl", [Description(2, 0, "+", "x", 1.0)], "abc")
    refused("expected 2 layers, as the graph has, found layer 2")
    write_descriptions(planted / "d.jsonl", [Description(0, 300, "+", "x", 1.0)], "abc")
    refused("expected 300 neurons a layer")
    write_descriptions(planted / "d.jsonl", [Description(0, 0, "+", "x", 0.0)], "abc")
    refused("expected connections of described neurons, found none")
    write_descriptions(planted / "d.jsonl", [Description(0, 0, "+", " ", 1.0)], "abc")
    refused("expected connections of described neurons, found none")
    write_descriptions(planted / "d.jsonl", [Description(0, 0, "+", "x", 1.0)], "other")
    refused("made from model other, expected model abc")


def test_settings_without_a_top_share_are_refused() -> None:
    with pytest.raises(InputError, match="ascending"):
        SimilaritySettings(q=())
