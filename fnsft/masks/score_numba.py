"""The score of one panel on the CPU: out = (1 − λ)·m + λ·W·m for a W that is sparse.

m [N, w] is a panel of columns of |g|, float32. Every column is added up in the order of W's
stored entries, and no product is fused with a sum, so that neither the other columns of the
panel, nor vector widths, nor the number of threads change a bit of it.

A sparse matrix is three arrays, by rows: ``indptr`` [rows + 1] and ``indices`` [entries],
int32, ``values`` [entries], float32. C is the number of clusters.
"""

from collections.abc import Callable

import numba
import numpy as np
import torch

from fnsft.compilation import kernel


def blend_neighbours(
    matrix: torch.Tensor, magnitude: torch.Tensor, lam: float, out: torch.Tensor
) -> None:
    """Blend with a sparse W [N, N]; sums are float32, of one neuron's neighbours each."""
    _blend(_neighbours, _arrays(matrix), magnitude, lam, out)


def blend_clusters(
    means: torch.Tensor,
    cluster: torch.Tensor,
    magnitude: torch.Tensor,
    lam: float,
    out: torch.Tensor,
) -> None:
    """Blend with the means [C, N] of the clusters that ``cluster`` [N] tells; sums are float64."""
    _blend(_clusters, (*_arrays(means), cluster.numpy()), magnitude, lam, out)


def _arrays(matrix: torch.Tensor) -> tuple[np.ndarray, ...]:
    parts = (matrix.crow_indices(), matrix.col_indices(), matrix.values())
    return tuple(part.numpy() for part in parts)


def _blend(
    kernel: Callable, matrix: tuple, magnitude: torch.Tensor, lam: float, out: torch.Tensor
) -> None:
    """Run a kernel on as many threads as torch uses."""
    threads, numba_threads = torch.get_num_threads(), numba.get_num_threads()
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    kernel(*matrix, magnitude.numpy(), np.float32(1 - lam), np.float32(lam), out.numpy())
    numba.set_num_threads(numba_threads)
    # numba's threads, when they start, set torch's number to theirs: both use OpenMP.
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


@kernel()
def _weighted_sum(
    indices: np.ndarray, values: np.ndarray, panel: np.ndarray, total: np.ndarray
) -> None:
    """Write Σ values[e]·panel[indices[e]] to ``total`` [w]."""
    total[:] = 0
    unrolled = indices.size // 4 * 4
    # Four at a time, one behind the other: the running total is read and written less often.
    for e in range(0, unrolled, 4):
        v0, v1, v2, v3 = values[e], values[e + 1], values[e + 2], values[e + 3]
        m0, m1 = panel[indices[e]], panel[indices[e + 1]]
        m2, m3 = panel[indices[e + 2]], panel[indices[e + 3]]
        for c in range(total.size):
            total[c] = (((total[c] + v0 * m0[c]) + v1 * m1[c]) + v2 * m2[c]) + v3 * m3[c]
    for e in range(unrolled, indices.size):
        m0 = panel[indices[e]]
        for c in range(total.size):
            total[c] += values[e] * m0[c]


@kernel(parallel=True)
def _neighbours(
    indptr: np.ndarray,
    indices: np.ndarray,
    values: np.ndarray,
    panel: np.ndarray,
    own: np.float32,
    others: np.float32,
    out: np.ndarray,
) -> None:
    for i in numba.prange(panel.shape[0]):
        row = slice(indptr[i], indptr[i + 1])
        _weighted_sum(indices[row], values[row], panel, out[i])
        for c in range(out.shape[1]):
            out[i, c] = own * panel[i, c] + others * out[i, c]


@kernel(parallel=True)
def _clusters(
    indptr: np.ndarray,
    indices: np.ndarray,
    values: np.ndarray,
    cluster: np.ndarray,
    panel: np.ndarray,
    own: np.float32,
    others: np.float32,
    out: np.ndarray,
) -> None:
    means = np.empty((indptr.size - 1, panel.shape[1]), dtype=np.float64)
    for k in numba.prange(indptr.size - 1):
        row = slice(indptr[k], indptr[k + 1])
        _weighted_sum(indices[row], values[row], panel, means[k])
    for i in numba.prange(panel.shape[0]):
        mean = means[cluster[i]]
        for c in range(out.shape[1]):
            out[i, c] = own * panel[i, c] + others * np.float32(mean[c])
