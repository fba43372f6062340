"""Bits of some tokens as numbers, on the device that will multiply them.

Shapes: N neurons, B bytes of eight tokens each, K tokens that are wanted.
"""

import importlib.util

import torch
from torch import Tensor


def unpacked(octets: Tensor, tokens: Tensor, values: Tensor) -> Tensor:
    """Return ``values[k]`` where neuron n has the bit of token k, else 0, [N, K].

    Parameters
    ----------
    octets
        uint8 [N, B], neuron-major; token t is bit t % 8, counted from the least, of byte t // 8.
    tokens
        int32 [K], below 8 B.
    values
        Of any floating dtype, [K]; the result is of the same.
    """
    if octets.is_cuda and importlib.util.find_spec("triton"):
        from fnsft.neurons.unpacking_triton import unpacked as by_kernel

        return by_kernel(octets, tokens, values)
    bits = octets.index_select(1, tokens >> 3)
    bits &= torch.bitwise_left_shift(torch.ones_like(tokens), tokens & 7).to(torch.uint8)
    return torch.where(bits != 0, values, torch.zeros_like(values))
