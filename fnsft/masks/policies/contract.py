"""What a policy is: it decides which entries of a matrix may change in a step.

The contract: a policy's mask is binary, has the gradient's shape and device, and holds an
exact number of entries: round(p·n) of a matrix's n where the method has a fraction p. It is a
function of the gradient, the run's seed and the :class:`MatrixStep` alone, so that a resumed
run and any sharding of the matrix have the same masks. No policy keeps a state.

``docs/adding-a-method.md`` shows how to add one.
"""

from dataclasses import dataclass
from typing import Protocol

import torch

from fnsft.masks.hashing import mixed_seed
from fnsft.masks.selection import Selection, select_random, select_top
from fnsft.masks.shards import Shard


@dataclass(frozen=True)
class MatrixStep:
    """Which matrix at which optimizer step; ``index`` numbers the run's masked matrices.

    ``shard`` tells which rows of it the gradient holds; without one it holds all. ``weights``
    are the matrix's, shaped and sharded as the gradient; None where nothing is trained. ``moment``
    is likewise Adam's first moment after the last step: None before the first, and where a mask
    is not asked for by the optimizer (``applies_to: gradient``).
    """

    layer: int
    neuron_axis: int
    index: int
    step: int
    shard: Shard | None = None
    weights: torch.Tensor | None = None
    moment: torch.Tensor | None = None

    def seed(self, run_seed: int) -> int:
        """Return the seed of this matrix's hash at this step."""
        return mixed_seed(run_seed, self.step, self.index)

    def top(
        self,
        score: torch.Tensor,
        fraction: float,
        run_seed: int,
        exponents: torch.Tensor | None = None,
    ) -> Selection:
        """Select the matrix's round(p·n) entries of largest score [r, C], finite, not negative."""
        return select_top(score, fraction, self.seed(run_seed), self.shard, exponents)

    def random(self, gradient: torch.Tensor, fraction: float, run_seed: int) -> Selection:
        """Select round(p·n) entries of the matrix at random; only a gradient's shape is used."""
        return select_random(
            gradient.shape, fraction, self.seed(run_seed), gradient.device, self.shard
        )


class Policy(Protocol):
    """Decides the mask of one matrix at one step."""

    def select(self, gradient: torch.Tensor, at: MatrixStep) -> Selection:
        """Return which entries of a finite gradient survive: [N, d] or [d, N], or rows of it.

        That of a bias is [N, 1]; only the policies of networks get it.
        """
