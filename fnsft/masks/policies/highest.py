"""The largest gradients, and GMT, which is the same on a longer accumulation."""

from dataclasses import dataclass

import torch

from fnsft.masks.policies.contract import MatrixStep
from fnsft.masks.selection import Selection


@dataclass(frozen=True)
class Highest:
    """The largest |g|.

    It is GMT (Li et al. 2025) too: there |Γ| is ranked, Γ the mean gradient of ``window``
    batches at fixed weights, which is the gradient that a trainer has accumulated when it
    steps once every ``window`` batches. No accumulator outlives a step, so none is saved.
    """

    fraction: float
    seed: int

    def select(self, gradient: torch.Tensor, at: MatrixStep) -> Selection:
        """Return the mask of the largest |g|."""
        return at.top(gradient.abs(), self.fraction, self.seed)
