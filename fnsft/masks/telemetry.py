"""What the masks of a run do, looked at on a fixed sample of their entries."""

from collections.abc import Sequence

import torch

from fnsft.masks.selection import Selection
from fnsft.masks.shards import MaskedMatrix, Shard


class Telemetry:
    """Records of the masks, every ``every`` steps."""

    def __init__(
        self,
        matrices: Sequence[MaskedMatrix],
        shards: Sequence[Shard],
        every: int,
        lam: float | None,
    ) -> None:
        raise NotImplementedError

    def observe(
        self, index: int, step: int, gradient: torch.Tensor, selection: Selection
    ) -> None:
        """Look at the mask of one matrix at one step."""
