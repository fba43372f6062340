"""Scores, agreement and structure against slow definitions, and the stage on a real model."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import write_tiny_model
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    Phi3Config,
    Phi3ForCausalLM,
)

from fnsft.artifacts.activations import (
    DumpWriter,
    open_dump,
    pack_bits,
    unpack_bits,
    write_dump_tokens,
)
from fnsft.artifacts.clusters import Clusters, LayerClusters, read_clusters, write_clusters
from fnsft.artifacts.graphs import CollaborationGraph, LayerGraph, read_graph, write_graph
from fnsft.artifacts.identity import model_identity
from fnsft.artifacts.measures import Measure, read_measures
from fnsft.artifacts.scores import BINS, read_histograms
from fnsft.artifacts.storage import read_json, write_jsonl
from fnsft.cli.main import main
from fnsft.cli.measure import neuron_rows
from fnsft.neurons.agreement import neighbour_agreement, partition_agreement
from fnsft.neurons.measures import GRAPH_MEASURES, MEASURES
from fnsft.neurons.null import ShuffledBits
from fnsft.neurons.scores import Mean, nulls, parameter_clusters, rate_null, score_layer
from fnsft.neurons.structure import gini, hubs, modularity


@dataclass(frozen=True)
class Blocks:
    """Bits [T, N] bool as a dump gives them, in blocks cut at these tokens."""

    bits: np.ndarray
    cuts: tuple[int, ...] = ()

    @property
    def n_neurons(self) -> int:
        return self.bits.shape[1]

    @property
    def n_tokens(self) -> int:
        return self.bits.shape[0]

    def rows(self, start: int, stop: int) -> Iterator[np.ndarray]:
        for block in np.split(self.bits, self.cuts):
            yield pack_bits(block.T[start:stop])


def slow_scores(bits: np.ndarray, labels: np.ndarray) -> tuple[list[Fraction], list[Fraction], int]:
    """Both Scores of every token from sets of neurons, exactly, and the tokens that have none."""
    published, unbiased, skipped = [], [], 0
    clustered = {i for i, label in enumerate(labels) if label >= 0}
    clusters = [{i for i in clustered if labels[i] == c} for c in {labels[i] for i in clustered}]
    for token in bits:
        edge = set(np.flatnonzero(token).tolist()) & clustered
        m = len(edge)
        if m < 2:
            skipped += 1
            continue
        published.append(Fraction(sum(len(edge & c) ** 2 for c in clusters), m**2))
        pairs = sum(len(list(itertools.combinations(edge & c, 2))) for c in clusters)
        unbiased.append(Fraction(pairs, len(list(itertools.combinations(edge, 2)))))
    return published, unbiased, skipped


def sparse_bits(seed: int, n_tokens: int, n_neurons: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    bits = rng.random((n_tokens, n_neurons)) < rng.uniform(0.02, 0.3, n_neurons)
    bits[rng.random(n_tokens) < 0.2] = False
    return bits


@pytest.mark.parametrize("cuts", [(), (64, 1_216)], ids=["one block", "three blocks"])
def test_scores_are_the_definition_in_any_blocks(cuts: tuple[int, ...]) -> None:
    bits = sparse_bits(0, 1_300, 23)
    labels = np.random.default_rng(1).integers(-1, 5, size=23)
    found = score_layer(Blocks(bits, cuts), {"a": labels}).partitions["a"]
    published, unbiased, skipped = slow_scores(bits, labels)
    assert 100 < skipped < 1_000
    assert found.skipped == skipped
    for score, exact in ((found.published, published), (found.unbiased, unbiased)):
        expected = np.array(exact, dtype=np.float64)
        assert score.mean is not None
        assert score.mean.value == pytest.approx(np.mean(expected), rel=1e-12)
        error = np.std(expected, ddof=1) / np.sqrt(len(expected))
        assert score.mean.stderr == pytest.approx(error, rel=1e-9)
        assert score.mean.n == len(expected) == 1_300 - skipped
        assert score.over_null is not None
        assert score.over_null.value == pytest.approx(np.mean(expected / score.null))
        assert score.over_null.stderr == pytest.approx(error / score.null, rel=1e-9)


def test_the_null_is_the_score_of_a_token_that_activates_every_clustered_neuron() -> None:
    labels = np.array([0, 0, 0, 1, 1, -1, 2, -1])
    (published,), (unbiased,), _ = slow_scores(np.ones((1, 8), dtype=bool), labels)
    assert nulls(labels) == pytest.approx((float(published), float(unbiased)))
    assert (published, unbiased) == (Fraction(14, 36), Fraction(8, 30))


def test_the_unbiased_null_is_the_mean_score_over_all_partitions_of_these_sizes() -> None:
    token = np.array([[1, 1, 1, 0, 0, 1]], dtype=bool)
    labels = np.array([0, 0, 0, 1, 1, 2])
    permutations = {p for p in itertools.permutations(labels.tolist())}
    scores = [
        score_layer(Blocks(token), {"a": np.array(p)}).partitions["a"].unbiased
        for p in sorted(permutations)
    ]
    assert len(scores) == 60
    assert np.mean([s.mean.value for s in scores if s.mean]) == pytest.approx(scores[0].null)


def ratios(bits: Any, labels: np.ndarray) -> tuple[float, float]:
    found = score_layer(bits, {"a": labels}).partitions["a"]
    assert found.published.over_null and found.unbiased.over_null
    return found.published.over_null.value, found.unbiased.over_null.value


def test_random_clusters_of_independent_bits_meet_the_unbiased_null_alone() -> None:
    rng = np.random.default_rng(0)
    bits = rng.random((3_000, 120)) < 0.15
    published, unbiased = ratios(Blocks(bits), rng.integers(0, 12, size=120))
    assert unbiased == pytest.approx(1, abs=0.03)
    assert published > 1.3


def rates_matched(bits: Any, labels: np.ndarray) -> float:
    found = score_layer(bits, {"a": labels}).partitions["a"].over_rate_null
    assert found
    return found.value


def test_the_rate_matched_null_counts_pairs_of_neurons_by_their_rates() -> None:
    labels, rates = np.array([0, 0, 1, -1, 1, 2]), np.array([1.0, 2.0, 3.0, 100.0, 4.0, 5.0])
    inside = every = 0.0
    for i in range(6):
        for j in range(6):
            if i != j and labels[i] >= 0 and labels[j] >= 0:
                every += rates[i] * rates[j]
                inside += rates[i] * rates[j] * (labels[i] == labels[j])
    assert rate_null(labels, rates) == pytest.approx(inside / every)
    assert rate_null(labels, 7 * rates) == pytest.approx(inside / every)
    assert rate_null(labels, np.ones(6)) == pytest.approx(nulls(labels)[1])
    assert rate_null(np.full(6, -1), rates) == rate_null(labels, 0 * rates) == 0


def test_clusters_of_equal_rates_beat_every_null_by_rates_alone_but_the_matched_one() -> None:
    rng = np.random.default_rng(0)
    rates = np.repeat([0.6, 0.2, 0.05, 0.02], 30)  # independent neurons, clustered by rate
    bits, labels = Blocks(rng.random((3_000, 120)) < rates), np.repeat(np.arange(4), 30)
    assert ratios(bits, labels)[1] > 1.5
    assert rates_matched(bits, labels) == pytest.approx(1, abs=0.02)


def planted(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Bits of 6 clusters of 20 neurons; every token wakes one of them, and a few others."""
    rng = np.random.default_rng(seed)
    labels = np.arange(120) % 6
    awake = rng.integers(0, 6, size=2_000)
    rates = np.where(labels == awake[:, None], 0.5, 0.08)
    return rng.random((2_000, 120)) < rates, labels


