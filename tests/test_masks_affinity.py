"""The affinity against dense float64 algebra."""

import numpy as np
import pytest
import torch

from fnsft.errors import InputError
from fnsft.masks.affinity import (
    Affinity,
    cluster_affinity,
    dense_affinity,
    knn_affinity,
    shuffled,
    shuffled_labels,
)

N, W, K_MAX = 37, 23, 12


def stored_graph(seed: int = 0, isolated: tuple[int, ...] = (4, 36)) -> tuple[np.ndarray, ...]:
    """Rows of 0 to K_MAX neighbours by decreasing weight, as the graph is stored."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(N):
        degree = 0 if i in isolated else int(rng.integers(1, K_MAX + 1))
        neighbours = rng.choice(np.delete(np.arange(N), i), degree, replace=False)
        rows.append((neighbours, np.sort(rng.lognormal(0, 3, degree))[::-1]))
    indptr = np.cumsum([0] + [len(n) for n, _ in rows]).astype(np.int64)
    indices = np.concatenate([n for n, _ in rows]).astype(np.int32)
    return indptr, indices, np.concatenate([w for _, w in rows]).astype(np.float32)


def dense_reference(indptr, indices, weights, k: int) -> np.ndarray:
    w = np.zeros((N, N))
    for i in range(N):
        for edge in range(indptr[i], min(indptr[i + 1], indptr[i] + k)):
            w[i, indices[edge]] = weights[edge]
        w[i] = w[i] / w[i].sum() if w[i].any() else np.eye(N)[i]
    return w


def mutual_reference(indptr, indices, weights, k: int) -> np.ndarray:
    first = [list(indices[indptr[i] : min(indptr[i + 1], indptr[i] + k)]) for i in range(N)]
    w = np.zeros((N, N))
    for i in range(N):
        for place, j in enumerate(first[i]):
            if i in first[j]:
                w[i, j] = weights[indptr[i] + place]
        w[i] = w[i] / w[i].sum() if w[i].any() else np.eye(N)[i]
    return w


def stored_matrix(seed: int = 0) -> np.ndarray:
    """Weights of a dense graph; neurons 4 and 36 are isolated."""
    matrix = np.random.default_rng(seed).lognormal(0, 3, (N, N)).astype(np.float32)
    matrix[np.eye(N, dtype=bool)] = 0
    matrix[[4, 36]] = 0
    matrix[:, [4, 36]] = 0
    return matrix


def some_labels(seed: int = 0) -> np.ndarray:
    """Clusters of many sizes, one of them a single neuron; neurons 4 and 36 are in none."""
    labels = np.random.default_rng(seed).integers(0, 4, N).astype(np.int32)
    labels[9] = 4
    labels[[4, 36]] = -1
    return labels


def cluster_reference(labels) -> np.ndarray:
    """The co-cluster matrix, row-normalised; a neuron in no cluster is with itself alone."""
    together = np.eye(N)
    for i in range(N):
        for j in range(N):
            if labels[i] == labels[j] >= 0:
                together[i, j] = 1
    return together / together.sum(1, keepdims=True)


AFFINITIES = {
    "knn": lambda: knn_affinity(*stored_graph(), k=5, k_max=K_MAX),
    "dense": lambda: dense_affinity(stored_matrix()),
    "cluster": lambda: cluster_affinity(some_labels()),
}
every_form = pytest.mark.parametrize("form", AFFINITIES)


def dense(affinity: Affinity) -> np.ndarray:
    """W, as the blend of the unit vectors with λ = 1."""
    out = torch.full((N, N), torch.nan)
    affinity.blend(torch.eye(N), 1.0, out)
    return out.double().numpy()


@pytest.mark.parametrize("k", [1, 3, K_MAX])
def test_the_knn_affinity_is_the_normalised_cut_of_the_graph(k):
    graph = stored_graph()
    affinity = knn_affinity(*graph, k=k, k_max=K_MAX)
    np.testing.assert_allclose(dense(affinity), dense_reference(*graph, k), rtol=1e-6)
    assert affinity.isolated == 2
    assert affinity.weights.dtype == torch.float32


@pytest.mark.parametrize("k", [1, 3, K_MAX])
def test_the_mutual_affinity_keeps_what_both_neurons_keep(k):
    graph = stored_graph()
    affinity = knn_affinity(*graph, k=k, k_max=K_MAX, mutual=True)
    expected = mutual_reference(*graph, k)
    np.testing.assert_allclose(dense(affinity), expected, rtol=1e-6)
    assert affinity.isolated == np.diag(expected).sum() > 2


def test_the_dense_affinity_is_the_normalised_matrix():
    matrix = stored_matrix()
    affinity = dense_affinity(matrix)
    expected = np.array([row / row.sum() if row.any() else 0 * row for row in matrix.astype(float)])
    expected[4, 4] = expected[36, 36] = 1
    np.testing.assert_allclose(dense(affinity), expected, rtol=1e-6)
    assert affinity.isolated == 2
    assert np.array_equal(matrix, stored_matrix()), "the graph is left as it was"


def test_the_cluster_affinity_is_the_normalised_co_cluster_matrix():
    affinity = cluster_affinity(some_labels())
    np.testing.assert_allclose(dense(affinity), cluster_reference(some_labels()), rtol=1e-6)
    assert affinity.isolated == 2
    assert affinity.means.shape == (5 + 2, N)
    assert affinity.means.values().numel() == N, "never [N, N]"


def test_the_numbers_of_clusters_do_not_matter():
    labels = some_labels()
    renumbered = np.where(labels < 0, -1, np.array([70, 3, 11, 0, 5])[labels])
    assert np.array_equal(dense(cluster_affinity(renumbered)), dense(cluster_affinity(labels)))


def test_without_a_cluster_every_neuron_keeps_its_own():
    affinity = cluster_affinity(np.full(N, -1, dtype=np.int32))
    assert np.array_equal(dense(affinity), np.eye(N))
    assert affinity.isolated == N


@every_form
def test_rows_sum_to_one(form):
    np.testing.assert_allclose(dense(AFFINITIES[form]()).sum(1), 1, rtol=1e-6)


@pytest.mark.parametrize("form", ["knn", "dense"])
def test_the_diagonal_is_zero_but_for_isolated_neurons(form):
    w = dense(AFFINITIES[form]())
    assert np.flatnonzero(np.diag(w)).tolist() == [4, 36]
    assert w[4, 4] == w[36, 36] == 1


def test_a_graph_without_edges_gives_the_identity():
    indptr = np.zeros(N + 1, dtype=np.int64)
    affinity = knn_affinity(indptr, np.empty(0, np.int32), np.empty(0, np.float32), k=2, k_max=4)
    assert np.array_equal(dense(affinity), np.eye(N))
    assert affinity.isolated == N


def test_more_neighbours_than_were_stored_are_refused():
    with pytest.raises(InputError, match="k_max=12 .* found 13"):
        knn_affinity(*stored_graph(), k=13, k_max=K_MAX)


def test_a_damaged_graph_is_refused_with_what_was_expected():
    indptr, indices, weights = stored_graph()
    rows = np.repeat(np.arange(N), np.diff(indptr)).astype(np.int32)
    damage = {
        "decreasing": (indptr, indices, weights[::-1].copy()),
        "no diagonal": (indptr, rows, weights),
        "finite": (indptr, indices, np.where(weights == weights.max(), np.nan, weights)),
        f"of {N} neurons": (indptr, indices + 1, weights),
        "edges, found": (indptr, indices[:-1], weights[:-1]),
    }
    for expectation, graph in damage.items():
        with pytest.raises(InputError, match=expectation):
            knn_affinity(*graph, k=3, k_max=K_MAX)


@pytest.mark.parametrize(
    ("damage", "expectation"),
    [
        (lambda m: m[:, :-1], r"expected \[N, N\], found \(37, 36\)"),
        (lambda m: m + np.eye(N, dtype=np.float32), "no diagonal"),
        (lambda m: m - 1e-3 * (1 - np.eye(N, dtype=np.float32)), "finite, non-negative"),
        (lambda m: np.where(m == m.max(), np.float32(np.nan), m), "finite, non-negative"),
        (lambda m: np.where(m == m.max(), np.float32(np.inf), m), "finite, non-negative"),
    ],
)
def test_a_damaged_dense_graph_is_refused_with_what_was_expected(damage, expectation):
    with pytest.raises(InputError, match=expectation):
        dense_affinity(damage(stored_matrix()))


def test_shuffling_is_p_w_p_transposed_with_a_permutation_of_its_own_for_each_layer():
    affinity = knn_affinity(*stored_graph(), k=5, k_max=K_MAX)
    w = dense(affinity)
    seen = set()
    for seed, layer in [(0, 0), (0, 1), (1, 0)]:
        p = np.eye(N)[np.random.default_rng((seed, layer)).permutation(N)]
        control = shuffled(affinity, seed, layer)
        np.testing.assert_array_equal(dense(control), p @ w @ p.T)
        assert control.isolated == 2
        seen.add(dense(control).tobytes())
    assert len(seen) == 3


def test_shuffled_clusters_are_p_w_p_transposed_with_the_permutation_of_the_graph():
    w = dense(cluster_affinity(some_labels()))
    for seed, layer in [(0, 0), (0, 1), (1, 0)]:
        p = np.eye(N)[np.random.default_rng((seed, layer)).permutation(N)]
        control = cluster_affinity(shuffled_labels(some_labels(), seed, layer))
        np.testing.assert_array_equal(dense(control), p @ w @ p.T)
        assert control.isolated == 2


@every_form
def test_blending_changes_neither_its_argument_nor_the_affinity(form):
    affinity, magnitude = AFFINITIES[form](), torch.rand(N, W)
    before, w = magnitude.clone(), dense(affinity)
    affinity.blend(magnitude, 0.4, torch.empty(N, W))
    assert torch.equal(magnitude, before)
    assert np.array_equal(dense(affinity), w)
