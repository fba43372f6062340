"""Masks on the forward pass: networks removed, kept alone, or amplified.

A mask multiplies the values at a site of every MLP (:mod:`fnsft.architectures.sites`) by one
factor a channel. C are a layer's channels.
"""

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from fnsft.architectures.blocks import decoder_blocks
from fnsft.architectures.experts import Routed
from fnsft.architectures.sites import Place, forget_compiled, scale_weights, site_places
from fnsft.artifacts.forward_masks import ForwardMask
from fnsft.config.stages import Site
from fnsft.errors import InputError


def forward_mask(
    site: Site,
    chosen: Sequence[np.ndarray],
    mode: Literal["lesion", "preserve", "amplify"],
    gain: float = 2.0,
    straight_through: bool = False,
) -> ForwardMask:
    """Return the mask of some channels.

    Parameters
    ----------
    site, chosen
        Where, and a bool vector [C] for every layer of the model.
    mode
        ``lesion``: 0 on the chosen and 1 elsewhere; ``preserve``: 1 on the chosen and 0
        elsewhere, also in layers where none is chosen; ``amplify``: ``gain`` on the chosen.
    straight_through
        Gradients pass as if all factors were 1 (Bengio et al. 2013, "straight-through").
    """
    inside, outside = {"lesion": (0.0, 1.0), "preserve": (1.0, 0.0), "amplify": (gain, 1.0)}[mode]
    assert all(layer.dtype == bool for layer in chosen)
    factors = tuple(np.where(layer, inside, outside).astype(np.float32) for layer in chosen)
    return ForwardMask(site, factors, mode, straight_through)


class AttachedMask:
    """A mask that a model has until it is removed."""

    def __init__(
        self,
        mask: ForwardMask,
        buffer: str,
        places: Sequence[tuple[Place, nn.Module]],
        hooks: contextlib.ExitStack,
    ) -> None:
        self.mask = mask
        self._buffer, self._places, self._hooks = buffer, places, hooks

    def set(self, mask: ForwardMask) -> None:
        """Let another mask of the same site take its place, in compiled models too.

        Raises
        ------
        InputError
            For one of another site, another ``straight_through`` or other widths.
        """
        expected = (self.mask.site, self.mask.straight_through)
        if (mask.site, mask.straight_through) != expected:
            raise InputError(
                f"forward mask: expected site and straight_through {expected}, found "
                f"{(mask.site, mask.straight_through)}; remove the mask and attach the other one"
            )
        _require_widths(mask, [len(factor) for factor in self.mask.factors])
        for place, module in self._places:
            module.get_buffer(self._buffer).copy_(_factors(mask, place))
        self.mask = mask

    def remove(self) -> None:
        """Leave the model as it was; a second time does nothing."""
        self._hooks.close()


def attach(model: nn.Module, mask: ForwardMask) -> AttachedMask:
    """Multiply the values of every forward pass by the mask's factors until it is removed.

    The factors lie in buffers that move with the model and are not saved with its weights.
    Several masks work together: their factors multiply. Wrap a model with adapters first, and
    merge adapters first: a mask that an adapter has slipped past is refused by the next forward
    pass. A compiled model is traced anew.

    Raises
    ------
    InputError
        For an architecture without the site, and for other numbers of layers or channels
        than the model's.
    """
    layers = _fitting_places(model, mask)
    buffer = _free_name(model)
    change = functools.partial(_multiplied, buffer, mask.straight_through)
    name, decoder = decoder_blocks(model)
    attached = []
    with contextlib.ExitStack() as hooks:
        for layer, (block, places) in enumerate(zip(decoder, layers, strict=True)):
            device = next(block.parameters()).device
            for place in places:
                module = place.module(model)
                factors = _factors(mask, place).to(device, copy=True)
                module.register_buffer(buffer, factors, persistent=False)
                hooks.callback(delattr, module, buffer)
                hooks.callback(place.hook(model, change).remove)
                attached.append((place, module))
            inside = [
                dataclasses.replace(place, path=place.path.removeprefix(f"{name}.{layer}."))
                for place in places
            ]
            check = functools.partial(_require_in_place, buffer, inside)
            hooks.callback(block.register_forward_pre_hook(check).remove)
        forget_compiled()
        hooks.callback(forget_compiled)
        return AttachedMask(mask, buffer, attached, hooks.pop_all())


@contextlib.contextmanager
def masked(model: nn.Module, mask: ForwardMask) -> Iterator[AttachedMask]:
    """Attach a mask for the context.

    A backward pass belongs inside: with checkpoints it computes activations anew.
    """
    attached = attach(model, mask)
    try:
        yield attached
    finally:
        attached.remove()


def fold(model: nn.Module, mask: ForwardMask) -> None:
    """Multiply the weights, once and for all, so that the model computes the same by itself.

    Raises
    ------
    InputError
        As :func:`attach`; for quantised weights, and for weights with adapters.
    """
    _fitting_places(model, mask)
    scale_weights(model, mask.site, [torch.from_numpy(factor) for factor in mask.factors])


def _multiplied(
    buffer: str, straight_through: bool, module: nn.Module, values: Tensor, routed: Routed | None
) -> Tensor:
    # In the values' precision: a float32 factor would turn bfloat16 values into float32.
    factors = module.get_buffer(buffer).to(values.dtype)
    if routed is not None:
        factors = factors.view(routed.n_experts, -1)[routed.expert]  # [P, w]
    masked = values * factors
    return values + (masked - values).detach() if straight_through else masked


def _require_in_place(buffer: str, places: list[Place], block: nn.Module, args: object) -> None:
    """Refuse a forward pass when adapters came or went since, and the mask misses something."""
    for place in places:
        if buffer not in place.module(block)._buffers:
            raise InputError(
                f"{place.path}: expected the forward mask on this module, found another module in "
                "its place; attach masks after a model is wrapped with adapters or merged"
            )


def _fitting_places(model: nn.Module, mask: ForwardMask) -> list[list[Place]]:
    layers = site_places(model, mask.site)
    _require_widths(mask, [sum(place.width for place in layer) for layer in layers])
    return layers


def _require_widths(mask: ForwardMask, widths: Sequence[int]) -> None:
    found = [len(factor) for factor in mask.factors]
    if len(found) != len(widths):
        raise InputError(
            f"forward mask: expected {len(widths)} layers, found {len(found)}; "
            "the mask is of another model"
        )
    for layer, (expected, width) in enumerate(zip(widths, found, strict=True)):
        if expected != width:
            raise InputError(
                f"forward mask: layer {layer}: expected {expected} channels ({mask.site}), found "
                f"{width}; the mask is of another model"
            )


def _factors(mask: ForwardMask, place: Place) -> Tensor:
    return torch.from_numpy(mask.factors[place.layer][place.start : place.start + place.width])


def _free_name(model: nn.Module) -> str:
    taken = {name.rpartition(".")[2] for name, _ in model.named_buffers()}
    return next(n for i in itertools.count() if (n := f"forward_mask_{i}") not in taken)