def test_planted_clusters_score_high_and_shuffled_tokens_lose_it() -> None:
    bits, labels = planted()
    assert ratios(Blocks(bits), labels)[1] > 1.8
    assert rates_matched(Blocks(bits), labels) > 1.8
    shuffled = ShuffledBits(Blocks(bits, (640, 1_280)), seed=3)
    assert ratios(shuffled, labels)[1] == pytest.approx(1, abs=0.05)
    wrong = np.random.default_rng(1).permutation(labels)
    assert ratios(Blocks(bits), wrong)[1] < 1.2


def test_neurons_that_never_fire_and_are_in_no_cluster_change_no_score() -> None:
    bits, labels = planted()
    wider = np.pad(bits, ((0, 0), (0, 80)))
    assert ratios(Blocks(wider), np.pad(labels, (0, 80), constant_values=-1)) == ratios(
        Blocks(bits), labels
    )


def test_histograms_count_the_tokens_in_bins_of_score_over_null() -> None:
    bits = sparse_bits(2, 900, 23)
    labels = np.random.default_rng(1).integers(-1, 9, size=23)
    found = score_layer(Blocks(bits), {"a": labels}).partitions["a"]
    every_neuron = np.ones((1, 23), dtype=bool)
    beyond = []
    for score, values, (null,) in zip(
        (found.published, found.unbiased),
        slow_scores(bits, labels)[:2],
        slow_scores(every_neuron, labels)[:2],
        strict=True,
    ):
        in_bins = [0] * 201
        for value in values:
            in_bins[min(math.floor(value / null / Fraction(2, 100)), 200)] += 1
        assert score.histogram.tolist() == in_bins
        assert score.histogram.dtype == np.int64
        beyond.append(in_bins[200])
    assert min(beyond) > 0


