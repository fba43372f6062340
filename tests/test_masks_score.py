"""The score against dense float64 algebra, and its bits against those of parts of a matrix."""

import os
import subprocess
import sys
from collections.abc import Iterator

import numba
import numpy as np
import pytest
import torch

from fnsft.masks.affinity import Affinity, cluster_affinity, dense_affinity, knn_affinity
from fnsft.masks.score import CPU_PANEL_COLUMNS, score

N, D = 203, 2 * CPU_PANEL_COLUMNS + 31


def knn() -> Affinity:
    """Between none and nine neighbours a neuron."""
    rng = np.random.default_rng(0)
    degrees = rng.integers(0, 10, N)
    others = [
        rng.choice(np.delete(np.arange(N), i), k, replace=False) for i, k in enumerate(degrees)
    ]
    weights = [np.sort(rng.lognormal(0, 2, k))[::-1] for k in degrees]
    indptr = np.concatenate([[0], np.cumsum(degrees)])
    indices = np.concatenate(others).astype(np.int32)
    return knn_affinity(indptr, indices, np.concatenate(weights).astype(np.float32), k=9, k_max=9)


def dense() -> Affinity:
    matrix = np.random.default_rng(1).lognormal(0, 2, (N, N)).astype(np.float32)
    np.fill_diagonal(matrix, 0)
    return dense_affinity(matrix)


def cluster() -> Affinity:
    """Clusters of many sizes, and neurons in none."""
    return cluster_affinity(np.random.default_rng(2).integers(-1, 12, N) // 2)


AFFINITIES = {"knn": knn, "dense": dense, "cluster": cluster}
every_form = pytest.mark.parametrize("form", AFFINITIES)
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
every_axis = pytest.mark.parametrize("axis", [0, 1])


def weights(affinity: Affinity) -> np.ndarray:
    """W, as the blend of the unit vectors with λ = 1."""
    out = torch.full((N, N), torch.nan)
    affinity.blend(torch.eye(N), 1.0, out)
    return out.double().numpy()


def gradient(axis: int, columns: int = D, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """[N, columns], or its transpose for axis 1; entries span many orders of magnitude."""
    generator = torch.Generator().manual_seed(columns)
    normal, scale = torch.randn(2, N, columns, generator=generator)
    by_neuron = (normal * (3 * scale).exp()).to(dtype)
    return by_neuron if axis == 0 else by_neuron.t().contiguous()


@pytest.fixture
def torch_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@every_form
@every_axis
@every_dtype
@pytest.mark.parametrize("columns", [1, CPU_PANEL_COLUMNS, D])
def test_the_score_blends_the_gradient_and_its_neighbours(form, axis, dtype, columns):
    affinity, g = AFFINITIES[form](), gradient(axis, columns, dtype)
    magnitude = g.double().abs().numpy()
    before = g.clone()
    for lam in (0.0, 0.3, 1.0):
        neighbours = weights(affinity) @ (magnitude if axis == 0 else magnitude.T)
        expected = (1 - lam) * magnitude + lam * (neighbours if axis == 0 else neighbours.T)
        found = score(g, affinity, lam, axis)
        assert found.dtype == torch.float32
        assert found.is_contiguous()
        np.testing.assert_allclose(found.numpy(), expected, rtol=2e-6)
    assert torch.equal(g, before), "the gradient is left as it was"


@every_form
@every_axis
@every_dtype
def test_the_score_of_some_columns_is_bit_for_bit_that_of_the_whole(form, axis, dtype):
    # What a process of a sharded run computes from the columns that it holds.
    affinity, g = AFFINITIES[form](), gradient(axis, dtype=dtype)
    whole = score(g, affinity, 0.3, axis)
    some = torch.randperm(D, generator=torch.Generator().manual_seed(0))
    parts = [torch.arange(a, b) for a, b in [(0, 1), (1, 9), (5, 70), (63, 66), (64, D), (3, 3)]]
    for part in [*parts, some, some[:7], some[:100]]:
        found = score(g.index_select(1 - axis, part), affinity, 0.3, axis)
        assert torch.equal(found, whole.index_select(1 - axis, part)), part


@every_form
@every_dtype
def test_strides_and_the_neuron_axis_change_no_bit(form, dtype):
    affinity, g = AFFINITIES[form](), gradient(0, dtype=dtype)
    expected = score(g, affinity, 0.5, 0)
    down = g.t().contiguous()
    strided = torch.stack([g, -g], dim=2).flatten(1)[:, ::2]
    for twin in (down.t(), strided, torch.cat([g, g])[N:], -g):
        assert torch.equal(score(twin, affinity, 0.5, 0), expected)
    for twin in (down, g.t(), strided.t(), torch.cat([down, down])[D:]):
        assert torch.equal(score(twin, affinity, 0.5, 1), expected.t())


@every_form
@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="one processor")
@pytest.mark.usefixtures("torch_threads")
def test_threads_change_no_bit_and_are_left_as_they_were(form):
    affinity, g = AFFINITIES[form](), gradient(0)
    before, found = numba.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(score(g, affinity, 0.5, 0))
        assert torch.get_num_threads() == threads
        assert numba.get_num_threads() == before
    assert torch.equal(*found)


def test_torch_keeps_its_one_thread_when_those_of_numba_start():
    program = """
import numpy as np
import torch
from fnsft.masks.affinity import cluster_affinity
from fnsft.masks.score import score

score(torch.rand(9, 5), cluster_affinity(np.zeros(9, dtype=int)), 0.5, 0)
print(torch.get_num_threads())
"""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "2"}
    command = [sys.executable, "-c", program]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert run.stdout == "1\n"


@every_form
@every_axis
def test_without_neighbours_the_score_is_exactly_the_magnitude(form, axis):
    g = gradient(axis)
    assert torch.equal(score(g, AFFINITIES[form](), 0.0, axis), g.abs())


def test_the_mean_of_a_large_cluster_is_exact_to_single_precision():
    n = 20_000
    g = torch.rand(n, 3, generator=torch.Generator().manual_seed(0))
    found = score(g, cluster_affinity(np.zeros(n, dtype=int)), 1.0, 0)
    np.testing.assert_allclose(found[[0, -1]], g.double().mean(0).expand(2, 3), rtol=2e-7)


@every_form
def test_a_neuron_without_others_keeps_its_magnitude_up_to_rounding(form):
    affinity, g = AFFINITIES[form](), gradient(0)
    alone = np.flatnonzero(np.diag(weights(affinity)) == 1)
    assert alone.size == affinity.isolated
    found = score(g, affinity, 0.7, 0)[alone]
    torch.testing.assert_close(found, g.abs()[alone], rtol=2e-7, atol=0)


@every_form
@every_axis
def test_a_matrix_of_another_width_is_refused(form, axis):
    with pytest.raises(
        ValueError, match=f"{N} neurons along axis {axis} .* another model or layer"
    ):
        score(gradient(1 - axis), AFFINITIES[form](), 0.5, axis)
