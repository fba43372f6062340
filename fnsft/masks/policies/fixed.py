"""Masks that are drawn once and kept: Child-Tuning-D (Xu et al. 2021)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch

from fnsft.masks.policies.contract import MatrixStep
from fnsft.masks.selection import Selection

_PLACES = (128, 64, 32, 16, 8, 4, 2, 1)


@dataclass(frozen=True, eq=False)
class PackedMask:
    """A mask with eight entries a byte: ``bits`` uint8 [⌈n / 8⌉], the first entry highest."""

    bits: torch.Tensor
    shape: torch.Size

    @classmethod
    def of(cls, mask: torch.Tensor) -> Self:
        """Pack a bool mask."""
        padded = torch.nn.functional.pad(mask.reshape(-1).byte(), (0, -mask.numel() % 8))
        eights = padded.view(-1, 8)
        bits = sum(eights[:, number] * place for number, place in enumerate(_PLACES))
        return cls(torch.as_tensor(bits), mask.shape)

    def unpacked(self) -> torch.Tensor:
        """Return the bool mask."""
        places = torch.tensor(_PLACES, dtype=torch.uint8, device=self.bits.device)
        entries = (self.bits[:, None] & places).bool().view(-1)
        return entries[: self.shape.numel()].view(self.shape)


@dataclass(frozen=True)
class Fixed:
    """Masks by matrix index, each of what this process holds of its matrix.

    Child-Tuning-D's are the round(p·n) entries of the largest diagonal Fisher information
    (:mod:`fnsft.masks.fisher`).
    """

    masks: Sequence[PackedMask]

    def select(self, gradient: torch.Tensor, at: MatrixStep) -> Selection:
        """Return the matrix's mask."""
        return Selection(self.masks[at.index].unpacked())
