"""Weighted Gram matrix of bits: AND, popcount, multiply, add; a panel of rows at a time.

    G(i, j) = Σ_q w_q · popcount(P[i, q] AND P[j, q])

P are the sorted words [N, Q] uint64, w their weights (:class:`~.hyperedges.WeightedWords`).
Integers are summed within a tile of words and floats over tiles, in the tiles' order, so
that threads and vector widths change no bit. Only columns from the panel's first on are
computed: what lies below is the mirror image of an earlier panel.

The loop over words is bound by loads, so that two rows meet two columns in one loop. It
counts from 0 over slices: with bounds of its own, numba would guard against negative
indices, at 5 to 20 times the cost. Weights are uint32, so that a product of 32-bit numbers
(or the fused 52-bit one, where the processor has it) does.

Shapes: R rows of a panel, N and R even (a zero row pads), k neighbours kept of a row.
"""

from typing import Any

import numba
import numpy as np
from numba.core import types
from numba.extending import intrinsic

from fnsft.compilation import kernel

PANEL_ROWS = 128
PANEL_COLUMNS = 16
NOBODY = np.iinfo(np.int32).max


@intrinsic
def _popcount(typing_context: Any, word: Any) -> Any:
    """Count the ones of a uint64, by LLVM's instruction."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), generate


@kernel()
def _dots(
    a0: np.ndarray, a1: np.ndarray, b0: np.ndarray, b1: np.ndarray, weights: np.ndarray
) -> tuple[np.uint64, np.uint64, np.uint64, np.uint64]:
    """Return the weighted counts of two rows with two columns."""
    s00 = s01 = s10 = s11 = np.uint64(0)
    for q in range(weights.shape[0]):
        x0, x1, y0, y1 = a0[q], a1[q], b0[q], b1[q]
        weight = np.uint64(weights[q])
        s00 += weight * _popcount(x0 & y0)
        s01 += weight * _popcount(x0 & y1)
        s10 += weight * _popcount(x1 & y0)
        s11 += weight * _popcount(x1 & y1)
    return s00, s01, s10, s11


@kernel(parallel=True)
def gram_panel(
    words: np.ndarray,
    integers: np.ndarray,
    tiles: np.ndarray,
    scales: np.ndarray,
    first: int,
    out: np.ndarray,
) -> None:
    """Write rows ``first`` to ``first + R`` of G into ``out`` [R, N] float64, from ``first`` on.

    Columns before ``first`` keep what they hold.
    """
    n_neurons, stop = words.shape[0], first + out.shape[0]
    n_groups = (n_neurons - first + PANEL_COLUMNS - 1) // PANEL_COLUMNS
    for group in numba.prange(n_groups):
        left = first + group * PANEL_COLUMNS
        right = min(left + PANEL_COLUMNS, n_neurons)
        out[:, left:right] = 0
        for tile in range(scales.size):
            start, end, scale = tiles[tile], tiles[tile + 1], scales[tile]
            weights = integers[start:end]
            for i in range(first, stop, 2):
                a0, a1 = words[i, start:end], words[i + 1, start:end]
                row = i - first
                for j in range(left, right, 2):
                    s00, s01, s10, s11 = _dots(
                        a0, a1, words[j, start:end], words[j + 1, start:end], weights
                    )
                    out[row, j] += s00 * scale
                    out[row, j + 1] += s01 * scale
                    out[row + 1, j] += s10 * scale
                    out[row + 1, j + 1] += s11 * scale


@kernel(parallel=True)
def offer_panel(
    panel: np.ndarray,
    first: int,
    factors: np.ndarray,
    kept_weights: np.ndarray,
    kept_indices: np.ndarray,
) -> None:
    """Offer a panel's weights to its rows' kept neighbours and, mirrored, to its columns'.

    ``panel`` [R, N] holds G from column ``first`` on; G(i, j) · ``factors[i]`` · ``factors[j]``
    is offered, rounded to float32. ``kept_weights`` [N, k] float32 and ``kept_indices`` [N, k]
    int32 are heaps, their lightest entry first; an entry of weight 0 is empty.
    """
    n_neurons, stop = factors.size, min(first + panel.shape[0], factors.size)
    for i in numba.prange(first, stop):
        for j in range(first, n_neurons):
            if i != j:
                weight = np.float32(panel[i - first, j] * (factors[i] * factors[j]))
                _offer(kept_weights[i], kept_indices[i], weight, j)
    n_groups = (n_neurons - stop + PANEL_COLUMNS - 1) // PANEL_COLUMNS
    for group in numba.prange(n_groups):
        left = stop + group * PANEL_COLUMNS
        for i in range(first, stop):
            for j in range(left, min(left + PANEL_COLUMNS, n_neurons)):
                weight = np.float32(panel[i - first, j] * (factors[i] * factors[j]))
                _offer(kept_weights[j], kept_indices[j], weight, i)


@kernel()
def _offer(weights: np.ndarray, indices: np.ndarray, weight: np.float32, index: int) -> None:
    """Replace the heap's lightest entry by a heavier one, or one as heavy of a lower index."""
    if weight < weights[0] or (weight == weights[0] and index >= indices[0]) or weight <= 0:
        return
    place, size = 0, weights.size
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        right = child + 1
        if right < size and _lighter(
            weights[right], indices[right], weights[child], indices[child]
        ):
            child = right
        if not _lighter(weights[child], indices[child], weight, index):
            break
        weights[place], indices[place] = weights[child], indices[child]
        place = child
    weights[place], indices[place] = weight, index


@kernel()
def _lighter(weight: np.float32, index: int, other_weight: np.float32, other_index: int) -> bool:
    return bool(weight < other_weight or (weight == other_weight and index > other_index))
