"""Chosen columns: the weights of some of a matrix's inputs train, those of the others stay."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fnsft.masks.policies.contract import MatrixStep
from fnsft.masks.selection import Selection


@dataclass(frozen=True)
class Columns:
    """Trains what some inputs are multiplied with, as SSU does (Yamaguchi et al. 2025).

    ``trained`` holds for each matrix, by index, a bool vector over its inputs, on the gradient's
    device, and ``axes`` along which axis they lie: 1 where a weight is [out, in].
    """

    trained: Sequence[torch.Tensor]
    axes: Sequence[int]

    def select(self, gradient: torch.Tensor, at: MatrixStep) -> Selection:
        """Return a mask that is constant along an input's weights."""
        trained = self.trained[at.index]
        if self.axes[at.index] == 1:
            return Selection(trained[None, :].expand(gradient.shape))
        if at.shard is not None:
            trained = trained[at.shard.rows]
        return Selection(trained[:, None].expand(gradient.shape))
