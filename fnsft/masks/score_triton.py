"""The score of a sparse W as a Triton kernel, for CUDA devices.

    out = (1 − λ)·|g| + λ·W·|g|,      g [N, C], by neuron

A tile of 32 neurons by 64 columns gathers its neighbours' rows one after the other, writes
the score and counts its exponents for the selection (:mod:`.radix_triton`). An entry's sum is
float32, in the order of W's stored entries, and no product is fused with a sum: these are the
operations of :mod:`.score_numba`, so that a score has the CPU's bits, whichever columns are
scored beside it.

Every entry of g is read once from memory and some k times from the level-2 cache: programs that
run at the same time share their 64 columns, 1.8 MB in bfloat16 at N = 14,336.
"""

import torch
import triton
import triton.language as tl

from fnsft.masks.kernels import launch
from fnsft.masks.radix_kernels import EXPONENTS, add_tile, exponents_of

# 64 columns are one 128-byte line of bfloat16 a neighbour; four warps then hold 16 sums a thread.
_NEURONS, _COLUMNS, _WARPS = 32, 64, 4
_AHEAD = tl.constexpr(4)
# Columns that are transposed at a time, where neighbours do not lie in rows: 15 MB of bfloat16
# at N = 14,336, which the level-2 cache still holds when they are read.
_PANEL = 512


def score(
    by_neuron: torch.Tensor, weights: torch.Tensor, lam: float, out: torch.Tensor
) -> torch.Tensor:
    """Write the score of g [N, C] to ``out`` [N, C], float32, and return its exponents' histogram.

    ``weights`` is W, sparse CSR float32 [N, N]; both panels may have any strides, and g any
    floating dtype. The histogram, int64 [256], is of :func:`~.radix_kernels.exponents_of`.
    Scratch: nothing where a neuron's entries lie side by side (gate, up), else 512 N entries
    of g's dtype.
    """
    exponents = torch.zeros(EXPONENTS.value, dtype=torch.int64, device=out.device)
    neurons, columns = by_neuron.shape
    in_rows = by_neuron.stride(1) == 1
    width = max(columns, 1) if in_rows else _PANEL
    for start in range(0, columns, width):
        panel = by_neuron[:, start : start + width]
        scores = out[:, start : start + width]
        grid = (triton.cdiv(neurons, _NEURONS), triton.cdiv(panel.shape[1], _COLUMNS))
        launch(
            _score,
            grid,
            out.device,
            panel if in_rows else panel.contiguous(),
            weights.crow_indices(),
            weights.col_indices(),
            weights.values(),
            scores,
            exponents,
            neurons,
            panel.shape[1],
            panel.stride(0) if in_rows else panel.shape[1],
            *scores.stride(),
            1 - lam,
            lam,
            NEURONS=_NEURONS,
            COLUMNS=_COLUMNS,
            num_warps=_WARPS,
            enable_fp_fusion=False,
        )
    return exponents


@triton.jit
def _score(
    gradient: tl.tensor,
    indptr: tl.tensor,
    indices: tl.tensor,
    values: tl.tensor,
    out: tl.tensor,
    exponents: tl.tensor,
    neurons: tl.tensor,
    columns: tl.tensor,
    gradient_stride: tl.tensor,
    out_neuron_stride: tl.tensor,
    out_column_stride: tl.tensor,
    own: tl.float32,
    others: tl.float32,
    NEURONS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    # Programs of neighbouring numbers run at the same time: these are the neurons.
    neuron = tl.program_id(0) * NEURONS + tl.arange(0, NEURONS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    here, there = neuron < neurons, column < columns
    inside = here[:, None] & there[None, :]
    first = tl.load(indptr + neuron, mask=here, other=0)
    degree = tl.load(indptr + neuron + 1, mask=here, other=0) - first
    total = tl.zeros((NEURONS, COLUMNS), dtype=tl.float32)
    # The loads of some neighbours are in flight together; the sum keeps its order.
    number, longest = 0, tl.max(degree)
    while number < longest:
        for ahead in tl.static_range(_AHEAD):
            listens = number + ahead < degree
            edge = first + number + ahead
            other = tl.load(indices + edge, mask=listens, other=0).to(tl.int64)
            weight = tl.load(values + edge, mask=listens, other=0.0)
            place = other[:, None] * gradient_stride + column[None, :]
            heard = tl.load(gradient + place, mask=listens[:, None] & there[None, :], other=0.0)
            total = total + weight[:, None] * tl.abs(heard.to(tl.float32))
        number += _AHEAD
    place = neuron.to(tl.int64)[:, None] * gradient_stride + column[None, :]
    magnitude = tl.abs(tl.load(gradient + place, mask=inside, other=0.0).to(tl.float32))
    score = own * magnitude + others * total
    place = neuron.to(tl.int64)[:, None] * out_neuron_stride
    place += column.to(tl.int64)[None, :] * out_column_stride
    tl.store(out + place, score, mask=inside)
    digits = tl.where(inside, exponents_of(score.to(tl.int32, bitcast=True)), -1)
    add_tile(tl.reshape(digits, [NEURONS * COLUMNS], can_reorder=True), exponents)
