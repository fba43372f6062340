"""Activations as a matrix that is never whole: column blocks on disk, read by chunks of rows.

Shapes: T tokens, F channels of all blocks together.
"""

import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from fnsft.errors import InputError

CHUNK_BYTES = 24 * 2**20  # of float32 a thread; larger chunks are no faster
DEVICE_CHUNK_BYTES = 256 * 2**20  # elsewhere, where every chunk costs some launches
RESIDENT_BYTES = 16 * 2**30  # of values that stay on a device from the first pass on
MIN_ROWS = 64  # of a chunk, else a pass reads its bases more often than the data
Part = TypeVar("Part")


class Activations:
    """The activations [T, F] of one data set.

    Parameters
    ----------
    blocks
        Arrays [T, width] that stand side by side, one a layer: float16 as a rule, of any
        floating type, and memory-mapped as a rule.
    chunk_rows
        Tokens of a chunk; about 24 MiB of float32 when absent, 256 MiB on a device. It changes
        rounding alone.
    threads
        That share a pass on the CPU, those of torch when absent.
    """

    def __init__(
        self,
        blocks: Sequence[np.ndarray],
        chunk_rows: int | None = None,
        threads: int | None = None,
    ) -> None:
        lengths = sorted({len(block) for block in blocks})
        if len(lengths) != 1:
            raise InputError(f"activations: expected blocks of as many tokens, found {lengths}")
        self.widths = [block.shape[1] for block in blocks]
        self.n_tokens, self.n_channels = lengths[0], sum(self.widths)
        self._chunk_rows = chunk_rows
        self.threads = threads or torch.get_num_threads()
        # Kept, since memory of threads that have ended is not all used again.
        self._kept = threading.local()
        self._pool = ThreadPoolExecutor(
            self.threads, initializer=torch.set_num_threads, initargs=(1,)
        )
        with warnings.catch_warnings():
            # A memory map is read-only, and nothing here writes to it.
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            self._blocks = [torch.from_numpy(block) for block in blocks]
        self._resident: list[Tensor] = []

    def chunks(self, shift: Tensor, tokens: range) -> Iterator[tuple[slice, Tensor]]:
        """Yield tokens and their values less ``shift`` [F], float32 [rows, F] on its device.

        Every chunk is the same buffer, which the caller may overwrite.
        """
        buffer = self._buffer(shift.device)
        for start in tokens[:: len(buffer)]:
            some = slice(start, min(start + len(buffer), tokens.stop))
            chunk = buffer[: some.stop - start]
            parts, less = chunk.split(self.widths, dim=1), shift.split(self.widths)
            for part, block, offset in zip(parts, self._on(shift.device), less, strict=True):
                torch.sub(block[some].to(shift.device), offset, out=part)
            yield some, chunk

    def _on(self, device: torch.device) -> list[Tensor]:
        """Return the blocks, on a device other than the CPU if all of them may stay there."""
        n_bytes = sum(block.nbytes for block in self._blocks)
        if device.type == "cpu" or n_bytes > RESIDENT_BYTES:
            return self._blocks
        if not self._resident or self._resident[0].device != device:
            self._resident = [block.to(device) for block in self._blocks]
        return self._resident

    def _rows(self, device: torch.device) -> int:
        n_bytes = CHUNK_BYTES if device.type == "cpu" else DEVICE_CHUNK_BYTES
        return self._chunk_rows or max(MIN_ROWS, n_bytes // (4 * self.n_channels))

    def _buffer(self, device: torch.device) -> Tensor:
        """Return this thread's buffer; a new one a pass would not go where the last one was."""
        buffer = getattr(self._kept, "buffer", None)
        if buffer is None or buffer.device != device:
            rows = min(self._rows(device), self.n_tokens)
            self._kept.buffer = buffer = torch.empty((rows, self.n_channels), device=device)
        return buffer

    def each_part(self, work: Callable[[range], Part], device: torch.device) -> list[Part]:
        """Return what ``work`` makes of each part of the tokens, in order.

        On the CPU there is a part for every thread, which does all of it: threads that share
        every product wait for each other in each, and on a busy machine for very long.
        """
        n_parts = min(self.threads, -(-self.n_tokens // self._rows(device)))
        n_parts = n_parts if device.type == "cpu" else 1
        ends = [self.n_tokens * part // n_parts for part in range(n_parts + 1)]
        parts = [range(start, stop) for start, stop in pairwise(ends)]
        return list(self._pool.map(work, parts)) if n_parts > 1 else [work(parts[0])]

    def first_token(self) -> Tensor:
        """Return the first row, float32 [F]."""
        return torch.cat([block[0].float() for block in self._blocks])

    def place(self, channel: int) -> str:
        """Say which channel of which block this is."""
        ends = np.cumsum(self.widths)
        block = int(np.searchsorted(ends, channel, side="right"))
        return f"block {block}, channel {channel - int(ends[block]) + self.widths[block]}"


@contextmanager
def one_thread() -> Iterator[None]:
    """Do the products of torch and NumPy within on one thread."""
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)
