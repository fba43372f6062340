"""The sites of an MLP where networks are sought and masked: their channels, seen and changed.

Shapes: N neurons of a layer, D = ``d_model``, E experts of w neurons each, S neurons of shared
experts, T tokens of a forward pass (batch · positions, sequence after sequence, padding
included).

============  ==================================================  ==================
site          values                                              channels
============  ==================================================  ==================
activation    act(gate(x)), or act(up(x)) where there is no gate  N, or E·w + S
up            up(x), where there is a gate                        N, or E·w + S
intermediate  what down reads: the product of the two, or the     N, or E·w + S
              activation
output        what down returns, before norms and dropout; of     D
              experts what all of them together return
============  ==================================================  ==================

Neuron i of expert e is channel e·w + i; those of shared experts come behind.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor, nn

from fnsft.architectures.blocks import ExpertsBlock, MLPBlock, mlp_layers, unwrapped
from fnsft.architectures.experts import Change, ExpertsHook, Routed
from fnsft.architectures.matrices import plain_weight
from fnsft.config.stages import Site
from fnsft.errors import InputError

See = Callable[[int, Tensor], Tensor | None]


class Removable(Protocol):
    """What takes a hook away again."""

    def remove(self) -> None:
        """Take it away."""


@dataclass(frozen=True)
class Place:
    """Where some channels of a layer's site pass: ``width`` of them, from ``start`` on.

    ``path`` is a module's; ``half`` is the second half of a fused projection's output.
    """

    layer: int
    path: str
    passes: Literal["input", "output", "half", "experts"]
    width: int
    site: Site
    start: int = 0

    def module(self, model: nn.Module) -> nn.Module:
        """Return the module; where adapters wrap it, with them, so that they are masked too."""
        module = model.get_submodule(self.path)
        return unwrapped(module) if self.passes == "experts" else module

    def hook(self, model: nn.Module, change: Change) -> Removable:
        """Call ``change`` for the values of every forward pass until the hook is removed."""
        module: Any = self.module(model)
        if self.passes == "experts":
            return ExpertsHook(module, self.site, change)
        if self.passes == "input":
            return module.register_forward_pre_hook(functools.partial(_input, change))
        hook = _half if self.passes == "half" else _output
        return module.register_forward_hook(functools.partial(hook, change))


def site_places(model: nn.Module, site: Site) -> list[list[Place]]:
    """Return where the channels of a site pass, layer by layer.

    Raises
    ------
    InputError
        As :func:`~.blocks.mlp_layers`; and for ``up`` where there is no gate.
    """
    layers = [_places(block, site) for block in mlp_layers(model)]
    for number, places in enumerate(layers):
        if not places:
            raise InputError(
                f"site {site}: expected gated MLPs, found a plain one in layer {number} of "
                f"{type(model).__name__}; choose activation, intermediate or output"
            )
    return layers


def site_widths(model: nn.Module) -> dict[Site, tuple[int, ...]]:
    """Return the channels a layer of every site that the model has."""
    widths: dict[Site, tuple[int, ...]] = {}
    layers = mlp_layers(model)
    for site in get_args(Site):
        places = [_places(block, site) for block in layers]
        if all(places):
            widths[site] = tuple(sum(place.width for place in layer) for layer in places)
    return widths


@contextlib.contextmanager
def watch_site(model: nn.Module, site: Site, see: See) -> Iterator[None]:
    """Call ``see(layer, values)`` for every layer of every forward pass in the context.

    ``values`` are [T, channels], 0 in experts that a token is not routed to. What ``see``
    returns, if not None, takes their place. Each layer's can be dropped before the next is
    made; who keeps them copies them, since models may add to them in place (Falcon does).
    Masks that were attached before have done their work. Recomputation in a backward pass with
    checkpoints calls ``see`` again.

    Raises
    ------
    InputError
        As :func:`site_places`; and when values shall take the place of those of routed and
        shared experts together, since the first have passed before the last are made.
    """
    with watch_places(model, site_places(model, site), see):
        yield


@contextlib.contextmanager
def watch_places(model: nn.Module, layers: Sequence[list[Place]], see: See) -> Iterator[None]:
    """Do what :func:`watch_site` does, for the places of every layer."""
    with contextlib.ExitStack() as hooks:
        for layer, places in enumerate(layers):
            watcher = _Watcher(layer, len(places), see)
            for place in places:
                change = functools.partial(watcher.change, place.start)
                hooks.callback(place.hook(model, change).remove)
        forget_compiled()
        hooks.callback(forget_compiled)
        yield


def forget_compiled() -> None:
    """Have compiled models traced anew: they ignore hooks that come or go later.

    It takes less than a millisecond, and no time where nothing was compiled.
    """
    torch.compiler.reset()


@torch.no_grad()
def scale_weights(model: nn.Module, site: Site, factors: Sequence[Tensor]) -> None:
    """Multiply the weights behind a site's channels, as if their values were multiplied.

    They are the columns of down, which is linear in each of the two that it reads the product
    of; for the output its rows and bias. ``factors`` are one vector [channels] a layer.

    Raises
    ------
    InputError
        For quantised weights, and for weights with adapters; then none has changed.
    """
    layers = zip(mlp_layers(model), factors, strict=True)
    scaled = [pair for block, factor in layers for pair in _scaled(model, block, site, factor)]
    for weight, factor in scaled:
        weight.mul_(factor.to(weight))


def _places(block: MLPBlock | ExpertsBlock, site: Site) -> list[Place]:
    at = functools.partial(Place, block.layer, site=site)
    if isinstance(block, ExpertsBlock):
        if site == "output":
            return [at(block.mlp, "output", block.d_model)]
        shared = [] if block.shared is None else _places(block.shared, site)
        behind = [at(p.path, p.passes, p.width, start=block.d_routed) for p in shared]
        return [at(block.experts, "experts", block.d_routed), *behind]
    match site:
        case "activation":
            return [at(block.activation, "output", block.d_mlp)]
        case "up" if block.gate is None:
            return []
        case "up":
            return [at(block.up, "half" if block.fused else "output", block.d_mlp)]
        case "intermediate":
            return [at(block.down, "input", block.d_mlp)]
        case "output":
            return [at(block.down, "output", block.d_model)]


def _input(change: Change, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    new = change(module, args[0], None)
    return None if new is None else (new, *args[1:])


def _output(change: Change, module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
    return change(module, output, None)


def _half(change: Change, module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
    gate, up = output.chunk(2, dim=-1)
    new = change(module, up, None)
    return None if new is None else torch.cat((gate, new), dim=-1)


class _Watcher:
    """Shows one layer's values once they are there from all of its places."""

    def __init__(self, layer: int, n_places: int, see: See) -> None:
        self.layer, self.n_places, self.see = layer, n_places, see
        self.parts: dict[int, Tensor] = {}

    def change(
        self, start: int, module: nn.Module, values: Tensor, routed: Routed | None
    ) -> Tensor | None:
        # OPT flattens batch and positions itself; the others do not.
        flat = values.flatten(0, -2) if routed is None else routed.spread(values)
        self.parts[start] = flat
        if len(self.parts) < self.n_places:
            return None
        parts = [self.parts.pop(key) for key in sorted(self.parts)]
        new = self.see(self.layer, parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1))
        if new is None:
            return None
        if len(parts) > 1:
            raise InputError(
                f"layer {self.layer}: expected values to be seen alone, found others in their "
                "place, of routed and shared experts together; use a forward mask"
            )
        return new.view_as(values) if routed is None else routed.gathered(new)


def _scaled(
    model: nn.Module, block: MLPBlock | ExpertsBlock, site: Site, factor: Tensor
) -> list[tuple[Tensor, Tensor]]:
    """Return the parameters behind a site and what each is multiplied by."""
    if isinstance(block, ExpertsBlock):
        experts: Any = model.get_submodule(block.experts)
        if unwrapped(experts) is not experts:
            raise InputError(
                f"{block.experts}: expected weights without adapters, found those of "
                f"{type(experts).__name__} of peft; merge the adapters first"
            )
        if site == "output":
            routed, behind = factor[:, None], factor  # [D, 1]
        else:
            routed, behind = factor[: block.d_routed], factor[block.d_routed :]
            routed = routed.view(block.n_experts, 1, block.d_expert)
        shared = [] if block.shared is None else _scaled(model, block.shared, site, behind)
        return [(experts.down_proj, routed), *shared]
    down = model.get_submodule(block.down)
    weight, transposed = plain_weight(block.down, down)
    rows = (site == "output") != transposed
    scaled: list[tuple[Tensor, Tensor]] = [(weight, factor[:, None] if rows else factor)]
    if site == "output" and isinstance(down.bias, Tensor):
        scaled.append((down.bias, factor))
    return scaled
