"""A fresh random mask every step: the baseline that every choice has to beat."""

from dataclasses import dataclass

import torch

from fnsft.masks.policies.contract import MatrixStep
from fnsft.masks.selection import Selection


@dataclass(frozen=True)
class Random:
    """Child-Tuning-F (Xu et al. 2021; there drawn entry by entry), with an exact count."""

    fraction: float
    seed: int

    def select(self, gradient: torch.Tensor, at: MatrixStep) -> Selection:
        """Return a mask that depends on the gradient's shape and device alone."""
        return at.random(gradient, self.fraction, self.seed)