def test_mean_hyperedge_share_counts_all_tokens_and_all_neurons() -> None:
    bits = sparse_bits(0, 500, 23)
    labels = np.full(23, -1)
    labels[:3] = 0
    share = score_layer(Blocks(bits, (64,)), {"a": labels}).hyperedge_share
    assert share is not None
    assert share.value == pytest.approx(bits.mean())
    assert share.n == 500


@pytest.mark.parametrize(
    ("bits", "labels"),
    [
        (np.zeros((70, 6)), np.array([0, 0, 1, 1, 1, 2])),
        (np.ones((70, 6)), np.full(6, -1)),
        (np.ones((70, 6)), np.array([-1, 0, -1, -1, -1, -1])),
    ],
    ids=["nobody fires", "no cluster", "one neuron in a cluster"],
)
def test_a_layer_without_a_pair_to_score_has_no_score(bits: np.ndarray, labels: np.ndarray) -> None:
    found = score_layer(Blocks(bits.astype(bool)), {"a": labels}).partitions["a"]
    for score in (found.published, found.unbiased):
        assert score.mean is None and score.over_null is None
        assert not score.histogram.any()
    assert found.skipped == 70


def test_clusters_of_one_neuron_each_have_a_score_and_no_ratio() -> None:
    found = score_layer(Blocks(np.ones((70, 6), dtype=bool)), {"a": np.arange(6)}).partitions["a"]
    assert (found.unbiased.mean, found.unbiased.null) == (Mean(0.0, 0.0, 70), 0.0)
    assert found.unbiased.over_null is None
    assert found.published.over_null is not None
    assert found.published.over_null.value == pytest.approx(1)


