"""Spectral clusters of one layer's kNN graph (the paper of 2025; its numbers are ours).

K holds the first k of every row of the collaboration graph, with its weights. On

    A = max(K, Kᵀ),    M = D^−1/2 A D^−1/2,    L = 1 − M

with D the degrees, the neurons are embedded by the non-trivial eigenvectors of L of smallest
eigenvalue, their rows normalised to length 1 (Ng, Jordan & Weiss 2001), and clustered by
k-means; then the largest cluster is cut in two until the partition carries enough entropy.

Shapes: N = ``d_mlp`` neurons, n of them with an edge, m eigenvectors, c components of A.
"""

import numpy as np
from scipy.linalg import eigh
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from fnsft.artifacts.clusters import NO_CLUSTER, LayerClusters
from fnsft.artifacts.graphs import LayerGraph, require_stored
from fnsft.errors import InputError

DENSE_NEURONS = 400  # up to here a dense eigensolver, which always converges
RESTARTS = 1_000  # of the Lanczos solver, before it gives up
SAME = 1e-5  # rows of length 1 that differ by less are one point: the rest is rounding
NO_DIRECTION = 1e-12  # a row that is shorter than this is rounding alone


def cluster_layer(
    layer: LayerGraph,
    k_max: int,
    *,
    k: int,
    n_eigenvectors: int,
    n_clusters: int,
    min_entropy_bits: float,
    seed: int,
) -> LayerClusters:
    """Cluster the neurons of one layer.

    Parameters
    ----------
    layer, k_max
        The layer's graph; its rows are sorted and hold at most ``k_max`` entries.
    k
        Neighbours kept of a row.
    n_eigenvectors, n_clusters
        At most; with n connected neurons there are n − 1 and n of them.
    min_entropy_bits
        The largest cluster is split until the partition carries this, or the log2(n) that it
        can carry; 0 splits nothing. Splitting stops when the largest cluster is one point.
    seed
        Of the eigensolver's start and of k-means.

    Returns
    -------
    LayerClusters
        Labels [N], −1 without an edge; embedding float32 [N, m], whose rows have length 1, or
        0 without an edge or where all m eigenvectors vanish; eigenvalues of L [m], ascending.

    Raises
    ------
    InputError
        When ``k`` is not below N or more than is stored, or the eigenvectors do not converge.

    Notes
    -----
    One thread, so that their number changes nothing. Memory: 60 bytes an edge of A, and 24 n m
    of Lanczos vectors; nothing is [N, N] above ``DENSE_NEURONS``.
    """
    n_neurons = len(layer.indptr) - 1
    _check_neighbours(k, k_max, n_neurons)
    graph = symmetric_knn(layer, k)
    connected = np.flatnonzero(graph.sum(axis=1))
    n = len(connected)
    with threadpool_limits(1):
        graph = graph[connected][:, connected]
        values, vectors = laplacian_eigenvectors(graph, min(n_eigenvectors, max(n - 1, 0)), seed)
        points = _unit_rows(vectors).astype(np.float32)
        unsplit = _k_means(points, n_clusters, seed) if n else np.zeros(0, np.int64)
        split = _split_largest(unsplit, points, min_entropy_bits, seed)

    def over_all(part: np.ndarray, fill: int) -> np.ndarray:
        whole = np.full((n_neurons, *part.shape[1:]), fill, dtype=part.dtype)
        whole[connected] = part
        return whole

    return LayerClusters(
        labels=over_all(split.astype(np.int32), NO_CLUSTER),
        labels_unsplit=over_all(unsplit.astype(np.int32), NO_CLUSTER),
        embedding=over_all(points, 0),
        eigenvalues=values,
    )


def entropy_bits(labels: np.ndarray) -> float:
    """Return the entropy −Σ p log2 p of a partition [N], over the neurons that are in a cluster."""
    sizes = np.unique(labels[labels != NO_CLUSTER], return_counts=True)[1]
    shares = sizes / sizes.sum()
    return abs(float((shares * np.log2(shares)).sum()))


def symmetric_knn(layer: LayerGraph, k: int) -> csr_array:
    """Return max(K, Kᵀ), float64 [N, N], of the first ``k`` of each row."""
    n = len(layer.indptr) - 1
    rows, columns, weights = layer.nearest(k)
    knn = csr_array((weights.astype(np.float64), (rows, columns)), shape=(n, n))
    return knn.maximum(knn.T).tocsr()


