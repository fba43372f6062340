"""Whole neurons, columns or clusters by a score: which are trained, and which protected.

N is how many neurons (or columns) there are, p the share that trains.
"""

import numpy as np
import torch

from fnsft.artifacts.clusters import NO_CLUSTER
from fnsft.config.stages import Polarity
from fnsft.masks.hashing import hash_of_indices, mixed_seed
from fnsft.masks.selection import kept_entries


def ranked_count(n: int, fraction: float, polarity: Polarity) -> int:
    """Return how many of N are ranked highest: those that train, or all but those.

    round(p·N) train in either polarity, so that methods of one p are alike in it.
    """
    trained = kept_entries(fraction, n)
    return trained if polarity == "train" else n - trained


def highest(scores: np.ndarray, count: int, seed: int, index: int) -> np.ndarray:
    """Return the ``count`` highest of finite scores [N], as bool; a hash orders equal ones.

    ``index`` numbers the layer, or matrix, so that ties fall differently in each.
    """
    ties = hash_of_indices(mixed_seed(seed, 0, index), torch.arange(scores.size)).numpy()
    chosen = np.zeros(scores.size, dtype=bool)
    chosen[np.lexsort((ties, -scores))[:count]] = True
    return chosen


def highest_clusters(scores: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """Return the neurons of the clusters with the highest mean score, about ``count`` of N.

    Clusters are taken whole, one after the other. The last one is taken when that brings the
    number of neurons nearer to ``count``, so that it is missed by half of a cluster at most; at
    least one is taken and one left. Equal means go by the cluster's number, the larger cluster
    first.

    Parameters
    ----------
    scores
        Of every neuron, finite [N].
    labels
        The neuron's cluster [N]; a neuron in none (-1) is a cluster of its own.
    count
        How many of the neurons are aimed at.
    """
    own = labels.astype(np.int64)
    alone = np.flatnonzero(own == NO_CLUSTER)
    own[alone] = own.max(initial=NO_CLUSTER) + 1 + np.arange(alone.size)
    _, own, sizes = np.unique(own, return_inverse=True, return_counts=True)
    means = np.bincount(own, weights=scores) / sizes
    order = np.argsort(-means, kind="stable")
    missed = abs(np.cumsum(sizes[order])[:-1] - count)  # of the first cluster alone, of two, …
    taken = order[: int(missed.argmin()) + 1] if missed.size else order
    return np.isin(own, taken)
