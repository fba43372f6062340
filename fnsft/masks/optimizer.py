"""AdamW that leaves masked entries where they are (DESIGN §4.7, ``applies_to: update``).

A mask on the gradient does not keep an entry still: momentum and decoupled weight decay
move it. Here an entry outside the mask is bitwise the same after the step as before.
"""

from collections.abc import Callable, Iterator
from typing import Any, Literal, Protocol

import torch
from torch.nn import Parameter

Moments = Literal["full", "masked", "frozen"]


class MaskSource(Protocol):
    """Where an optimizer gets a parameter's mask from: a dict, or one that makes it on demand."""

    def get(self, parameter: Parameter, /) -> torch.Tensor | None:
        """Return the bool mask of what this process holds of a parameter; None lets all move."""


class MaskedAdamW(torch.optim.AdamW):
    """Fused AdamW with ``masks``: a parameter's mask says which entries may move.

    Parameters
    ----------
    params, **options
        As for :class:`torch.optim.AdamW`, without amsgrad; ``fused`` is always on.
    moments
        What Adam's moments see outside the mask: ``full``, the gradient; ``masked``, zero;
        ``frozen``, nothing: they stay as they are. Bias correction counts the parameter's
        steps in all three.

    Notes
    -----
    ``masks`` maps a parameter to a bool tensor of its shape and device; it is read at each
    step and kept between steps. A parameter without a mask, or with a mask of ones, takes
    bitwise the step of torch's fused AdamW. State dictionaries are AdamW's, both ways.
    Scratch is up to five chunks of ``chunk_entries`` in the parameter's dtype.
    """

    # A multiple of every vector width, so that chunks round as the whole tensor does.
    chunk_entries = 1 << 18

    def __init__(self, params: Any, *args: Any, moments: Moments = "full", **options: Any) -> None:
        super().__init__(params, *args, **(options | {"fused": True}))
        # Torch's fused AdamW unscales gradients itself; here a GradScaler does it before.
        self._step_supports_amp_scaling = False
        self.moments = moments
        self.masks: MaskSource = {}
        self._refuse_amsgrad()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take the state of any AdamW; its groups may come from one that was not fused."""
        super().__setstate__(state)
        self._refuse_amsgrad()
        for group in self.param_groups:
            group.update(fused=True, foreach=None)
        for parameter, moments in self.state.items():
            if moments:
                moments["step"] = moments["step"].to(parameter.device, torch.float32)

    def _refuse_amsgrad(self) -> None:
        if any(group["amsgrad"] for group in self.param_groups):
            raise ValueError("MaskedAdamW: expected amsgrad=False, found True")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; entries outside their parameter's mask do not move."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step_parameter(parameter, group)
        return loss

    def _step_parameter(self, parameter: Parameter, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        state["step"] += 1
        tensors = [parameter.detach(), parameter.grad, state["exp_avg"], state["exp_avg_sq"]]
        mask = self.masks.get(parameter)
        if mask is None:
            _fused_step(tensors, state["step"], group)
            return
        for (weights, gradient, *moments), kept in self._chunks(tensors, mask):
            if self.moments == "masked":
                gradient = gradient * kept
            held = [weights, *moments] if self.moments == "frozen" else [weights]
            before = [tensor.clone() for tensor in held]
            _fused_step([weights, gradient, *moments], state["step"], group)
            for tensor, old in zip(held, before, strict=True):
                torch.where(kept, tensor, old, out=tensor)

    def _chunks(
        self, tensors: list[torch.Tensor], mask: torch.Tensor
    ) -> Iterator[tuple[list[torch.Tensor], torch.Tensor]]:
        """Yield aligned slices of the flattened tensors and of the mask."""
        # The gradient alone may be strided, and is not written to.
        flat = [t.reshape(-1) if t is tensors[1] else t.view(-1) for t in tensors]
        flat_mask = mask.reshape(-1)
        for start in range(0, flat_mask.numel(), self.chunk_entries):
            part = slice(start, start + self.chunk_entries)
            yield [tensor[part] for tensor in flat], flat_mask[part]


def _fused_step(tensors: list[torch.Tensor], step: torch.Tensor, group: dict[str, Any]) -> None:
    weights, gradient, exp_avg, exp_avg_sq = tensors
    beta1, beta2 = group["betas"]
    torch._fused_adamw_(
        [weights],
        [gradient],
        [exp_avg],
        [exp_avg_sq],
        [],
        [step],
        lr=float(group["lr"]),
        beta1=beta1,
        beta2=beta2,
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        amsgrad=False,
        maximize=group["maximize"],
    )
