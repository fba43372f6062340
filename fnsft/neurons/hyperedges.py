"""Hyperedges and their weights, and the words of 64 tokens that the projection counts in.

A token occurrence x is a hyperedge E(x), the set of the neurons that it activates; it weighs
|E(x)|^−α · TR(x) (CollabMask 2026), TR the token's weight (:mod:`fnsft.neurons.frequencies`).

Shapes: T tokens, U tokens that weigh more than 0, Q words.
"""

from dataclasses import dataclass

import numpy as np

from fnsft.artifacts.activations import WORD_TOKENS
from fnsft.errors import InputError

SPREAD = 1 / 32
TILE_WORDS = 1_024
TILE_RANGE = 2.0**16
LARGEST = 2**32 - 1


def hyperedge_weights(sizes: np.ndarray, token_weights: np.ndarray, alpha: float) -> np.ndarray:
    """Return |E(x)|^−α · TR(x) of every token, [T] float64; 0 where it makes no hyperedge.

    Raises
    ------
    InputError
        When a weight is beyond float32, in which a graph is stored.
    """
    used = (sizes > 0) & (token_weights > 0)
    weights = np.zeros(len(sizes))
    weights[used] = sizes[used].astype(np.float64) ** -alpha * token_weights[used]
    limits = np.finfo(np.float32)
    if ((weights[used] > limits.max) | (weights[used] < limits.tiny)).any():
        raise InputError(
            f"alpha, beta: expected hyperedge weights within float32, found "
            f"{weights[used].min():.3g} to {weights[used].max():.3g}; use smaller exponents"
        )
    return weights


def documents_of(sample_offsets: np.ndarray, documents: str) -> np.ndarray:
    """Return which tokens belong to ``all``, the ``even`` or the ``odd`` samples, [T] bool."""
    lengths = np.diff(sample_offsets)
    parity = {"even": 0, "odd": 1}.get(documents)
    chosen = np.ones(len(lengths), dtype=bool)
    if parity is not None:
        chosen = np.arange(len(lengths)) % 2 == parity
    if not chosen.any():
        raise InputError(f"documents: no {documents} one among {len(lengths)}; use all")
    return np.repeat(chosen, lengths)


@dataclass(frozen=True, eq=False)
class WeightedWords:
    """Tokens sorted by weight and cut into words whose tokens share one weight.

    ``order`` [U] int64 are the tokens that weigh something, heaviest first; word q holds
    ``order[starts[q]:starts[q + 1]]``, at most 64. Words lie in tiles,
    ``tiles[t]:tiles[t + 1]``; the weight of a word is ``integers[q] * scales[t]``, uint32
    times float64.
    """

    order: np.ndarray
    starts: np.ndarray
    integers: np.ndarray
    tiles: np.ndarray
    scales: np.ndarray

    @property
    def n_words(self) -> int:
        """Words."""
        return len(self.integers)


def weighted_words(weights: np.ndarray, spread: float = SPREAD) -> WeightedWords:
    """Sort tokens by weight, [T] float64, and cut them into words and tiles.

    Notes
    -----
    A word takes the mean weight of its tokens, and a new one begins before the weights
    within it spread by more than a factor of 1 + ``spread``, so that no sum of weights is
    off by more than that factor; 0 gives tokens of equal weight alone (and more words).
    Within a tile weights are whole multiples of one scale, to 1 part in 2^17 at worst:
    integer sums are the same in any order.
    """
    used = np.flatnonzero(weights)
    order = used[np.argsort(-weights[used], kind="stable")]
    sorted_weights = weights[order]
    limits = sorted_weights / (1 + spread)
    starts = _greedy_cuts(sorted_weights, limits, WORD_TOKENS)
    counts = np.diff(starts)
    means = np.add.reduceat(sorted_weights, starts[:-1]) / counts if len(order) else np.empty(0)
    tiles = _greedy_cuts(means, means / TILE_RANGE, TILE_WORDS)
    scales = means[tiles[:-1]] / LARGEST
    integers = np.rint(means / np.repeat(scales, np.diff(tiles))).astype(np.uint32)
    return WeightedWords(order, starts, integers, tiles, scales)


def _greedy_cuts(values: np.ndarray, limits: np.ndarray, longest: int) -> np.ndarray:
    """Cut descending values into runs of at most ``longest``, none below its first's limit."""
    negated, cuts = -values, [0]
    while cuts[-1] < len(values):
        first = cuts[-1]
        run = negated[first : first + longest]
        cuts.append(first + int(np.searchsorted(run, -limits[first], side="right")))
    return np.array(cuts)
