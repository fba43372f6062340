"""Chosen neurons: train functional networks only, or everything but them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fnsft.masks.policies.contract import MatrixStep
from fnsft.masks.selection import Selection


@dataclass(frozen=True)
class Network:
    """Trains what belongs to some neurons: rows of gate and up, their biases, columns of down.

    ``trained`` holds for each layer a bool vector [N] on the gradient's device; from step
    ``starts[i]`` on, ascending, it is ``later[i]``.
    """

    trained: Sequence[torch.Tensor]
    starts: Sequence[int] = ()
    later: Sequence[Sequence[torch.Tensor]] = ()

    def select(self, gradient: torch.Tensor, at: MatrixStep) -> Selection:
        """Return a mask that is constant along a neuron's weights."""
        trained = self.trained[at.layer]
        for start, layers in zip(self.starts, self.later, strict=True):
            trained = layers[at.layer] if at.step >= start else trained
        if at.neuron_axis == 1:
            return Selection(trained[None, :].expand(gradient.shape))
        if at.shard is not None:
            trained = trained[at.shard.rows]
        return Selection(trained[:, None].expand(gradient.shape))