def laplacian_eigenvectors(
    graph: csr_array, n_eigenvectors: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the smallest non-trivial eigenvalues of L, ascending, and their eigenvectors.

    ``graph`` is A, float64 [n, n], symmetric, without an empty row; ``n_eigenvectors`` is m, at
    most n − 1. Both results are float64, [m] and [n, m]; the entry of largest magnitude of a
    vector is positive.

    Notes
    -----
    L has the eigenvalue 0 once a component, with known eigenvectors D^1/2 1_component. A
    Lanczos solver finds repeated eigenvalues by luck alone, so that these are built (orthogonal
    to the trivial D^1/2 1) and only the rest is searched. Of more than m + 1 components the
    m + 1 largest are told apart, and the others are with the largest.
    """
    if graph.shape[0] == 0:
        return np.zeros(0), np.zeros((0, 0))
    degrees = graph.sum(axis=1)
    scale = 1 / np.sqrt(degrees)
    normalised = csr_array(graph * scale[:, None] * scale[None, :])
    kernel = _kernel(graph, degrees)
    within = _without_trivial(kernel, degrees)[:, :n_eigenvectors]
    largest, rest = _largest(normalised, kernel, n_eigenvectors - within.shape[1], seed)
    vectors = np.hstack([within, rest])
    peaks = np.abs(vectors).argmax(axis=0)
    vectors *= np.where(vectors[peaks, np.arange(n_eigenvectors)] < 0, -1, 1)
    values = np.concatenate([np.zeros(within.shape[1]), np.maximum(1 - largest, 0)])
    return values, vectors


def _kernel(graph: csr_array, degrees: np.ndarray) -> csr_array:
    """Return D^1/2 1_component of length 1, [c, n], by size of the component."""
    n_components, members = connected_components(graph, directed=False)
    order = np.argsort(-np.bincount(members), kind="stable")
    place = np.empty(n_components, dtype=np.int64)
    place[order] = np.arange(n_components)
    volumes = np.bincount(members, weights=degrees)
    entries = np.sqrt(degrees / volumes[members])
    n = len(degrees)
    return csr_array((entries, (place[members], np.arange(n))), shape=(n_components, n))


def _without_trivial(kernel: csr_array, degrees: np.ndarray) -> np.ndarray:
    """Return an orthonormal basis [n, c − 1] of the kernel without the trivial eigenvector.

    The Householder reflection that maps the trivial one's coordinates t to ∓e_0 has it in
    its other columns, e_j − t_j (t + e_0) / (1 + t_0).
    """
    trivial = kernel @ np.sqrt(degrees / degrees.sum())
    basis = np.eye(len(trivial))[:, 1:]
    pivot = trivial.copy()
    pivot[0] += 1
    basis -= np.outer(pivot, trivial[1:] / pivot[0])
    return np.asarray(kernel.T @ basis)


def _largest(
    normalised: csr_array, kernel: csr_array, n_wanted: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest eigenvalues of M outside the kernel, descending, and the vectors."""
    n = normalised.shape[0]
    if n_wanted == 0:
        return np.zeros(0), np.zeros((n, 0))
    # M's eigenvalues are in [−1, 1] and the kernel's are 1: they go to −2, below all others.
    if n <= max(DENSE_NEURONS, 2 * n_wanted):
        moved = normalised.toarray() - 3 * (kernel.T @ kernel).toarray()
        values, vectors = eigh(moved, subset_by_index=(n - n_wanted, n - 1))
    else:
        operator = LinearOperator(
            (n, n),
            matvec=lambda x: normalised @ x - 3 * (kernel.T @ (kernel @ x)),
            dtype=np.float64,
        )
        options = {
            "which": "LA",
            "v0": np.random.default_rng(seed).standard_normal(n),
            "ncv": min(n, max(3 * n_wanted, 20)),
            "maxiter": RESTARTS,
        }
        try:
            values, vectors = eigsh(operator, n_wanted, **options)
        except ArpackNoConvergence as error:
            raise InputError(
                f"n_eigenvectors: expected {n_wanted} beyond those of components to converge, "
                f"found {len(error.eigenvalues)}; ask for fewer, or change k"
            ) from None
    order = np.argsort(-values, kind="stable")
    return values[order], vectors[:, order]


def _check_neighbours(k: int, k_max: int, n_neurons: int) -> None:
    if k >= n_neurons:
        raise InputError(f"k: expected fewer than the {n_neurons} neurons, found {k}; lower k")
    require_stored(k, k_max)


def _unit_rows(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    seen = lengths > NO_DIRECTION
    return np.where(seen, vectors / np.where(seen, lengths, 1), 0)


def _k_means(points: np.ndarray, n_clusters: int, seed: int) -> np.ndarray:
    """Return labels by size [n]; no more clusters than distinct points."""
    n_distinct = len(np.unique(np.rint(points / SAME).astype(np.int64), axis=0))
    k_means = KMeans(min(n_clusters, n_distinct), n_init=10, random_state=seed)
    return _by_size(k_means.fit_predict(points.astype(np.float64)))


def _split_largest(
    labels: np.ndarray, points: np.ndarray, min_entropy_bits: float, seed: int
) -> np.ndarray:
    """Cut the largest cluster in two until the entropy is reached or it is a single point."""
    points = points.astype(np.float64)
    wanted = min(min_entropy_bits, np.log2(max(len(labels), 1))) - 1e-9
    while entropy_bits(labels) < wanted:
        largest = np.flatnonzero(labels == 0)
        if np.ptp(points[largest], axis=0).max(initial=0) < SAME:
            break
        halves = KMeans(2, n_init=10, random_state=seed).fit_predict(points[largest])
        cut = labels.copy()
        cut[largest[halves == 1]] = labels.max() + 1
        labels = _by_size(cut)
    return labels


def _by_size(labels: np.ndarray) -> np.ndarray:
    """Renumber by size, the largest 0; of equal clusters that with the lowest neuron first."""
    _, first, inverse, sizes = np.unique(
        labels, return_index=True, return_inverse=True, return_counts=True
    )
    numbers = np.empty(len(sizes), dtype=np.int64)
    numbers[np.lexsort((first, -sizes))] = np.arange(len(sizes))
    return numbers[inverse]
