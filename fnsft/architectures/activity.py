"""What the neurons do in a forward pass, as the collaboration graph needs it."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from fnsft.architectures.blocks import alike_layers
from fnsft.architectures.heads import head_blocks
from fnsft.architectures.sites import Place, site_places, watch_places
from fnsft.config.stages import Neurons, Site
from fnsft.errors import InputError

Watched = Literal[Site, "heads"]  # heads: what the output projection of attention reads


def graph_shape(model: nn.Module, neurons: Neurons) -> tuple[int, int]:
    """Return the layers of a graph of these neurons, and the neurons of each.

    Every expert of a mixture is a layer of the graph.

    Raises
    ------
    InputError
        As :func:`~.blocks.alike_layers` and :func:`~.heads.head_blocks`.
    """
    if neurons == "heads":
        blocks = head_blocks(model)
        return len(blocks), blocks[0].width
    layers = alike_layers(model)
    return sum(layer.n_mlps for layer in layers), layers[0].d_mlp


@contextlib.contextmanager
def neuron_activity(
    model: nn.Module, record: Callable[[int, Tensor], None], site: Watched = "activation"
) -> Iterator[None]:
    """Call ``record(layer, values)`` for every layer of every forward pass in the context.

    ``values`` is [batch · positions, N], sequence after sequence, padding included, as a rule
    act(gate(x)) in a gated MLP, act(up(x)), the input of down, in a plain one; a neuron is
    activated where it is positive. Those of experts are side by side, 0 where a token is not
    routed to. Each layer's can be dropped before the next is made.

    Raises
    ------
    InputError
        When an activation is NaN, which no comparison would show: on the CPU before it is
        recorded, elsewhere at the end of the context, since asking a device makes it wait.
    """
    broken: dict[int, Tensor] = {}

    def see(layer: int, values: Tensor) -> None:
        found = torch.isnan(values.amax())  # a maximum is NaN where one value is
        if layer in broken:
            found = found | broken[layer]
        if found.is_cpu:
            refuse(layer, found)
        else:
            broken[layer] = found
        record(layer, values)

    def refuse(layer: int, found: Tensor) -> None:
        if found:
            raise InputError(
                f"layer {layer} of {type(model).__name__}: expected finite activations, found "
                "NaN; check the weights, or use float32"
            )

    with watch_places(model, _places(model, site), see):
        yield
    for layer, found in broken.items():
        refuse(layer, found)


def _places(model: nn.Module, site: Watched) -> list[list[Place]]:
    if site != "heads":
        return site_places(model, site)
    return [
        [Place(block.layer, block.output, "input", block.width, "intermediate")]
        for block in head_blocks(model)
    ]
