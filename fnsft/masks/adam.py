"""One step of AdamW for the n entries of a parameter that a process holds, in three ways.

``fused`` is torch's. ``eager`` takes the same step in chunks and puts back what was held; it is
bitwise the fused one where nothing is. ``compiled`` does both in one kernel, and differs from it
in the last bits. Tensors are flat, [n]: weights, gradient, first and second moment.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal

import torch

Moments = Literal["full", "masked", "frozen"]

_WORDS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def fused_step(tensors: list[torch.Tensor], step: torch.Tensor, group: dict[str, Any]) -> None:
    """Take torch's fused step in place; ``step`` counts it already."""
    weights, gradient, exp_avg, exp_avg_sq = ([tensor] for tensor in tensors)
    beta1, beta2 = group["betas"]
    torch._fused_adamw_(
        weights,
        gradient,
        exp_avg,
        exp_avg_sq,
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


def eager_step(
    tensors: list[torch.Tensor],
    kept: torch.Tensor,
    step: torch.Tensor,
    group: dict[str, Any],
    moments: Moments,
) -> None:
    """Step weights, gradient and moments [n] where ``kept``, int8 [n], is 1.

    Bits are put back by AND and XOR: ``torch.where`` branches at every entry on the CPU, which
    takes six times as long as the step itself where half of them are kept.
    """
    weights, gradient, *others = tensors
    stays = kept.to(_bits(weights).dtype).sub_(1)  # all bits are set, or none
    if moments == "masked":
        gradient = (_bits(gradient) & ~stays).view(gradient.dtype)
    held = [weights, *others] if moments == "frozen" else [weights]
    before = [tensor.clone() for tensor in held]
    fused_step([weights, gradient, *others], step, group)
    for tensor, old in zip(held, before, strict=True):
        undone = _bits(old).bitwise_xor_(_bits(tensor)).bitwise_and_(stays)
        _bits(tensor).bitwise_xor_(undone)


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view(_WORDS[tensor.element_size()])


@functools.cache
def compiled_step() -> Callable[..., None]:
    """Return the step, compiled once for a dtype and device, whatever n is."""
    return torch.compile(_plain_step, dynamic=True, fullgraph=True)


def _plain_step(
    tensors: list[torch.Tensor],
    kept: torch.Tensor,
    scalars: list[torch.Tensor],
    moments: Moments,
    maximize: bool,
) -> None:
    """Do what the eager step does, with the scalars and in their dtype."""
    weights, _, exp_avg, exp_avg_sq = tensors
    share1, share2, beta2, eps, decay, rate, root = scalars
    w, g, m, v = (t.to(rate.dtype) for t in tensors)
    # Compared as int8 it would not be vectorised on the CPU (7 times slower).
    moves = kept.to(rate.dtype) != 0
    if maximize:
        g = -g
    if moments == "masked":
        g = torch.where(moves, g, 0.0)
    m_next = m + (g - m) * share1
    v_next = v * beta2 + g * g * share2
    w_next = w * decay - rate * m_next / (v_next.sqrt() * root + eps)
    if moments == "frozen":
        m_next, v_next = torch.where(moves, m_next, m), torch.where(moves, v_next, v)
    exp_avg.copy_(m_next)
    exp_avg_sq.copy_(v_next)
    weights.copy_(torch.where(moves, w_next, w))


def scalars_of(step: torch.Tensor, group: dict[str, Any], dtype: torch.dtype) -> list[torch.Tensor]:
    """Return what the compiled step needs, as tensors: no number is to be compiled in."""
    lr, (beta1, beta2) = float(group["lr"]), group["betas"]
    count = step.double()  # 1 - 0.999 ** 1 in float32 would have an error of 1e-5
    rate, root = lr / (1 - beta1**count), (1 - beta2**count).rsqrt()
    constants = (1 - beta1, 1 - beta2, beta2, group["eps"], 1 - lr * group["weight_decay"])
    wide = torch.promote_types(dtype, torch.float32)
    filled = [torch.full((), x, dtype=wide, device=step.device) for x in constants]
    return [*filled, rate.to(wide), root.to(wide)]
