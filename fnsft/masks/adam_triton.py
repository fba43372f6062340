"""One masked step of AdamW as a Triton kernel, for CUDA devices.

It reads and writes every entry once: of a parameter in bfloat16 that is 15 bytes an entry, mask
included, where torch's fused AdamW moves 14. What a mask holds back is written as it was read.
The last bits of what moves differ from torch's. Tensors are flat, [n], as in :mod:`.adam`.
"""

import math
from typing import Any

import torch
import triton
import triton.language as tl

from fnsft.masks.adam import Moments
from fnsft.masks.kernels import launch

# 8 entries a thread: one 16-byte load of bfloat16 from each of four tensors, all in flight.
_BLOCK, _WARPS = 1024, 4


def masked_step(
    tensors: list[torch.Tensor],
    kept: torch.Tensor,
    step: torch.Tensor,
    group: dict[str, Any],
    moments: Moments,
) -> None:
    """Step weights, gradient and moments [n] where ``kept``, int8 [n], is 1.

    ``step``, one float32 on the device, counts this step already. Arithmetic is float32, and
    float64 for a parameter in float64.
    """
    weights, lr, (beta1, beta2) = tensors[0], float(group["lr"]), group["betas"]
    scale = torch.empty(2, dtype=torch.float64, device=weights.device)
    logarithms = [math.log(beta) if beta > 0 else -math.inf for beta in (beta1, beta2)]
    launch(_bias_corrected, (1,), weights.device, step, scale, lr, *logarithms)
    launch(
        _step,
        (triton.cdiv(kept.numel(), _BLOCK),),
        weights.device,
        *tensors,
        kept,
        kept.numel(),
        scale,
        1 - lr * group["weight_decay"],
        group["eps"],
        beta1,
        beta2,
        MOMENTS=moments,
        MAXIMIZE=group["maximize"],
        WIDE=tl.float64 if weights.dtype == torch.float64 else tl.float32,
        BLOCK=_BLOCK,
        num_warps=_WARPS,
    )


@triton.jit
def _bias_corrected(
    step: tl.tensor,
    scale: tl.tensor,
    lr: tl.float64,
    log_beta1: tl.float64,
    log_beta2: tl.float64,
) -> None:
    """Write the rate, and what √v is multiplied by, to ``scale``, float64 [2].

    In float32 the first steps' corrections, 1 - 0.999 ** 1, would have an error of 1e-5; and in
    every program of the step float64 would cost much of it.
    """
    count = tl.load(step).to(tl.float64)
    tl.store(scale, lr / (1 - tl.exp(count * log_beta1)))
    tl.store(scale + 1, 1 / tl.sqrt(1 - tl.exp(count * log_beta2)))


@triton.jit
def _step(
    weights: tl.tensor,
    gradient: tl.tensor,
    exp_avg: tl.tensor,
    exp_avg_sq: tl.tensor,
    kept: tl.tensor,
    size: tl.tensor,
    scale: tl.tensor,
    decay: tl.float64,
    eps: tl.float64,
    beta1: tl.float64,
    beta2: tl.float64,
    MOMENTS: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < size
    w = tl.load(weights + place, mask=inside)
    m = tl.load(exp_avg + place, mask=inside)
    v = tl.load(exp_avg_sq + place, mask=inside)
    g = tl.load(gradient + place, mask=inside).to(WIDE)
    moves = tl.load(kept + place, mask=inside, other=0) != 0
    rate, root = tl.load(scale).to(WIDE), tl.load(scale + 1).to(WIDE)
    share1, share2 = tl.full((), 1 - beta1, WIDE), tl.full((), 1 - beta2, WIDE)
    if MAXIMIZE:
        g = -g
    if MOMENTS == "masked":
        g = tl.where(moves, g, 0.0)
    m_wide = m.to(WIDE) + (g - m.to(WIDE)) * share1
    v_wide = v.to(WIDE) * tl.full((), beta2, WIDE) + g * g * share2
    w_wide = w.to(WIDE) * tl.full((), decay, WIDE)
    w_wide -= rate * m_wide / (tl.sqrt(v_wide) * root + tl.full((), eps, WIDE))
    # What is held back stays in its own dtype, so that no conversion can change a bit of it.
    m_next, v_next = m_wide.to(m.dtype), v_wide.to(v.dtype)
    if MOMENTS == "frozen":
        m_next, v_next = tl.where(moves, m_next, m), tl.where(moves, v_next, v)
    tl.store(exp_avg + place, m_next, mask=inside)
    tl.store(exp_avg_sq + place, v_next, mask=inside)
    tl.store(weights + place, tl.where(moves, w_wide.to(w.dtype), w), mask=inside)
