"""Whether two halves of the data, or two data sets, give the same clusters and neighbours.

Shapes: N = ``d_mlp`` neurons of a layer.
"""

from dataclasses import dataclass

import numpy as np
from sklearn.metrics import adjusted_rand_score, rand_score

from fnsft.artifacts.clusters import NO_CLUSTER
from fnsft.artifacts.graphs import LayerGraph
from fnsft.neurons.scores import Mean


@dataclass(frozen=True)
class PartitionAgreement:
    """How far two partitions agree on the ``n`` neurons that both put into a cluster.

    ``rand`` in [0, 1] is the share of pairs that both join or both part (Rand 1971);
    ``adjusted_rand`` in [−0.5, 1] has 0 as its expectation by chance (Hubert & Arabie 1985).
    ``left_out`` neurons are in no cluster of one or of both.
    """

    rand: float
    adjusted_rand: float
    n: int
    left_out: int


def partition_agreement(first: np.ndarray, second: np.ndarray) -> PartitionAgreement | None:
    """Compare two partitions by their labels [N], −1 for no cluster; None without a pair."""
    both = (first != NO_CLUSTER) & (second != NO_CLUSTER)
    n = int(both.sum())
    if n < 2:
        return None
    a, b = first[both], second[both]
    rand, adjusted = rand_score(a, b), adjusted_rand_score(a, b)
    return PartitionAgreement(float(rand), float(adjusted), n, len(both) - n)


@dataclass(frozen=True)
class NeighbourAgreement:
    """Mean Jaccard index over neurons; ``left_out`` ones have no neighbour in both graphs."""

    jaccard: Mean | None
    left_out: int


def neighbour_agreement(first: LayerGraph, second: LayerGraph, k: int) -> NeighbourAgreement:
    """Compare the first ``k`` neighbours of every neuron in two graphs.

    A neuron's Jaccard index is |A ∩ B| / |A ∪ B| of its two sets of neighbours, so 0 where
    one of them is empty.
    """
    n_neurons = len(first.indptr) - 1
    rows_a, columns_a, _ = first.nearest(k)
    rows_b, columns_b, _ = second.nearest(k)
    common = np.isin(rows_a * n_neurons + columns_a, rows_b * n_neurons + columns_b)
    shared = np.bincount(rows_a[common], minlength=n_neurons)
    degrees = [np.bincount(rows, minlength=n_neurons) for rows in (rows_a, rows_b)]
    union = degrees[0] + degrees[1] - shared
    connected = union > 0
    jaccard = Mean.of(shared[connected] / union[connected])
    return NeighbourAgreement(jaccard, int((~connected).sum()))
