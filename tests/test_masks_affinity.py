"""The affinity and the score against dense float64 algebra."""

import numpy as np
import pytest
import torch

from fnsft.errors import InputError
from fnsft.masks.affinity import Affinity, dense_affinity, knn_affinity, shuffled
from fnsft.masks.score import score

N, D, K_MAX = 37, 23, 12


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


def dense(affinity: Affinity) -> np.ndarray:
    return affinity.weights.to_dense().double().numpy()


@pytest.mark.parametrize("k", [1, 3, K_MAX])
def test_the_knn_affinity_is_the_normalised_cut_of_the_graph(k):
    graph = stored_graph()
    affinity = knn_affinity(*graph, k=k, k_max=K_MAX)
    np.testing.assert_allclose(dense(affinity), dense_reference(*graph, k), rtol=1e-6)
    assert affinity.isolated == 2
    assert affinity.weights.dtype == torch.float32


def test_the_dense_affinity_keeps_all_stored_weights():
    graph = stored_graph()
    np.testing.assert_allclose(dense(dense_affinity(*graph)), dense_reference(*graph, N), rtol=1e-6)


def test_rows_sum_to_one_and_the_diagonal_is_zero_but_for_isolated_neurons():
    w = dense(knn_affinity(*stored_graph(), k=5, k_max=K_MAX))
    np.testing.assert_allclose(w.sum(1), 1, rtol=1e-6)
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


def test_the_neighbours_of_a_gradient_are_w_times_it():
    affinity = knn_affinity(*stored_graph(), k=5, k_max=K_MAX)
    gradient = torch.randn(N, D).abs()
    expected = dense(affinity) @ gradient.double().numpy()
    np.testing.assert_allclose(affinity.neighbours(gradient).numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("lam", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_score_blends_the_gradient_and_its_neighbours(lam, dtype):
    affinity = knn_affinity(*stored_graph(), k=5, k_max=K_MAX)
    gradient = torch.randn(N, D).to(dtype)
    magnitude = gradient.double().abs().numpy()
    expected = (1 - lam) * magnitude + lam * dense(affinity) @ magnitude
    found = score(gradient, affinity, lam, neuron_axis=0)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)


def test_a_matrix_and_its_transposed_twin_have_the_same_score_for_any_strides():
    affinity = knn_affinity(*stored_graph(), k=5, k_max=K_MAX)
    gradient = torch.randn(N, D)
    expected = score(gradient, affinity, 0.5, neuron_axis=0)
    down = gradient.t().contiguous()
    views = {0: [gradient, down.t()], 1: [down, gradient.t(), torch.cat([down, down])[:D]]}
    for axis, twins in views.items():
        for twin in twins:
            found = score(twin, affinity, 0.5, neuron_axis=axis)
            torch.testing.assert_close(found if axis == 0 else found.t(), expected)


def test_without_neighbours_the_score_is_exactly_the_magnitude():
    affinity = knn_affinity(*stored_graph(), k=5, k_max=K_MAX)
    gradient = torch.randn(D, N)
    assert torch.equal(score(gradient, affinity, 0.0, neuron_axis=1), gradient.abs())


def test_a_matrix_of_another_width_is_refused():
    affinity = knn_affinity(*stored_graph(), k=5, k_max=K_MAX)
    with pytest.raises(ValueError, match="37 neurons along axis 1 .* another model or layer"):
        score(torch.randn(N, D), affinity, 0.5, neuron_axis=1)
