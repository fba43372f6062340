"""LIFT's score: the size of an entry in a low-rank approximation (Liu et al. 2025, 2506.00772).

    S = |U_r U_rᵀ W|

U_r are the r left singular vectors of the largest singular values of W [R, C], so that U_r U_rᵀ W
is its best approximation of rank r (Eckart and Young 1936). They are eigenvectors of W·Wᵀ, of the
shorter side, so that scratch is 8·min(R, C)² bytes a few times and a copy of W.
"""

import torch


def low_rank_magnitudes(weight: torch.Tensor, rank: int) -> torch.Tensor:
    """Return S of a matrix [R, C], float32; from rank min(R, C) on it is |W|."""
    wide = weight.detach().float()
    if rank >= min(wide.shape):
        return wide.abs()
    if wide.shape[0] > wide.shape[1]:
        return low_rank_magnitudes(wide.t(), rank).t()
    # Eigenvalues ascend. In float64, which some GPUs do not have.
    _, vectors = torch.linalg.eigh((wide @ wide.t()).cpu().double())
    leading = vectors[:, -rank:].float().to(wide.device)
    return (leading @ (leading.t() @ wide)).abs()
