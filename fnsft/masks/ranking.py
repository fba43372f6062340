"""Whole neurons, or columns, by a score: which are trained, and which protected.

N is how many there are, p the share that trains.
"""

import numpy as np
import torch

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
