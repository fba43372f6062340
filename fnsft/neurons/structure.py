"""What a kNN graph looks like: communities and hubs.

Shapes: N = ``d_mlp`` neurons of a layer.
"""

from dataclasses import dataclass

import numpy as np

from fnsft.artifacts.clusters import NO_CLUSTER
from fnsft.artifacts.graphs import LayerGraph
from fnsft.neurons.clustering import symmetric_knn

QUANTILES = (0.1, 0.5, 0.9)  # of the in-degrees


def modularity(layer: LayerGraph, k: int, labels: np.ndarray) -> float | None:
    """Return Newman's modularity of a partition of the kNN graph; None without an edge.

    Parameters
    ----------
    layer, k
        The graph is A = max(K, Kᵀ), K the first ``k`` of each row with their weights.
    labels
        [N]; a neuron in no cluster (−1) is a community of its own.

    Notes
    -----
    Q = Σ_c (w_c / 2w − (d_c / 2w)²) in [−0.5, 1), with 2w = ΣA, w_c = Σ A(i, j) over i, j in
    c and d_c the degrees of c (Newman 2004). Random partitions have an expectation near 0.
    """
    graph = symmetric_knn(layer, k).tocoo()
    total = graph.data.sum()
    if total == 0:
        return None
    n = len(labels)
    alone = n + np.arange(n)
    communities = np.unique(np.where(labels == NO_CLUSTER, alone, labels), return_inverse=True)[1]
    rows, columns = graph.coords
    within = graph.data[communities[rows] == communities[columns]].sum() / total
    shares = np.bincount(communities[rows], weights=graph.data) / total
    return float(within - (shares**2).sum())


@dataclass(frozen=True)
class Hubs:
    """How unevenly the ``connected`` neurons of N are others' neighbours.

    A neuron's in-degree is the number of lists of k neighbours that hold it. ``quantiles`` are
    those of :data:`QUANTILES` over connected neurons, ``gini`` their Gini coefficient (0: all
    alike), ``nobodys_share`` the share of them in no list. These, and ``in_degree_max``, are
    None without an edge. ``isolated_share`` is the share of all neurons that have no edge.
    """

    connected: int
    in_degree_max: int | None
    quantiles: tuple[float, ...] | None
    gini: float | None
    nobodys_share: float | None
    isolated_share: float


def hubs(layer: LayerGraph, k: int) -> Hubs:
    """Count how many of the first ``k`` neighbours of others every neuron is."""
    n_neurons = len(layer.indptr) - 1
    in_degrees = layer.in_degrees(k)
    connected = (np.diff(layer.indptr) > 0) | (in_degrees > 0)
    found = in_degrees[connected]
    n = len(found)
    isolated = (n_neurons - n) / n_neurons
    if n == 0:
        return Hubs(0, None, None, None, None, isolated)
    return Hubs(
        connected=n,
        in_degree_max=int(found.max()),
        quantiles=tuple(map(float, np.quantile(found, QUANTILES))),
        gini=gini(found),
        nobodys_share=float((found == 0).mean()),
        isolated_share=isolated,
    )


def gini(values: np.ndarray) -> float:
    """Return the Gini coefficient of non-negative values [n] with a positive sum.

    G = Σ_ij |x_i − x_j| / (2 n Σ x), in [0, 1 − 1/n].
    """
    n = len(values)
    weights = 2 * np.arange(1, n + 1) - n - 1
    return float((weights * np.sort(values)).sum() / (n * values.sum()))
