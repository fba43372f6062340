"""Chosen neurons: train a functional network only, or everything but it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fnsft.masks.policies.contract import MatrixStep
from fnsft.masks.selection import Selection


@dataclass(frozen=True)
class Network:
    """Trains the weights of some neurons: their rows of gate and up, their columns of down.

    ``trained`` holds for each layer a bool vector [N] on the gradient's device.
    """

    trained: Sequence[torch.Tensor]

    def select(self, gradient: torch.Tensor, at: MatrixStep) -> Selection:
        """Return a mask that is constant along a neuron's weights."""
        trained = self.trained[at.layer]
        if at.neuron_axis == 1:
            return Selection(trained[None, :].expand(gradient.shape))
        if at.shard is not None:
            trained = trained[at.shard.rows]
        return Selection(trained[:, None].expand(gradient.shape))
