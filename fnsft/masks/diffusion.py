"""A soft affinity: what a random walk over the neighbours' graph meets within some steps.

    W = (1 − a)·P + (1 − a)·a·P² + … + (1 − a)·a^(T−2)·P^(T−1) + a^(T−1)·P^T

P is the kNN affinity [N, N], a the damping of a personalised PageRank (Page et al. 1999), T the
steps; the walk begins with a neighbour, and its last step takes the weight of all further ones,
so that rows of W sum to 1. With T = 1, or a = 0, W is P.

W is never made, since it fills up with every step: W·m takes T sparse products, by Horner's rule
x ← (1 − a)·m + a·P·x from x = m, T − 1 times, and P·x at the end.
"""

from dataclasses import dataclass

import torch

from fnsft.masks.affinity import MatrixAffinity


@dataclass(frozen=True, eq=False)
class DiffusionAffinity:
    """W by its steps over ``neighbours``, the kNN affinity P.

    What :meth:`~.affinity.Affinity.blend` says of a column's bits holds as it does for P.
    """

    neighbours: MatrixAffinity
    damping: float
    steps: int

    @property
    def n_neurons(self) -> int:
        """The layer's neurons, N."""
        return self.neighbours.n_neurons

    @property
    def isolated(self) -> int:
        """Neurons that listen to nobody: their row is their own unit vector, in P and in W."""
        return self.neighbours.isolated

    def blend(self, magnitude: torch.Tensor, lam: float, out: torch.Tensor) -> None:
        """Write (1 − λ)·m + λ·W·m of a panel [N, w] to ``out``; scratch is one panel more."""
        met = magnitude
        for _ in range(self.steps - 1):
            self.neighbours.blend(met, 1.0, out=out)
            met = torch.add((1 - self.damping) * magnitude, out, alpha=self.damping)
        self.neighbours.blend(met, 1.0, out=out)
        out.mul_(lam).add_(magnitude, alpha=1 - lam)

    def to(self, device: torch.device | str) -> "DiffusionAffinity":
        """Return this affinity on ``device``."""
        return DiffusionAffinity(self.neighbours.to(device), self.damping, self.steps)
