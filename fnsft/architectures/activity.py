"""What the neurons do in a forward pass, as the collaboration graph needs it."""

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from fnsft.architectures.sites import watch_site
from fnsft.config.stages import Site
from fnsft.errors import InputError


@contextlib.contextmanager
def neuron_activity(
    model: nn.Module, record: Callable[[int, Tensor], None], site: Site = "activation"
) -> Iterator[None]:
    """Call ``record(layer, values)`` for every layer of every forward pass in the context.

    ``values`` is [batch · positions, N], sequence after sequence, padding included, as a rule
    act(gate(x)) in a gated MLP, act(up(x)), the input of down, in a plain one; a neuron is
    activated where it is positive. Each layer's can be dropped before the next is made.

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

    with watch_site(model, site, see):
        yield
    for layer, found in broken.items():
        refuse(layer, found)
