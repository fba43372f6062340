"""The names of all measures of graphs and masks, and how those of a graph are gathered.

Better is where a graph that means something differs from chance: ↑ higher, ↓ lower, – neither.

Scores of the clusters on unseen tokens (:mod:`fnsft.neurons.scores`), over tokens; with
``parameters_`` before the name those of k-means on the up projection's rows:

=========================== ============================================ =========== ========
measure                     formula                                      range       better
=========================== ============================================ =========== ========
score                       mean of Σ n_c² / m²                          (0, 1]      ↑ of null
null                        Σ |C|² / n²                                  (0, 1]      –
score_over_null             score / null; over 1 by chance               (0, ∞)      ↑
score_unbiased              mean of Σ n_c (n_c − 1) / m (m − 1)          [0, 1]      ↑ of null
null_unbiased               Σ |C| (|C| − 1) / n (n − 1)                  [0, 1]      –
score_over_null_unbiased    score_unbiased / null_unbiased; 1 by chance  [0, ∞)      ↑
                            if all neurons fire alike
rate_null                   two neurons drawn by their firing rates      [0, 1]      –
                            share a cluster
score_over_rate_null        score_unbiased / rate_null; 1 if neurons     [0, ∞)      ↑
                            fire independently
mean_hyperedge_share        mean of |E(x)| / N over all tokens           [0, 1]      –
=========================== ============================================ =========== ========

Agreement (:mod:`fnsft.neurons.agreement`) of the two halves' clusters, of two data sets', and
of the clusters with those of the parameters, over neurons that both put into a cluster:

=========================== ============================================ =========== ========
rand_halves, _datasets,     share of pairs that both join or both part   [0, 1]      ↑
_parameters
adjusted_rand_halves, …     the same, adjusted: 0 by chance              [−0.5, 1]   ↑
knn_jaccard_halves          mean |A ∩ B| / |A ∪ B| of the halves' k      [0, 1]      ↑
                            neighbours, over neurons with one
=========================== ============================================ =========== ========

Neighbours agree without any structure where all lists hold the same hubs, which neurons that
fire often are: only the token-shuffled null's ``knn_jaccard_halves`` says how far.

Structure of the kNN graph (:mod:`fnsft.neurons.structure`), over neurons with an edge:

=========================== ============================================ =========== ========
modularity                  Σ (w_c / 2w − (d_c / 2w)²) of the clusters   [−0.5, 1)   ↑
in_degree_max               most lists of neighbours that hold one       [1, N − 1]  ↓
in_degree_q10               tenths of the number of lists a neuron is    [0, N − 1]  –
in_degree_q50, …            in: the first, the median,
in_degree_q90               the last
in_degree_gini              Gini coefficient of the lists a neuron is in [0, 1)      ↓
nobodys_neighbour_share     share of neurons in no list                  [0, 1)      ↓
isolated_share              share of all N neurons without an edge       [0, 1]      ↓
clusters                    clusters of the partition                    0, 1, …     –
entropy_bits                −Σ s log2 s, s the clusters' shares          [0, log2 n] –
entropy_bits_unsplit        the same before large clusters were split    [0, log2 n] –
=========================== ============================================ =========== ========

Masks (:mod:`fnsft.masks.overlap`), over batches, of one matrix (``part``), each mask of the
share p of its entries; ``collab`` with the graph, ``shuffled`` with its neurons permuted:

=========================== ============================================ =========== ========
mask_shared_with_highest    share of collab's entries that are in        [0, 1]      –
                            highest too; 1: the graph changes nothing
mask_shared_with_shuffled   … in shuffled too; 1: which neurons are      [0, 1]      ↓
                            neighbours changes nothing
mask_shared_with_random     … in random too: p by chance                 [0, 1]      –
gradient_energy_highest     share of Σ g² inside of the mask: the most   [p, 1]      –
gradient_energy_collab      the same of collab                           [0, 1]      ↑
gradient_energy_shuffled    the same of shuffled                         [0, 1]      –
gradient_energy_random      the same of random: p by chance              [0, 1]      –
=========================== ============================================ =========== ========
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fnsft.artifacts.clusters import LayerClusters
from fnsft.artifacts.graphs import LayerGraph
from fnsft.neurons.agreement import neighbour_agreement, partition_agreement
from fnsft.neurons.clustering import entropy_bits
from fnsft.neurons.scores import LayerScores, Mean
from fnsft.neurons.structure import QUANTILES, hubs, modularity

SCORE_MEASURES = (
    "score",
    "null",
    "score_over_null",
    "score_unbiased",
    "null_unbiased",
    "score_over_null_unbiased",
    "rate_null",
    "score_over_rate_null",
)
PARAMETER_MEASURES = tuple(f"parameters_{name}" for name in SCORE_MEASURES)
STRUCTURE_MEASURES = (
    "modularity",
    "in_degree_max",
    "in_degree_q10",
    "in_degree_q50",
    "in_degree_q90",
    "in_degree_gini",
    "nobodys_neighbour_share",
    "isolated_share",
    "clusters",
    "entropy_bits",
    "entropy_bits_unsplit",
)
AGREEMENT_MEASURES = tuple(
    f"{index}_{other}"
    for other in ("halves", "datasets", "parameters")
    for index in ("rand", "adjusted_rand")
)
GRAPH_MEASURES = (
    *SCORE_MEASURES,
    *PARAMETER_MEASURES,
    "mean_hyperedge_share",
    *AGREEMENT_MEASURES,
    "knn_jaccard_halves",
    *STRUCTURE_MEASURES,
)
MASKS = ("highest", "collab", "shuffled", "random")
MASK_MEASURES = (
    *(f"mask_shared_with_{mask}" for mask in MASKS if mask != "collab"),
    *(f"gradient_energy_{mask}" for mask in MASKS),
)
MEASURES = (*GRAPH_MEASURES, *MASK_MEASURES)


@dataclass(frozen=True)
class Finding:
    """One number of one layer: :class:`fnsft.artifacts.measures.Measure` without its run."""

    measure: str
    value: float
    stderr: float | None
    n: int
    part: str | None = None


def score_findings(scores: LayerScores) -> Iterator[Finding]:
    """Yield the scores of ``clusters`` and ``parameters``; what has no value is left out."""
    for partition, prefix in (("clusters", ""), ("parameters", "parameters_")):
        found = scores.partitions[partition]
        for suffix, score in (("", found.published), ("_unbiased", found.unbiased)):
            yield from _mean(f"{prefix}score{suffix}", score.mean)
            if found.n_neurons > 1:
                yield Finding(f"{prefix}null{suffix}", score.null, None, found.n_neurons)
            yield from _mean(f"{prefix}score_over_null{suffix}", score.over_null)
        if found.n_neurons > 1:
            yield Finding(f"{prefix}rate_null", found.rate_null, None, found.n_neurons)
        yield from _mean(f"{prefix}score_over_rate_null", found.over_rate_null)
    yield from _mean("mean_hyperedge_share", scores.hyperedge_share)


def agreement_findings(other: str, first: np.ndarray, second: np.ndarray) -> Iterator[Finding]:
    """Yield how far two partitions [N] agree; ``other`` is halves, datasets or parameters."""
    found = partition_agreement(first, second)
    if found is not None:
        yield Finding(f"rand_{other}", found.rand, None, found.n)
        yield Finding(f"adjusted_rand_{other}", found.adjusted_rand, None, found.n)


def neighbour_findings(first: LayerGraph, second: LayerGraph, k: int) -> Iterator[Finding]:
    """Yield how far the neighbours of two halves agree."""
    yield from _mean("knn_jaccard_halves", neighbour_agreement(first, second, k).jaccard)


def structure_findings(layer: LayerGraph, k: int, clusters: LayerClusters) -> Iterator[Finding]:
    """Yield communities, hubs and the partition's sizes; what has no value is left out."""
    found = hubs(layer, k)
    values = {
        "modularity": modularity(layer, k, clusters.labels),
        "in_degree_max": found.in_degree_max,
        **{
            f"in_degree_q{100 * share:.0f}": value
            for share, value in zip(QUANTILES, found.quantiles or (None,) * 3, strict=True)
        },
        "in_degree_gini": found.gini,
        "nobodys_neighbour_share": found.nobodys_share,
    }
    for measure, value in values.items():
        if value is not None:
            yield Finding(measure, float(value), None, found.connected)
    yield Finding("isolated_share", found.isolated_share, None, len(clusters.labels))
    n = int((clusters.labels >= 0).sum())
    yield Finding("clusters", float(clusters.labels.max(initial=-1) + 1), None, n)
    if n:
        yield Finding("entropy_bits", entropy_bits(clusters.labels), None, n)
        yield Finding("entropy_bits_unsplit", entropy_bits(clusters.labels_unsplit), None, n)


def _mean(measure: str, mean: Mean | None) -> Iterator[Finding]:
    if mean is not None:
        yield Finding(measure, mean.value, mean.stderr, mean.n)
