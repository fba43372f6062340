"""A mask that is drawn once and kept: Child-Tuning-D (Xu et al. 2021)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fnsft.masks.policies.contract import MatrixStep
from fnsft.masks.selection import Selection


@dataclass(frozen=True)
class Fixed:
    """Masks by matrix index, bool, each of what this process holds of its matrix.

    Child-Tuning-D's are the round(p·n) entries of the largest diagonal Fisher information
    (:mod:`fnsft.masks.fisher`).
    """

    masks: Sequence[torch.Tensor]

    def select(self, gradient: torch.Tensor, at: MatrixStep) -> Selection:
        """Return the matrix's mask."""
        return Selection(self.masks[at.index])
