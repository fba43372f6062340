"""The affinity W of one layer: how much each neuron listens to each other neuron.

N is ``d_mlp``, the neurons of the layer. W is [N, N], its rows sum to 1, it is not
symmetric and, the isolated rows apart, its diagonal is zero. It is built from the stored
collaboration graph: CSR arrays whose rows are sorted by decreasing weight.
"""

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_array

from fnsft.errors import InputError


@dataclass(frozen=True)
class Affinity:
    """A row-stochastic matrix over the neurons of one layer.

    ``weights`` is sparse CSR float32 [N, N]; ``isolated`` counts the neurons without
    edges, whose row is their own unit vector.
    """

    weights: torch.Tensor
    isolated: int

    def neighbours(self, abs_gradient: torch.Tensor) -> torch.Tensor:
        """Return W @ ``abs_gradient``: float32 [N, d], as its argument."""
        return self.weights @ abs_gradient

    def to(self, device: torch.device | str) -> "Affinity":
        """Return this affinity on ``device``."""
        return Affinity(self.weights.to(device), self.isolated)


def knn_affinity(
    indptr: np.ndarray, indices: np.ndarray, weights: np.ndarray, k: int, k_max: int
) -> Affinity:
    """Keep the ``k`` largest weights of each row, then normalise the rows.

    Parameters
    ----------
    indptr, indices, weights
        int64 [N + 1], int32 [edges] and float32 [edges], without the diagonal; a row is
        sorted by decreasing weight and holds at most ``k_max`` entries.
    k, k_max
        Neighbours kept of a row, and stored of it.

    Raises
    ------
    InputError
        When ``k`` is larger than what was stored.
    """
    if k > k_max:
        raise InputError(
            f"k: expected at most the k_max={k_max} neighbours that the graph stores, found {k}; "
            f"lower k, or project the graph with k_max of at least {k}"
        )
    _check_graph(indptr, indices, weights)
    kept = _position_in_row(indptr) < k
    kept_before = np.concatenate([[0], np.cumsum(kept)])
    return _normalised(kept_before[indptr], indices[kept], weights[kept])


def dense_affinity(indptr: np.ndarray, indices: np.ndarray, weights: np.ndarray) -> Affinity:
    """Normalise the rows with all of their stored weights (the ablation without kNN).

    Takes 8 bytes an edge, and about 50 while it is built.
    """
    _check_graph(indptr, indices, weights)
    return _normalised(indptr, indices, weights)


def shuffled(affinity: Affinity, seed: int, layer: int) -> Affinity:
    """Return P W Pᵀ with the layer's seeded permutation: entry (i, j) is W[π(i), π(j)].

    The control that shows whether the graph matters: the same weights, rows and degrees,
    between neurons drawn at random.
    """
    w = affinity.weights
    arrays = (w.values().numpy(), w.col_indices().numpy(), w.crow_indices().numpy())
    permutation = np.random.default_rng((seed, layer)).permutation(w.shape[0])
    permuted = csr_array(arrays, shape=w.shape)[permutation][:, permutation]
    return Affinity(_as_torch(permuted), affinity.isolated)


def _normalised(indptr: np.ndarray, indices: np.ndarray, weights: np.ndarray) -> Affinity:
    n = indptr.size - 1
    graph = csr_array((weights.astype(np.float64), indices, indptr), shape=(n, n))
    sums = graph.sum(axis=1)
    isolated = sums == 0
    rows = np.repeat(np.arange(n), np.diff(indptr))
    graph.data /= np.where(isolated, 1, sums)[rows]
    loops = np.flatnonzero(isolated)
    unit_rows = csr_array((np.ones(loops.size), (loops, loops)), shape=(n, n))
    return Affinity(_as_torch(graph + unit_rows), int(isolated.sum()))


def _as_torch(matrix: csr_array) -> torch.Tensor:
    matrix.sort_indices()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")
        return torch.sparse_csr_tensor(
            torch.from_numpy(matrix.indptr.astype(np.int32)),
            torch.from_numpy(matrix.indices.astype(np.int32)),
            torch.from_numpy(matrix.data.astype(np.float32)),
            size=matrix.shape,
            check_invariants=True,
        )


def _position_in_row(indptr: np.ndarray) -> np.ndarray:
    """Return each stored entry's place in its row, from 0."""
    return np.arange(indptr[-1]) - np.repeat(indptr[:-1], np.diff(indptr))


def _check_graph(indptr: np.ndarray, indices: np.ndarray, weights: np.ndarray) -> None:
    n, edges = indptr.size - 1, int(indptr[-1])
    if not indices.size == weights.size == edges:
        raise InputError(
            f"collaboration graph: expected {edges} edges, found {indices.size} indices and "
            f"{weights.size} weights; project it anew"
        )
    rows = np.repeat(np.arange(n), np.diff(indptr))
    expectations = {
        f"indices of {n} neurons": np.all((indices >= 0) & (indices < n)),
        "no diagonal": np.all(indices != rows),
        "finite, non-negative weights": np.all(np.isfinite(weights) & (weights >= 0)),
        "rows of decreasing weight": not np.any((np.diff(weights) > 0) & (np.diff(rows) == 0)),
    }
    unmet = [expectation for expectation, met in expectations.items() if not met]
    if unmet:
        raise InputError(f"collaboration graph: expected {'; '.join(unmet)}; project it anew")
