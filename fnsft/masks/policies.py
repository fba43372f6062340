"""Policies: which entries of a matrix's gradient survive a step.

The contract: a policy's mask is binary, has the gradient's shape and device, and holds
exactly round(p·n) of its n entries. It is a function of the gradient, the run's seed and
the :class:`MatrixStep` alone.

GMT (Li et al. 2025) has no class of its own: its mask is :class:`Highest` on the mean
gradient of ``window`` batches at fixed weights, which is the gradient that a trainer has
accumulated when it steps once every ``window`` batches.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from fnsft.masks.affinity import Affinity
from fnsft.masks.hashing import mixed_seed
from fnsft.masks.score import score
from fnsft.masks.selection import random_fraction, top_fraction


@dataclass(frozen=True)
class MatrixStep:
    """Which matrix at which optimizer step; ``index`` numbers the run's masked matrices."""

    layer: int
    neuron_axis: int
    index: int
    step: int

    def seed(self, run_seed: int) -> int:
        """Return the seed of this matrix's hash at this step."""
        return mixed_seed(run_seed, self.step, self.index)


class Policy(Protocol):
    """Decides the mask of one matrix at one step."""

    def mask(self, gradient: torch.Tensor, matrix: MatrixStep) -> torch.Tensor:
        """Return the bool mask of a finite gradient [N, d] or [d, N]; True survives."""


@dataclass(frozen=True)
class Random:
    """A fresh random mask every step (Child-Tuning-F, Xu et al. 2021, with an exact count)."""

    fraction: float
    seed: int

    def mask(self, gradient: torch.Tensor, matrix: MatrixStep) -> torch.Tensor:
        """Return a mask that depends on the gradient's shape and device alone."""
        seed = matrix.seed(self.seed)
        return random_fraction(gradient.shape, self.fraction, seed=seed, device=gradient.device)


@dataclass(frozen=True)
class Highest:
    """The largest |g|; with a gradient accumulated over a window of batches it is GMT."""

    fraction: float
    seed: int

    def mask(self, gradient: torch.Tensor, matrix: MatrixStep) -> torch.Tensor:
        """Return the mask of the largest |g|."""
        return top_fraction(gradient.abs(), self.fraction, seed=matrix.seed(self.seed))


@dataclass(frozen=True)
class Collab:
    """The largest collaborative scores; ``affinities`` holds one affinity a layer."""

    fraction: float
    seed: int
    lam: float
    affinities: Sequence[Affinity]

    def mask(self, gradient: torch.Tensor, matrix: MatrixStep) -> torch.Tensor:
        """Return the mask of the largest (1 − λ)·|g| + λ·W|g|."""
        affinity = self.affinities[matrix.layer]
        scores = score(gradient, affinity, self.lam, matrix.neuron_axis)
        return top_fraction(scores, self.fraction, seed=matrix.seed(self.seed))
