"""MoFO: the entries whose momentum is largest (Chen et al. 2025, arXiv 2407.20999)."""

from dataclasses import dataclass

import torch

from fnsft.masks.policies.contract import MatrixStep
from fnsft.masks.selection import Selection


@dataclass(frozen=True)
class Momentum:
    """The largest |m|, Adam's first moment with this step's gradient in it.

    m = β₁·m + (1 − β₁)·g, whose bias correction is one factor for all entries. Both moments see
    the whole gradient; only the update is filtered. The parameter blocks of the paper are here the
    MLP matrices. The published code lets weight decay move all entries; here it moves none that
    the filter holds back.
    """

    fraction: float
    seed: int
    beta1: float

    def select(self, gradient: torch.Tensor, at: MatrixStep) -> Selection:
        """Return the mask of the largest |β₁·m + (1 − β₁)·g|; m is 0 in the first step."""
        moment = gradient if at.moment is None else at.moment.lerp(gradient, 1 - self.beta1)
        return at.top(moment.abs(), self.fraction, self.seed)
