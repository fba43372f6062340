"""One basis for several data sets: the directions that their principal components share.

After CanICA (Varoquaux et al. 2010, "A group model for stable multi-subject ICA on fMRI datasets"):
every data set has its own means, deviations and K principal components; the orthonormal bases,
side by side, have the singular values s of a generalised canonical correlation, and their leading
left singular vectors are the basis of the group. s² / D is how far a direction is within all D
data sets: 1 when in all, 1/D when in one alone.

Shapes: D data sets, F channels, K components.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from fnsft.neurons.decomposition.principal import Principal


@dataclass(frozen=True, eq=False)
class Group:
    """What the data sets share: basis float32 [F, K] and s² / D [K], descending.

    ``scores`` are every data set's own, one after the other, float32 [Σ T, K].
    ``reproducibility`` is None of one data set.
    """

    basis: np.ndarray
    scores: np.ndarray
    reproducibility: np.ndarray | None


def group_basis(parts: Sequence[Principal]) -> Group:
    """Return the basis of a group, and the scores on it, in one more pass; of one its own."""
    if len(parts) == 1:
        return Group(parts[0].components, parts[0].scores, None)
    stacked = np.concatenate([part.components for part in parts], axis=1)
    left, values, _ = np.linalg.svd(stacked, full_matrices=False)
    basis = torch.from_numpy(left[:, : parts[0].components.shape[1]].copy())
    scores = torch.cat([part.data.project(basis) for part in parts])
    shares = values[: basis.shape[1]].astype(np.float64) ** 2 / len(parts)
    return Group(basis.numpy(), scores.numpy(), shares)
