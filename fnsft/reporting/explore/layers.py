"""One layer of a collaboration graph in numbers: its clusters, its hubs, each neuron's neighbours.

N neurons a layer, k nearest neighbours of each.
"""

from dataclasses import dataclass

import numpy as np

from fnsft.artifacts.graphs import LayerGraph


@dataclass(frozen=True, eq=False)
class LayerSummary:
    """A layer as the page shows it.

    ``in_degree`` [N] counts the lists of k nearest neighbours that hold a neuron; ``isolated``
    neurons have no edge. Neuron i's first neighbours are ``to[starts[i]:starts[i + 1]]``, and so
    are their ``weights``.
    """

    in_degree: np.ndarray
    isolated: int
    starts: np.ndarray
    to: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True, eq=False)
class ClusterSummary:
    """A layer's clusters, all [clusters]: neurons, and the share of edge weight that stays inside.

    ``chance`` is the share of a neuron's possible neighbours that are in its cluster.
    """

    sizes: np.ndarray
    within: np.ndarray
    chance: np.ndarray


def summarise_layer(layer: LayerGraph, k: int, neighbours: int) -> LayerSummary:
    """Sum a layer's graph up; ``k`` neighbours count for the in-degree, ``neighbours`` are kept."""
    n = len(layer.indptr) - 1
    rows, to, weights = layer.nearest(neighbours)
    return LayerSummary(
        in_degree=layer.in_degrees(k),
        isolated=int((np.diff(layer.indptr) == 0).sum()),
        starts=np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=n))]),
        to=to,
        weights=weights,
    )


def summarise_clusters(layer: LayerGraph, labels: np.ndarray, k: int) -> ClusterSummary:
    """Sum clusters up over the edges to the ``k`` nearest neighbours; labels [N], −1 for none.

    Notes
    -----
    within(C) = Σ_{i, j ∈ C} G(i, j) / Σ_{i ∈ C, j} G(i, j), NaN without an edge;
    chance(C) = (|C| − 1) / (N − 1).
    """
    rows, columns, weights = layer.nearest(k)
    inside = (labels[rows] == labels[columns]) & (labels[rows] >= 0)
    sizes = np.bincount(labels[labels >= 0], minlength=labels.max(initial=-1) + 1)

    def total(chosen: np.ndarray) -> np.ndarray:
        return np.bincount(labels[rows[chosen]], weights[chosen], minlength=len(sizes))

    with np.errstate(invalid="ignore"):
        within = total(inside) / total(labels[rows] >= 0)
    return ClusterSummary(sizes, within, (sizes - 1) / max(1, len(labels) - 1))


def in_order_of_interest(in_degree: np.ndarray, named: np.ndarray, hubs: int) -> np.ndarray:
    """Return all neurons of a layer, those that a page needs first first.

    Parameters
    ----------
    in_degree, named
        [N]: how often each is a neighbour, and whether a network names it.
    hubs
        As many of the largest in-degree come before those that are named.
    """
    largest = np.argsort(-in_degree, kind="stable")
    first = np.zeros(len(in_degree), dtype=bool)
    first[largest[:hubs]] = True
    group = np.where(first, 0, np.where(named, 1, 2))
    return largest[np.argsort(group[largest], kind="stable")]
