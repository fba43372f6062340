"""The diffusion affinity against powers of the dense matrix."""

import numpy as np
import pytest
import torch
from matrices import two_neighbours

from fnsft.config.stages import TrainSettings
from fnsft.errors import InputError
from fnsft.masks.affinity import knn_affinity
from fnsft.masks.diffusion import DiffusionAffinity

N = 23


def dense(affinity) -> np.ndarray:
    return affinity.weights.to_dense().double().numpy()


def blended(affinity, magnitude: torch.Tensor, lam: float) -> torch.Tensor:
    out = torch.empty_like(magnitude)
    affinity.blend(magnitude, lam, out=out)
    return out


@pytest.mark.parametrize("damping", [0.0, 0.4, 0.85])
@pytest.mark.parametrize("steps", [1, 2, 3, 6])
def test_diffusion_is_the_sum_of_the_walk_s_powers(damping: float, steps: int) -> None:
    neighbours = two_neighbours(0, N)
    p = dense(neighbours)
    shares = [(1 - damping) * damping**t for t in range(steps - 1)] + [damping ** (steps - 1)]
    w = sum(c * np.linalg.matrix_power(p, t) for t, c in enumerate(shares, start=1))
    np.testing.assert_allclose(w.sum(1), 1)
    magnitude = torch.rand(N, 5)
    for lam in (0.3, 1.0):
        found = blended(DiffusionAffinity(neighbours, damping, steps), magnitude, lam)
        expected = (1 - lam) * magnitude.numpy() + lam * (w @ magnitude.double().numpy())
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_walk_of_one_step_is_knn_and_the_gradient_is_left_alone() -> None:
    neighbours, magnitude = two_neighbours(1, N), torch.rand(N, 4)
    before = magnitude.clone()
    one = blended(DiffusionAffinity(neighbours, 0.85, 1), magnitude, 0.5)
    torch.testing.assert_close(one, blended(neighbours, magnitude, 0.5))
    blended(DiffusionAffinity(neighbours, 0.85, 4), magnitude, 0.5)
    assert torch.equal(magnitude, before)


def test_a_neuron_without_neighbours_keeps_its_own_gradient() -> None:
    indptr, indices = np.array([0, 1, 2, 2]), np.array([1, 0], dtype=np.int32)
    knn = knn_affinity(indptr, indices, np.float32([1, 1]), k=1, k_max=1)
    walk = DiffusionAffinity(knn, 0.5, 3)
    assert walk.isolated == 1
    magnitude = torch.tensor([[1.0], [2.0], [7.0]])
    assert float(blended(walk, magnitude, 0.5)[2]) == pytest.approx(7)


def test_mutual_neighbours_may_diffuse_and_clusters_may_not() -> None:
    assert TrainSettings("collab", affinity="diffusion", mutual=True).diffusion_steps == 3
    with pytest.raises(InputError, match="mutual"):
        TrainSettings("collab", affinity="cluster", mutual=True)
