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
        When an activation is NaN, which no comparison would show.
    """

    def see(layer: int, values: Tensor) -> None:
        if torch.isnan(values).any():
            raise InputError(
                f"layer {layer} of {type(model).__name__}: expected finite activations, found "
                "NaN; check the weights, or use float32"
            )
        record(layer, values)

    with watch_site(model, site, see):
        yield
