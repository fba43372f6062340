"""The affinity W of one layer: how much each neuron listens to each other neuron.

N is ``d_mlp``, the neurons of the layer, w the columns of a panel. W is [N, N] and its rows sum
to 1; it need not be symmetric. Its diagonal is zero but for isolated neurons, whose row is
their own unit vector, and for clusters, where a neuron is one of its own cluster.

Three forms hold it: sparse rows (kNN), a whole matrix, and clusters, which are never [N, N].
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from scipy.sparse import csr_array

from fnsft.artifacts.clusters import NO_CLUSTER
from fnsft.artifacts.graphs import require_stored
from fnsft.errors import InputError
from fnsft.masks.score_numba import blend_clusters, blend_neighbours


class Affinity(Protocol):
    """A row-stochastic matrix W over the neurons of one layer."""

    @property
    def n_neurons(self) -> int:
        """The layer's neurons, N."""

    @property
    def isolated(self) -> int:
        """Neurons that listen to nobody: their row is their own unit vector."""

    def blend(self, magnitude: torch.Tensor, lam: float, out: torch.Tensor) -> None:
        """Write (1 − λ)·m + λ·W·m to ``out``, both panels [N, w], finite, float32, contiguous.

        On the CPU, for one w, a column's bits do not depend on the other columns, on its place
        among them or on the number of threads.
        """

    def to(self, device: torch.device | str) -> "Affinity":
        """Return this affinity on ``device``."""


@dataclass(frozen=True, eq=False)
class MatrixAffinity:
    """W as a float32 tensor [N, N]: sparse CSR, or dense with 4 N² bytes.

    What :meth:`Affinity.blend` says of bits is, for a dense W, what BLAS does and not what it
    promises: they were the same with MKL (w = 64, N from 37 to 3,000), where products with
    w ≤ 8 had others.
    """

    weights: torch.Tensor
    isolated: int

    @property
    def n_neurons(self) -> int:
        """The layer's neurons, N."""
        return self.weights.shape[0]

    @property
    def is_sparse(self) -> bool:
        """Whether W is held as sparse rows."""
        return self.weights.layout == torch.sparse_csr

    def blend(self, magnitude: torch.Tensor, lam: float, out: torch.Tensor) -> None:
        """Write (1 − λ)·m + λ·W·m of a panel [N, w] to ``out``."""
        if self.is_sparse and self.weights.device.type == "cpu":
            blend_neighbours(self.weights, magnitude, lam, out)
        else:
            torch.addmm(magnitude, self.weights, magnitude, beta=1 - lam, alpha=lam, out=out)

    def to(self, device: torch.device | str) -> "MatrixAffinity":
        """Return this affinity on ``device``."""
        return MatrixAffinity(self.weights.to(device), self.isolated)


@dataclass(frozen=True, eq=False)
class ClusterAffinity:
    """W as the mean over one's cluster: ``means`` [C, N] averages, ``cluster`` [N] tells whose.

    ``means`` is sparse CSR float32; a neuron in no cluster is a cluster of its own.
    """

    means: torch.Tensor
    cluster: torch.Tensor
    isolated: int

    @property
    def n_neurons(self) -> int:
        """The layer's neurons, N."""
        return self.cluster.shape[0]

    def blend(self, magnitude: torch.Tensor, lam: float, out: torch.Tensor) -> None:
        """Write (1 − λ)·m + λ·W·m of a panel [N, w] to ``out``."""
        if self.means.device.type == "cpu":
            blend_clusters(self.means, self.cluster, magnitude, lam, out)
        else:
            torch.index_select(self.means @ magnitude, 0, self.cluster, out=out)
            out.mul_(lam).add_(magnitude, alpha=1 - lam)

    def to(self, device: torch.device | str) -> "ClusterAffinity":
        """Return this affinity on ``device``."""
        return ClusterAffinity(self.means.to(device), self.cluster.to(device), self.isolated)


