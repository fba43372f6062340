"""The neurons of a mixture of experts, which no hook of a module sees.

Shapes: T tokens, k experts a token, P = T·k pairs of a token and an expert that it is routed to,
E experts of w neurons each, D = ``d_model``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fnsft.config.stages import Site
from fnsft.errors import InputError


@dataclass(frozen=True, eq=False)
class Routed:
    """Which pairs the rows of [P, w] are: ``token`` and ``expert``, int64 [P]."""

    token: Tensor
    expert: Tensor
    n_tokens: int
    n_experts: int

    def spread(self, values: Tensor) -> Tensor:
        """Return [T, E·w] from [P, w]; 0 in the experts that a token is not routed to."""
        whole = values.new_zeros(self.n_tokens, self.n_experts, values.shape[-1])
        return whole.index_put((self.token, self.expert), values).flatten(1)

    def gathered(self, whole: Tensor) -> Tensor:
        """Return [P, w] from [T, E·w]."""
        return whole.unflatten(1, (self.n_experts, -1))[self.token, self.expert]


# What takes the place of a module's values [..., width], or of its experts' [P, w]; None: nothing.
Change = Callable[[nn.Module, Tensor, Routed | None], Tensor | None]


class ExpertsHook:
    """A change of the values at a site inside of one layer's experts, until it is removed.

    While there is one, the experts compute in a function of ours, whatever implementation
    they are set to. It runs one expert after the other, which ``torch.compile`` takes without
    ``fullgraph`` alone.

    Raises
    ------
    InputError
        For experts whose forward pass is another tool's, and for those spread over processes.
    """

    def __init__(self, experts: Any, site: Site, change: Change) -> None:
        self.experts, self.site, self.change = experts, site, change
        hooks = vars(experts).setdefault("site_hooks", [])
        if not hooks:
            if "forward" in vars(experts) or experts._is_expert_parallel:
                raise InputError(
                    f"{type(experts).__name__}: expected experts of one device with a forward "
                    "pass of their own, found another in its place; load the model without "
                    "dispatch or expert parallelism"
                )
            experts.forward = MethodType(_forward, experts)
        hooks.append(self)

    def remove(self) -> None:
        """Take the change away, and with the last one our function."""
        hooks = vars(self.experts)["site_hooks"]
        hooks.remove(self)
        if not hooks:
            del self.experts.forward, self.experts.site_hooks


def _forward(experts: Any, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """Return Σ weight·down(act(gate x)·up x) over a token's experts: [T, D], as ``hidden``.

    ``index`` and ``weights`` are [T, k].
    """
    n_experts = experts.num_experts
    expert, order = index.flatten().sort(stable=True)
    routed = Routed(order // index.shape[1], expert, len(hidden), n_experts)
    counts = torch.bincount(expert, minlength=n_experts).tolist()
    # Each access of an adapted parameter adds its adapter anew.
    gate_up, down = experts.gate_up_proj, experts.down_proj
    gate, up = _by_expert(hidden[routed.token], gate_up, counts).chunk(2, dim=-1)
    activation = _changed(experts, "activation", experts.act_fn(gate), routed)
    product = activation * _changed(experts, "up", up, routed)
    product = _changed(experts, "intermediate", product, routed)
    pairs = _by_expert(product, down, counts) * weights.flatten()[order, None]
    # Not index_add, whose order varies on a GPU and which sums in the output's precision.
    pairs = pairs[order.argsort()].view(*index.shape, -1)  # [T, k, D]
    return pairs.sum(dim=1).to(hidden.dtype)


def _by_expert(values: Tensor, weight: Tensor, counts: Sequence[int]) -> Tensor:
    parts = zip(values.split(counts), weight, strict=True)
    return torch.cat([functional.linear(part, of_expert) for part, of_expert in parts])


def _changed(experts: nn.Module, site: Site, values: Tensor, routed: Routed) -> Tensor:
    for hook in vars(experts)["site_hooks"]:
        if hook.site == site:
            new = hook.change(experts, values, routed)
            values = values if new is None else new
    return values
