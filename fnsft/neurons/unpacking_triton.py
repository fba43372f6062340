"""Bits of some tokens as numbers, in one kernel: what is written is all that it moves.

In torch's own operations (:mod:`fnsft.neurons.unpacking`) every step reads and writes a byte or
two for each bit.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

NEURONS, TOKENS = 16, 256  # of a tile


@triton.jit
def _unpack(  # type: ignore[no-untyped-def]
    octets,
    tokens,
    values,
    out,
    n_neurons,
    n_tokens,
    octets_stride,
    NEURONS: tl.constexpr,
    TOKENS: tl.constexpr,
):
    """Write a tile [NEURONS, TOKENS] of ``out`` [n_neurons, n_tokens], contiguous."""
    neurons = tl.program_id(1) * NEURONS + tl.arange(0, NEURONS)
    places = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    present = places < n_tokens
    token = tl.load(tokens + places, mask=present, other=0)
    value = tl.load(values + places, mask=present, other=0.0)
    inside = (neurons < n_neurons)[:, None] & present[None, :]
    rows = neurons.to(tl.int64)[:, None]
    octet = tl.load(octets + rows * octets_stride + (token >> 3)[None, :], mask=inside, other=0)
    bit = (octet.to(tl.int32) >> (token & 7)[None, :]) & 1
    chosen = tl.where(bit != 0, value[None, :], 0.0).to(out.dtype.element_ty)
    tl.store(out + rows * n_tokens + places[None, :], chosen, mask=inside)


def unpacked(octets: Tensor, tokens: Tensor, values: Tensor) -> Tensor:
    """Do as :func:`fnsft.neurons.unpacking.unpacked`; rows of ``octets`` are contiguous."""
    n_neurons, n_tokens = len(octets), len(tokens)
    out = torch.empty((n_neurons, n_tokens), dtype=values.dtype, device=octets.device)
    grid = (triton.cdiv(n_tokens, TOKENS), triton.cdiv(n_neurons, NEURONS))
    _unpack[grid](
        octets, tokens, values, out, n_neurons, n_tokens, octets.stride(0), NEURONS, TOKENS
    )
    return out