def test_parameters_cluster_by_direction_whatever_their_length() -> None:
    rng = np.random.default_rng(0)
    truth = np.arange(60) % 3
    rows = np.eye(3, 16)[truth] + rng.normal(0, 0.05, (60, 16))
    rows *= rng.lognormal(0, 2, (60, 1))
    labels = np.where(np.arange(60) < 9, -1, np.arange(60) // 20)
    found = parameter_clusters(rows.astype(np.float32), labels, seed=0)
    assert np.array_equal(found == -1, labels == -1)
    agreement = partition_agreement(found, truth)
    assert agreement is not None
    assert (agreement.adjusted_rand, agreement.n, agreement.left_out) == (1.0, 51, 9)


def test_the_rand_index_counts_pairs_and_the_adjusted_one_subtracts_chance() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.integers(-1, 4, size=(2, 40))
    second[20:] = first[20:]
    kept = [i for i in range(40) if first[i] >= 0 and second[i] >= 0]
    pairs = list(itertools.combinations(kept, 2))
    same = [(first[i] == first[j], second[i] == second[j]) for i, j in pairs]
    together = sum(a and b for a, b in same)
    a_pairs, b_pairs = sum(a for a, _ in same), sum(b for _, b in same)
    chance = a_pairs * b_pairs / len(pairs)
    found = partition_agreement(first, second)
    assert found is not None
    assert found.rand == pytest.approx(sum(a == b for a, b in same) / len(pairs))
    expected = (together - chance) / ((a_pairs + b_pairs) / 2 - chance)
    assert found.adjusted_rand == pytest.approx(expected)
    assert (found.n, found.left_out) == (len(kept), 40 - len(kept))


def test_partitions_without_two_common_neurons_do_not_compare() -> None:
    assert partition_agreement(np.array([0, -1, 0]), np.array([-1, 0, 1])) is None


def random_graph(seed: int, n: int = 30, k_max: int = 8, isolated: int = 3) -> LayerGraph:
    """Rows of up to ``k_max`` neighbours by decreasing weight; the last neurons have none."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        degree = 0 if i >= n - isolated else int(rng.integers(1, k_max + 1))
        others = np.delete(np.arange(n - isolated), i) if degree else np.arange(0)
        rows.append(rng.choice(others, degree, replace=False) if degree else others)
    weights = [np.sort(rng.lognormal(0, 1, len(row)))[::-1] for row in rows]
    return LayerGraph(
        np.cumsum([0, *map(len, rows)]),
        np.concatenate(rows).astype(np.int32),
        np.concatenate(weights).astype(np.float32),
    )


def neighbours(layer: LayerGraph, k: int) -> list[list[tuple[int, float]]]:
    """The first k (neighbour, weight) of every row."""
    bounds = itertools.pairwise(layer.indptr.tolist())
    edges = list(zip(layer.indices.tolist(), layer.weights.tolist(), strict=True))
    return [edges[start:stop][:k] for start, stop in bounds]


@pytest.mark.parametrize("k", [1, 4, 8])
def test_knn_jaccard_is_the_mean_overlap_of_neighbour_sets(k: int) -> None:
    first, second = random_graph(0, isolated=3), random_graph(1, isolated=5)
    expected = []
    for a, b in zip(neighbours(first, k), neighbours(second, k), strict=True):
        one, two = {j for j, _ in a}, {j for j, _ in b}
        if one or two:
            expected.append(len(one & two) / len(one | two))
    found = neighbour_agreement(first, second, k)
    assert found.jaccard is not None
    assert found.jaccard.value == pytest.approx(np.mean(expected))
    assert found.jaccard.stderr == pytest.approx(np.std(expected, ddof=1) / np.sqrt(27))
    assert (found.jaccard.n, found.left_out) == (27, 3)
    same = neighbour_agreement(first, first, k).jaccard
    assert same is not None and same.value == 1


@pytest.mark.parametrize("k", [2, 8])
def test_modularity_is_newman_s_sum_over_pairs(k: int) -> None:
    layer, n = random_graph(0), 30
    labels = np.random.default_rng(1).integers(-1, 4, size=n)
    a = np.zeros((n, n))
    for i, row in enumerate(neighbours(layer, k)):
        for j, weight in row:
            a[i, j] = max(a[i, j], weight)
            a[j, i] = a[i, j]
    degrees, total = a.sum(axis=1), a.sum()
    expected = sum(
        a[i, j] - degrees[i] * degrees[j] / total
        for i in range(n)
        for j in range(n)
        if i == j or labels[i] == labels[j] >= 0
    )
    assert modularity(layer, k, labels) == pytest.approx(expected / total)


def no_edges(n: int) -> LayerGraph:
    return LayerGraph(np.zeros(n + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))


def test_a_graph_without_edges_has_no_modularity_hub_or_neighbours() -> None:
    empty = no_edges(9)
    assert modularity(empty, 2, np.zeros(9, dtype=int)) is None
    found = hubs(empty, 2)
    assert (found.connected, found.in_degree_max, found.isolated_share) == (0, None, 1)
    assert neighbour_agreement(empty, empty, 2).jaccard is None


@pytest.mark.parametrize("k", [1, 4])
def test_hubs_are_counted_by_the_lists_that_hold_a_neuron(k: int) -> None:
    layer = random_graph(0)
    lists = neighbours(layer, k)
    in_degrees = [sum(j == i for row in lists for j, _ in row) for i in range(27)]
    found = hubs(layer, k)
    assert (found.connected, found.in_degree_max) == (27, max(in_degrees))
    assert found.nobodys_share == pytest.approx(in_degrees.count(0) / 27)
    assert found.isolated_share == pytest.approx(0.1)
    ordered = sorted(in_degrees)  # 27 of them: tenths fall between two, the median on one
    tenth = ordered[2] + 0.6 * (ordered[3] - ordered[2])
    assert found.quantiles and found.quantiles[:2] == pytest.approx((tenth, ordered[13]))
    differences = sum(abs(a - b) for a in in_degrees for b in in_degrees)
    assert found.gini == pytest.approx(differences / (2 * 27 * sum(in_degrees)))


def test_gini_is_zero_for_equals_and_near_one_for_a_single_hub() -> None:
    assert gini(np.full(7, 3)) == 0
    assert gini(np.array([0] * 99 + [5])) == pytest.approx(0.99)


@pytest.mark.parametrize("kind", ["conv1d", "fused", "llama"])
def test_neuron_rows_are_the_rows_that_make_the_neurons(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    if kind == "conv1d":
        model = GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=8, n_inner=12, n_head=2))
        expected = [block.mlp.c_fc.weight.t() for block in model.transformer.h]
    elif kind == "fused":
        sizes = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2}
        heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 16}
        model = Phi3ForCausalLM(Phi3Config(**sizes, **heads, pad_token_id=0))
        expected = [block.mlp.gate_up_proj.weight[12:] for block in model.model.layers]
    else:
        write_tiny_model(tmp_path)
        model = AutoModelForCausalLM.from_pretrained(tmp_path)
        expected = [block.mlp.up_proj.weight for block in model.model.layers]
    for found, weights in zip(neuron_rows(model, "mlp"), expected, strict=True):
        assert np.array_equal(found, weights.detach().numpy())


def captured(model: Path, folder: Path, texts: list[str]) -> Path:
    """Capture texts and return the folder with the dump and the graph."""
    folder.mkdir()
    rows = [{"prompt": text, "completion": text[::-1]} for text in texts]
    write_jsonl(folder / "split.jsonl", rows)
    source = ["--model", str(model), "--data", str(folder / "split.jsonl")]
    assert main(["statistics", *source, "--output", str(folder / "tokens.safetensors")]) == 0
    assert main(["capture", *source, "--output", str(folder / "dump")]) == 0
    paths = ["--statistics", str(folder / "tokens.safetensors"), "--activations"]
    paths += [str(folder / "dump"), "--output", str(folder / "graph.safetensors")]
    assert main(["project", *paths, "--k-max", "12"]) == 0
    return folder


def clusters_of(graph: CollaborationGraph, n_clusters: int, seed: int) -> Clusters:
    """Any partition of the neurons with edges; the measures ask no more of it."""
    layers = []
    for number, layer in enumerate(graph.layers):
        drawn = np.random.default_rng((seed, number)).integers(0, n_clusters, graph.d_mlp)
        labels = np.where(np.diff(layer.indptr) > 0, drawn, -1).astype(np.int32)
        unsplit = np.where(labels > 1, 0, labels).astype(np.int32)
        layers.append(LayerClusters(labels, unsplit, np.zeros((graph.d_mlp, 2)), np.zeros(2)))
    return Clusters(layers, graph.d_mlp)


TEXTS = ["Ada has 3 apples and buys 14 more.", "Write a function.", "How many does Ada have?"]


@pytest.fixture(scope="module")
def studied(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders even, odd and unseen of the tiny model, each with graph and clusters."""
    return study(tiny_model_dir, tmp_path_factory.mktemp("studied"))


def study(model: Path, root: Path) -> Path:
    for seed, name in enumerate(("even", "odd", "unseen")):
        folder = captured(model, root / name, [f"{name} {text}" for text in TEXTS])
        clusters = clusters_of(read_graph(folder / "graph.safetensors"), 5, seed)
        write_clusters(folder / "clusters.safetensors", clusters, model_identity(model))
    return root


def flags_of(model: Path, root: Path, output: Path) -> dict[str, list[Path | str]]:
    even, odd = root / "even", root / "odd"
    return {
        "--model": [model],
        "--graph": [even / "graph.safetensors"],
        "--clusters": [even / "clusters.safetensors"],
        "--activations": [root / "unseen" / "dump"],
        "--halves-graphs": [even / "graph.safetensors", odd / "graph.safetensors"],
        "--halves-clusters": [even / "clusters.safetensors", odd / "clusters.safetensors"],
        "--other-clusters": [root / "unseen" / "clusters.safetensors"],
        "--output": [output / "measures.jsonl"],
        "--histograms": [output / "scores.safetensors"],
        "--model-name": ["tiny"],
        "--task": ["sums"],
        "--graph-name": ["paper"],
        "--source": ["model"],
        "--run-seed": ["7"],
        "--k": ["6"],
    }


def measure(flags: dict[str, list[Path | str]], *more: str) -> int:
    return main(["measure", *(str(x) for flag, v in flags.items() for x in (flag, *v)), *more])


def by_name(path: Path) -> dict[tuple[str, int], Measure]:
    return {(row.measure, row.layer): row for row in read_measures([path])}


def test_the_stage_measures_every_layer_of_a_real_model(
    studied: Path, tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = flags_of(tiny_model_dir, studied, tmp_path)
    assert measure(flags) == 0
    assert "measures of 2 layers (model)" in capsys.readouterr().err
    found = by_name(tmp_path / "measures.jsonl")
    assert {name for name, _ in found} == set(GRAPH_MEASURES)
    assert all(np.isfinite(row.value) for row in found.values())
    row = found["score", 1]
    assert (row.model, row.source, row.task, row.graph, row.seed, row.part) == (
        "tiny",
        "model",
        "sums",
        "paper",
        7,
        None,
    )
    histograms = read_histograms(tmp_path / "scores.safetensors")
    assert (histograms.source, len(histograms.layers)) == ("model", 2)
    dump = open_dump(studied / "unseen" / "dump")
    even, odd, other = (
        read_clusters(studied / name / "clusters.safetensors") for name in ("even", "odd", "unseen")
    )
    graphs = [read_graph(studied / name / "graph.safetensors") for name in ("even", "odd")]
    for number in range(2):
        blocks = [unpack_bits(block) for block in dump.layer(number)]
        bits = np.concatenate(blocks, axis=1)[:, : dump.shape.n_tokens].T.astype(bool)
        labels = even.layers[number].labels
        exact, exact_unbiased, skipped = slow_scores(bits, labels)
        published, unbiased = np.array(exact, float), np.array(exact_unbiased, float)
        null, null_unbiased = nulls(labels)
        expected = {
            "score": np.mean(published),
            "null": null,
            "score_over_null": np.mean(published) / null,
            "score_unbiased": np.mean(unbiased),
            "null_unbiased": null_unbiased,
            "score_over_null_unbiased": np.mean(unbiased) / null_unbiased,
            "rate_null": rate_null(labels, bits.mean(axis=0)),
            "score_over_rate_null": np.mean(unbiased) / rate_null(labels, bits.mean(axis=0)),
            "mean_hyperedge_share": bits.mean(),
            "clusters": 5,
            "modularity": modularity(graphs[0].layers[number], 6, labels),
            "in_degree_max": hubs(graphs[0].layers[number], 6).in_degree_max,
        }
        halves = partition_agreement(labels, odd.layers[number].labels)
        datasets = partition_agreement(labels, other.layers[number].labels)
        jaccard = neighbour_agreement(graphs[0].layers[number], graphs[1].layers[number], 6)
        assert halves and datasets and jaccard.jaccard
        expected |= {
            "rand_halves": halves.rand,
            "adjusted_rand_halves": halves.adjusted_rand,
            "rand_datasets": datasets.rand,
            "adjusted_rand_datasets": datasets.adjusted_rand,
            "knn_jaccard_halves": jaccard.jaccard.value,
        }
        for name, value in expected.items():
            assert found[name, number].value == pytest.approx(value), name
        sizes = np.unique(labels[labels >= 0], return_counts=True)[1] / (labels >= 0).sum()
        assert found["entropy_bits", number].value == pytest.approx(-(sizes @ np.log2(sizes)))
        unsplit = found["entropy_bits_unsplit", number].value
        assert unsplit < found["entropy_bits", number].value
        counts = histograms.layers[number]
        assert all(c.sum() == len(bits) - skipped for c in counts.values())
        for kind, values, denominator in (
            ("published", published, null),
            ("unbiased", unbiased, null_unbiased),
        ):
            below = counts["clusters", kind][:50].sum()
            assert below == (values / denominator < 1 - 1e-9).sum()
        assert found["score", number].n == len(bits) - skipped
        assert found["parameters_null", number].n == (labels >= 0).sum()


def test_without_halves_and_other_data_their_measures_are_left_out(
    studied: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    flags = flags_of(tiny_model_dir, studied, tmp_path)
    for flag in ("--halves-graphs", "--halves-clusters", "--other-clusters"):
        del flags[flag]
    assert measure(flags) == 0
    names = {name for name, _ in by_name(tmp_path / "measures.jsonl")}
    comparisons = {n for n in GRAPH_MEASURES if n.endswith(("_halves", "_datasets"))}
    assert len(comparisons) == 5
    assert names == set(GRAPH_MEASURES) - comparisons
    assert read_json(tmp_path / "measures.jsonl.manifest.json")["notes"]["layers_without"] == {}


def test_the_shuffled_null_is_scored_on_shuffled_tokens(
    studied: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    flags = flags_of(tiny_model_dir, studied, tmp_path) | {"--source": ["token-shuffled"]}
    assert measure(flags, "--shuffle-tokens", "--seed", "4") == 0
    found = by_name(tmp_path / "measures.jsonl")
    bits = ShuffledBits(open_dump(studied / "unseen" / "dump").layer(1), 4)
    labels = read_clusters(studied / "even" / "clusters.safetensors").layers[1].labels
    expected = score_layer(bits, {"a": labels}).partitions["a"].unbiased.mean
    assert expected is not None
    assert found["score_unbiased", 1].value == expected.value
    assert {row.source for row in found.values()} == {"token-shuffled"}


def test_a_silent_layer_without_edges_leaves_its_measures_out_and_is_noted(
    studied: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    identity = model_identity(tiny_model_dir)
    dump = open_dump(studied / "unseen" / "dump")
    (tmp_path / "dump").mkdir()
    with DumpWriter(tmp_path / "dump", dump.shape, identity) as writer:
        writer.append(0, np.random.default_rng(0).random((dump.shape.n_tokens, 64)) < 0.3)
        writer.append(1, np.zeros((dump.shape.n_tokens, 64), dtype=bool))
    write_dump_tokens(tmp_path / "dump", dump.shape, dump.token_ids, dump.sample_offsets, identity)
    graph = read_graph(studied / "even" / "graph.safetensors")
    silent = CollaborationGraph([graph.layers[0], no_edges(64)], 64, graph.k_max)
    write_graph(tmp_path / "graph.safetensors", silent, identity)
    write_clusters(tmp_path / "clusters.safetensors", clusters_of(silent, 5, 0), identity)
    flags = flags_of(tiny_model_dir, studied, tmp_path) | {
        "--graph": [tmp_path / "graph.safetensors"],
        "--clusters": [tmp_path / "clusters.safetensors"],
        "--activations": [tmp_path / "dump"],
    }
    assert measure(flags) == 0
    found = by_name(tmp_path / "measures.jsonl")
    in_layer = [{name for name, layer in found if layer == number} for number in range(2)]
    assert in_layer[0] == set(GRAPH_MEASURES)
    assert in_layer[1] == {
        "mean_hyperedge_share",
        "isolated_share",
        "clusters",
        "knn_jaccard_halves",
        "rand_halves",
        "adjusted_rand_halves",
    }
    assert "NaN" not in (tmp_path / "measures.jsonl").read_text()
    notes = read_json(tmp_path / "measures.jsonl.manifest.json")["notes"]
    assert notes["layers_without"] == {name: [1] for name in in_layer[0] - in_layer[1]}
    assert notes["tokens_with_less_than_two_clustered_neurons"][1] == dump.shape.n_tokens
    silenced = read_histograms(tmp_path / "scores.safetensors").layers[1]
    assert all(counts.tolist() == [0] * (BINS + 1) for counts in silenced.values())


FILES = ("--graph", "--clusters", "--activations", "--halves-graphs", "--halves-clusters")


@pytest.mark.parametrize("flag", [*FILES, "--other-clusters"])
def test_a_file_of_another_model_is_refused_by_name(
    flag: str,
    studied: Path,
    tiny_model_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_tiny_model(tmp_path / "other", seed=1)
    other = model_identity(tmp_path / "other")
    flags = flags_of(tiny_model_dir, studied, tmp_path)
    path = Path(flags[flag][-1])
    if flag == "--activations":
        dump = open_dump(path)
        foreign = tmp_path / "dump"
        foreign.mkdir()
        write_dump_tokens(foreign, dump.shape, dump.token_ids, dump.sample_offsets, other)
    elif "graph" in flag:
        foreign = tmp_path / "graph.safetensors"
        write_graph(foreign, read_graph(path), other)
    else:
        foreign = tmp_path / "clusters.safetensors"
        write_clusters(foreign, read_clusters(path), other)
    assert measure(flags | {flag: [*flags[flag][:-1], foreign]}) == 2
    expected = f"fnsft measure: {foreign}: made from model {other}, expected model "
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "measures.jsonl").exists()


@pytest.mark.parametrize("flag", ["--graph", "--halves-clusters"])
def test_a_file_of_another_shape_is_refused(
    flag: str,
    studied: Path,
    tiny_model_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = flags_of(tiny_model_dir, studied, tmp_path)
    path, short = Path(flags[flag][-1]), tmp_path / "short.safetensors"
    identity = model_identity(tiny_model_dir)
    if flag == "--graph":
        graph = read_graph(path)
        write_graph(short, CollaborationGraph(graph.layers[:1], 64, graph.k_max), identity)
    else:
        write_clusters(short, Clusters(read_clusters(path).layers[:1], 64), identity)
    assert measure(flags | {flag: [*flags[flag][:-1], short]}) == 2
    expected = f"{short}: expected 2 layers of 64 neurons, found 1 of 64"
    assert expected in capsys.readouterr().err


def test_more_neighbours_than_a_graph_stores_are_refused(
    studied: Path, tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = flags_of(tiny_model_dir, studied, tmp_path)
    assert measure(flags | {"--k": ["13"]}) == 2
    assert "expected at most the k_max=12 neighbours that it stores" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "more"), [("token-shuffled", []), ("random-init", ["--shuffle-tokens"])]
)
def test_a_null_that_is_not_shuffled_and_a_shuffled_model_are_refused(
    source: str,
    more: list[str],
    studied: Path,
    tiny_model_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = flags_of(tiny_model_dir, studied, tmp_path) | {"--source": [source]}
    assert measure(flags, *more) == 2
    assert "expected token-shuffled with shuffle_tokens and only then" in capsys.readouterr().err


def test_a_trained_model_s_measures_repeat_to_the_byte(shared_data: Path, tmp_path: Path) -> None:
    model = shared_data / "models" / "stories260k"
    root = tmp_path / "studied"
    root.mkdir()
    study(model, root)
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        assert measure(flags_of(model, root, tmp_path / name)) == 0
    for file in ("measures.jsonl", "scores.safetensors"):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()
    assert {layer for _, layer in by_name(tmp_path / "first" / "measures.jsonl")} == set(range(5))


def test_every_name_is_explained_and_none_twice() -> None:
    from fnsft.neurons import measures

    assert len(MEASURES) == len(set(MEASURES))
    text = measures.__doc__ or ""
    for name in MEASURES:
        plain = name.removeprefix("parameters_")
        kind = plain.removesuffix("_datasets").removesuffix("_parameters").removesuffix("_halves")
        assert kind in text, name
