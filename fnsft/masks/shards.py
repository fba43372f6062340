"""Which part of a matrix this process holds, and how the processes meet over it.

R × C is a matrix's shape. FSDP2 gives each process a contiguous run of the parameter's rows;
a fused gate_up parameter holds two matrices one above the other, so that a process may hold
many rows of one of them and none of the other. Of a parameter of experts [E, R, C] it gives each
process whole experts. A matrix that is not sharded is one shard.
"""

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from fnsft.errors import InputError

if TYPE_CHECKING:
    # Importing it takes transformers with it, which selecting entries does not need.
    from fnsft.architectures import MLPMatrix


@dataclass(frozen=True)
class Shard:
    """The rows of a matrix that this process holds.

    ``shape`` is the whole matrix's; ``starts`` are the first rows of all processes in their
    order, and R behind them; ``group`` is None for a matrix that one process holds whole.
    """

    shape: tuple[int, int]
    starts: tuple[int, ...]
    rank: int = 0
    group: dist.ProcessGroup | None = None

    @classmethod
    def whole(cls, shape: tuple[int, int]) -> "Shard":
        """Return the one shard of a matrix that is not sharded."""
        return cls(shape, (0, shape[0]))

    @property
    def rows(self) -> slice:
        """The rows of the matrix that lie here."""
        return slice(self.starts[self.rank], self.starts[self.rank + 1])

    @property
    def index_offset(self) -> int:
        """Global row-major index of the first entry here."""
        return self.rows.start * self.shape[1]

    def sum(self, counts: np.ndarray, device: torch.device) -> np.ndarray:
        """Return the sum over the processes of an int64 array of equal shape in all of them."""
        if self.group is None:
            return counts
        return self.total(torch.from_numpy(counts).to(device)).cpu().numpy()

    def total(self, counts: torch.Tensor) -> torch.Tensor:
        """Return the sum over the processes of a tensor of equal shape in all, where it lies."""
        if self.group is None:
            return counts
        total = counts.clone()
        dist.all_reduce(total, group=self.group)
        return total

    def gathered(self, local: torch.Tensor) -> torch.Tensor:
        """Return the processes' 1-D tensors, of any lengths, one behind the other."""
        if self.group is None:
            return local
        counts = np.zeros(len(self.starts) - 1, dtype=np.int64)
        counts[self.rank] = local.numel()
        lengths = self.sum(counts, local.device).tolist()
        padded = local.new_zeros(max(lengths))
        padded[: local.numel()] = local
        buffers = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(buffers, padded, group=self.group)
        return torch.cat([buffer[:length] for buffer, length in zip(buffers, lengths, strict=True)])

    def columns(self, rows: torch.Tensor) -> torch.Tensor:
        """Trade this process's rows [r, C] for its share of the columns, [R, c].

        All processes call it together. Every column is in exactly one process.
        """
        if self.group is None:
            return rows
        bounds = self._column_bounds()
        heights = np.diff(self.starts)
        sent = torch.cat([rows[:, a:b].reshape(-1) for a, b in pairwise(bounds)])
        width = bounds[self.rank + 1] - bounds[self.rank]
        received = self._exchanged(
            sent,
            [rows.shape[0] * (b - a) for a, b in pairwise(bounds)],
            [int(height) * width for height in heights],
        )
        return received.view(self.shape[0], width)

    def from_columns(self, columns: torch.Tensor) -> torch.Tensor:
        """Trade a share of the columns [R, c] back for this process's rows [r, C]."""
        if self.group is None:
            return columns
        bounds = self._column_bounds()
        height = self.rows.stop - self.rows.start
        widths = np.diff(bounds)
        sizes = [height * int(width) for width in widths]
        received = self._exchanged(
            columns.reshape(-1), [int(h) * columns.shape[1] for h in np.diff(self.starts)], sizes
        )
        parts = received.split(sizes)
        return torch.cat(
            [part.view(height, int(width)) for part, width in zip(parts, widths, strict=True)],
            dim=1,
        )

    def _column_bounds(self) -> list[int]:
        processes = len(self.starts) - 1
        return [self.shape[1] * process // processes for process in range(processes + 1)]

    def _exchanged(
        self, sent: torch.Tensor, sent_sizes: list[int], received_sizes: list[int]
    ) -> torch.Tensor:
        received = sent.new_empty(sum(received_sizes))
        dist.all_to_all_single(received, sent, received_sizes, sent_sizes, group=self.group)
        return received


def shard_of(matrix: "MLPMatrix") -> Shard:
    """Return which rows of a matrix lie in this process.

    Raises
    ------
    InputError
        For parameters that are sharded in another way than by rows.
    """
    parameter = matrix.parameter
    held = parameter.shape if matrix.expert is None else parameter.shape[1:]
    n_rows, n_columns = held if len(held) > 1 else (*held, 1)
    first, stop = 0, n_rows
    if matrix.neuron_axis == 0:
        first, stop = matrix.offset, matrix.offset + matrix.d_mlp
    else:
        n_columns = matrix.d_mlp
    shape = (stop - first, n_columns)
    if not isinstance(parameter, DTensor):
        return Shard.whole(shape)
    sharded = [axis for axis, place in enumerate(parameter.placements) if not place.is_replicate()]
    if not sharded:
        return Shard.whole(shape)
    if len(sharded) > 1 or not parameter.placements[sharded[0]].is_shard(0):
        raise InputError(
            f"{matrix.name}: expected parameters sharded by rows, as FSDP2 does, found "
            f"{parameter.placements}; use FSDP2 without tensor parallelism"
        )
    mesh, axis = parameter.device_mesh, sharded[0]
    processes = mesh.size(axis)
    n_sliced = parameter.shape[0]
    chunk = _chunk_rows(n_sliced, processes)
    cuts = [min(chunk * process, n_sliced) for process in range(processes + 1)]
    if matrix.expert is None:
        starts = tuple(min(max(cut, first), stop) - first for cut in cuts)
    else:
        starts = tuple(0 if cut <= matrix.expert else shape[0] for cut in cuts)
    return Shard(shape, starts, mesh.get_local_rank(axis), mesh.get_group(axis))


def local_part(matrix: "MLPMatrix", tensor: torch.Tensor) -> torch.Tensor:
    """Return what this process holds of the matrix, sharing memory, [r, C].

    ``tensor`` is the matrix's parameter, its gradient, or what this process holds of them.
    """
    shard, here = shard_of(matrix), local(tensor)
    if shard.group is None:
        return matrix.view(here)
    chunk = _chunk_rows(matrix.parameter.shape[0], len(shard.starts) - 1)
    if matrix.expert is not None:
        if shard.rows.start == shard.rows.stop:
            return here.new_empty(0, shard.shape[1])
        return replace(matrix, expert=matrix.expert - chunk * shard.rank).view(here)
    if matrix.neuron_axis == 1:
        return matrix.view(here)
    first = max(matrix.offset - chunk * shard.rank, 0)
    rows = here[first : first + shard.rows.stop - shard.rows.start]
    return rows[:, None] if rows.ndim == 1 else rows


def _chunk_rows(n_rows: int, processes: int) -> int:
    """Return the rows, or experts, of all processes but the last ones, as torch.chunk cuts."""
    return -(-n_rows // processes)


def local(tensor: torch.Tensor) -> torch.Tensor:
    """Return what this process holds of a tensor, sharing memory; a plain tensor is all here."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
