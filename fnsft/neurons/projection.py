"""The hypergraph of co-activated neurons, projected to a weighted graph on neurons.

A token occurrence x is a hyperedge: E(x), the set of the neurons that it activates. With
|E(x)| its size and TR(x) the token's weight (:mod:`fnsft.neurons.frequencies`), neurons i ≠ j
are joined by

    G(i, j) = Σ_{x: i, j ∈ E(x)} |E(x)|^−α · TR(x)        (CollabMask 2026)

Shapes: N = ``d_mlp`` neurons, T tokens, b tokens of one block, W = words of 64 tokens of one
block, R = ``ROWS`` rows of G at a time. Blocks are [N, W] uint64, as in the activation dump.
"""

from collections.abc import Iterable

import numpy as np

from fnsft.artifacts.activations import WORD_TOKENS, unpack_bits
from fnsft.artifacts.graphs import LayerGraph
from fnsft.errors import InputError

ROWS = 1_024


def hyperedge_sizes(blocks: Iterable[np.ndarray], n_tokens: int) -> np.ndarray:
    """Return |E(x)| of every token, [T] int64."""
    sizes = [unpack_bits(block).sum(axis=0, dtype=np.int64) for block in blocks]
    return np.concatenate(sizes)[:n_tokens]


def hyperedge_weights(sizes: np.ndarray, token_weights: np.ndarray, alpha: float) -> np.ndarray:
    """Return |E(x)|^−α · TR(x) of every token, [T] float32; 0 where it makes no hyperedge.

    Raises
    ------
    InputError
        When a weight is beyond float32: it would be lost without a word.
    """
    used = (sizes > 0) & (token_weights > 0)
    weights = np.zeros(len(sizes))
    weights[used] = sizes[used].astype(np.float64) ** -alpha * token_weights[used]
    with np.errstate(over="ignore", under="ignore"):
        rounded = weights.astype(np.float32)
    if not np.isfinite(rounded).all() or (rounded[used] < np.finfo(np.float32).tiny).any():
        raise InputError(
            f"alpha, beta: expected hyperedge weights within float32, found "
            f"{weights[used].min():.3g} to {weights[used].max():.3g}; use smaller exponents"
        )
    return rounded


def project_layer(
    blocks: Iterable[np.ndarray], weights: np.ndarray, k_max: int | None
) -> LayerGraph:
    """Project one layer and keep the ``k_max`` largest positive weights of each row.

    Parameters
    ----------
    blocks
        Bits of all tokens; iterated once for every R rows.
    weights
        Hyperedge weights, [T] float32.
    k_max
        None keeps all positive weights.

    Notes
    -----
    Products are summed in float32 within a block and in float64 over blocks; all terms are
    positive, so that the relative error stays near that of a float32. Of equal float32
    weights the lower index comes first. Memory: N · (5 b + 12 R) + 4 R b bytes (0.53 GB for
    N = 14,336 and b = 4,672), and the graph's 8 bytes an edge.
    """
    degrees, indices, kept = [0], [], []
    n_neurons = next(iter(blocks)).shape[0]
    for start in range(0, n_neurons, ROWS):
        rows = slice(start, min(start + ROWS, n_neurons))
        for i, row in enumerate(_rows(blocks, weights, rows, n_neurons), start):
            row[i] = 0
            # A stable sort keeps equal weights in the order of their index.
            order = np.argsort(-row, kind="stable")[:k_max]
            order = order[row[order] > 0]
            degrees.append(len(order))
            indices.append(order.astype(np.int32))
            kept.append(row[order])
    return LayerGraph(np.cumsum(degrees), np.concatenate(indices), np.concatenate(kept))


def _rows(
    blocks: Iterable[np.ndarray], weights: np.ndarray, rows: slice, n_neurons: int
) -> np.ndarray:
    """Return these rows of G, diagonal included, [R, N] float32."""
    total = np.zeros((rows.stop - rows.start, n_neurons))
    first = 0
    for block in blocks:
        end = first + WORD_TOKENS * block.shape[1]
        total += _product(block, weights[first:end], rows)
        first = end
    return total.astype(np.float32)


def _product(block: np.ndarray, weights: np.ndarray, rows: slice) -> np.ndarray:
    """Return one block's part of these rows, [R, N] float32, from its tokens that weigh."""
    used = np.flatnonzero(weights)
    bits = unpack_bits(block)[:, used].astype(np.float32)
    return (bits[rows] * weights[used]) @ bits.T