def knn_affinity(
    indptr: np.ndarray,
    indices: np.ndarray,
    weights: np.ndarray,
    k: int,
    k_max: int,
    mutual: bool = False,
) -> MatrixAffinity:
    """Keep the ``k`` largest weights of each row, then normalise the rows.

    Parameters
    ----------
    indptr, indices, weights
        int64 [N + 1], int32 [edges] and float32 [edges], without the diagonal; a row is
        sorted by decreasing weight and holds at most ``k_max`` entries.
    k, k_max
        Neighbours kept of a row, and stored of it.
    mutual
        Keep (i, j) only when j is among the first ``k`` of i and i among those of j.

    Raises
    ------
    InputError
        When ``k`` is larger than what was stored.
    """
    require_stored(k, k_max)
    _check_graph(indptr, indices, weights)
    n = indptr.size - 1
    rows = np.repeat(np.arange(n), np.diff(indptr))
    kept = np.arange(rows.size) - indptr[rows] < k
    if mutual:
        there, back = rows * n + indices, indices * np.int64(n) + rows
        kept &= np.isin(back, there[kept])
    graph = csr_array((weights[kept].astype(np.float64), (rows[kept], indices[kept])), shape=(n, n))
    sums = graph.sum(axis=1)
    isolated = sums == 0
    graph.data /= np.where(isolated, 1, sums)[np.repeat(np.arange(n), np.diff(graph.indptr))]
    loops = np.flatnonzero(isolated)
    unit_rows = csr_array((np.ones(loops.size), (loops, loops)), shape=(n, n))
    return MatrixAffinity(_as_torch(graph + unit_rows), loops.size)


def dense_affinity(matrix: np.ndarray) -> MatrixAffinity:
    """Normalise the rows with all of their weights (the ablation without kNN).

    Parameters
    ----------
    matrix
        float32 [N, N], non-negative, with a zero diagonal. It is copied: 4 N² bytes more.

    Raises
    ------
    InputError
        When it is not that.
    """
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise InputError(f"dense graph: expected [N, N], found {matrix.shape}; project it anew")
    # Scratch of [N, N] would double the memory: a NaN fails the comparison, and the sum of a
    # row is finite when its entries are.
    sums = matrix.sum(axis=1, dtype=np.float64)
    expectations = {
        "no diagonal": not matrix.diagonal().any(),
        "finite, non-negative weights": matrix.min(initial=0) >= 0 and np.isfinite(sums).all(),
    }
    _require(expectations, "dense graph")
    isolated = np.flatnonzero(sums == 0)
    sums[isolated] = 1
    out = np.empty(matrix.shape, dtype=np.float32)
    weights = np.divide(matrix, sums[:, None], out=out, casting="same_kind")
    weights[isolated, isolated] = 1
    return MatrixAffinity(torch.from_numpy(weights), isolated.size)


def cluster_affinity(labels: np.ndarray) -> ClusterAffinity:
    """Return the mean over one's cluster: W(i, j) = 1/|C| for i, j in C, the diagonal too.

    ``labels`` is an integer array [N], −1 for a neuron in no cluster: it keeps its own value.
    """
    n = labels.size
    alone = np.flatnonzero(labels == NO_CLUSTER)
    cluster = labels.astype(np.int64)
    cluster[alone] = labels.max(initial=0) + 1 + np.arange(alone.size)
    _, cluster, sizes = np.unique(cluster, return_inverse=True, return_counts=True)
    means = csr_array((1 / sizes[cluster], (cluster, np.arange(n))), shape=(sizes.size, n))
    return ClusterAffinity(_as_torch(means), torch.from_numpy(cluster), alone.size)


def shuffled(affinity: MatrixAffinity, seed: int, layer: int) -> MatrixAffinity:
    """Return P W Pᵀ of a sparse W with the layer's permutation: entry (i, j) is W[π(i), π(j)].

    The control that shows whether the graph matters: the same weights, rows and degrees,
    between neurons drawn at random.
    """
    w = affinity.weights
    arrays = (w.values().numpy(), w.col_indices().numpy(), w.crow_indices().numpy())
    permutation = _permutation(w.shape[0], seed, layer)
    permuted = csr_array(arrays, shape=w.shape)[permutation][:, permutation]
    return MatrixAffinity(_as_torch(permuted), affinity.isolated)


def shuffled_labels(labels: np.ndarray, seed: int, layer: int) -> np.ndarray:
    """Return the labels [N] of :func:`shuffled`'s neurons: random clusters of the same sizes."""
    return labels[_permutation(labels.size, seed, layer)]


def _permutation(n: int, seed: int, layer: int) -> np.ndarray:
    return np.random.default_rng((seed, layer)).permutation(n)


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
    _require(expectations, "collaboration graph")


def _require(expectations: Mapping[str, object], what: str) -> None:
    unmet = [expectation for expectation, met in expectations.items() if not met]
    if unmet:
        raise InputError(f"{what}: expected {'; '.join(unmet)}; project it anew")
