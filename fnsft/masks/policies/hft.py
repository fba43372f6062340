"""Half Fine-Tuning: whole matrices are trained or left alone (Hui et al. 2024)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fnsft.masks.hashing import mixed_seed
from fnsft.masks.policies.contract import MatrixStep
from fnsft.masks.selection import Selection, kept_entries


@dataclass(frozen=True)
class HalfFineTuning:
    """Trains the matrices ``trained`` (by index) and leaves the others as they are."""

    trained: frozenset[int]

    def select(self, gradient: torch.Tensor, at: MatrixStep) -> Selection:
        """Return all of the matrix, or nothing."""
        return Selection(torch.full_like(gradient, at.index in self.trained, dtype=torch.bool))


def draw_matrices(layers: Sequence[int], fraction: float, seed: int) -> frozenset[int]:
    """Draw round(p·M) of M matrices, spread over the layers as evenly as can be.

    ``layers`` holds the layer of each matrix. With p = .5 and three matrices a layer half of
    the layers train two of them and half train one, as in the paper. The paper draws among
    attention and norms too; here those are "other parameters", as for every mask.
    """

    def by_hash(kind: int, values: Sequence[int]) -> list[int]:
        return sorted(values, key=lambda value: mixed_seed(seed, kind, value))

    drawn: list[int] = []
    n_passed = 0
    for layer in by_hash(0, sorted(set(layers))):
        of_layer = [index for index, found in enumerate(layers) if found == layer]
        n_passed += len(of_layer)
        # kept_entries(p, n) grows with n, and is round(p·M) once all layers are passed.
        drawn += by_hash(1, of_layer)[: kept_entries(fraction, n_passed) - len(drawn)]
    return frozenset(drawn)
