"""NanoAdam's choice: the entries of smallest weight (Zhou et al. 2025, arXiv 2506.21374)."""

from dataclasses import dataclass

import torch

from fnsft.masks.policies.contract import MatrixStep
from fnsft.masks.selection import Selection

# The largest finite float of a width, as an integer: of positive floats the bits have their order.
_LARGEST = {torch.int32: 0x7F7FFFFF, torch.int16: 0x7F7F}


@dataclass(frozen=True)
class SmallWeights:
    """The smallest |w| of every matrix, anew in every step.

    The paper ranks them every m steps and lets the density fall on a schedule; m = 1 and a
    constant density are ours: so the mask is a function of the weights, and no state. Its moments
    are those of the chosen entries alone, for which ``moments: frozen`` comes nearest: an entry
    that is chosen again goes on with the moments that it had.
    """

    fraction: float
    seed: int

    def select(self, gradient: torch.Tensor, at: MatrixStep) -> Selection:
        """Return the mask of the smallest |w|; the gradient is not looked at."""
        assert at.weights is not None
        chosen = at.top(_reversed(at.weights), self.fraction, self.seed)
        return Selection(chosen.mask)


def _reversed(weights: torch.Tensor) -> torch.Tensor:
    """Return scores that are the larger the smaller |w| is: finite, not negative, no new ties."""
    size = weights.abs()
    size = size if size.dtype == torch.bfloat16 else size.float()
    bits = size.view(torch.int16 if size.dtype == torch.bfloat16 else torch.int32)
    return (_LARGEST[bits.dtype] - bits).view(size.dtype)
