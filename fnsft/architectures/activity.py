"""What the neurons do in a forward pass, seen through hooks."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from fnsft.architectures.blocks import MLPBlock, mlp_blocks
from fnsft.errors import InputError


@contextlib.contextmanager
def neuron_activity(model: nn.Module, record: Callable[[int, Tensor], None]) -> Iterator[None]:
    """Call ``record(layer, values)`` for every layer of every forward pass in the context.

    ``values`` is [batch · positions, N], sequence after sequence, padding included:
    act(gate(x)) in a gated MLP, act(up(x)), the input of down, in a plain one; a neuron is
    activated where it is positive. Each layer's can be dropped before the next is made.

    Raises
    ------
    InputError
        When an activation is NaN, which no comparison would show.
    """
    handles = []
    try:
        for block in mlp_blocks(model):
            hook = functools.partial(_record, block, record)
            module = model.get_submodule(block.activation)
            handles.append(module.register_forward_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _record(
    block: MLPBlock,
    record: Callable[[int, Tensor], None],
    module: nn.Module,
    inputs: Any,
    output: Tensor,
) -> None:
    assert output.shape[-1] == block.d_mlp
    if torch.isnan(output).any():
        raise InputError(
            f"layer {block.layer} ({block.activation}): expected finite activations, found NaN; "
            "check the weights, or use float32"
        )
    # OPT flattens batch and positions itself; the others do not.
    record(block.layer, output.reshape(-1, block.d_mlp))
