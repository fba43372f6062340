"""CollabMask: a neuron's gradient and that of the neurons it works with."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fnsft.masks.affinity import Affinity
from fnsft.masks.policies.contract import MatrixStep
from fnsft.masks.score import scored
from fnsft.masks.selection import Selection


@dataclass(frozen=True)
class Collab:
    """The largest collaborative scores (CollabMask, Eq. 2); one affinity a layer."""

    fraction: float
    seed: int
    lam: float
    affinities: Sequence[Affinity]

    def select(self, gradient: torch.Tensor, at: MatrixStep) -> Selection:
        """Return the mask of the largest (1 − λ)·|g| + λ·W|g|."""
        affinity = self.affinities[at.layer]
        found = scored(gradient, affinity, self.lam, at.neuron_axis, at.shard)
        return at.top(found.score, self.fraction, self.seed, found.exponents)
