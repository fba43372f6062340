"""Arithmetic of forward passes and of answers.

Symbols: L layers, N neurons of each, P entries of all linear layers, H of the head, q the width of
all queries, v of all values, n samples or items, B of them a batch, T tokens of each.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fnsft.planning.known import Model, Samples, longest_answer
from fnsft.planning.work import Dtype, Work

if TYPE_CHECKING:
    from fnsft.training.memory import ModelShape

STEP_PASSES = 8  # of decoding around the layers: the cache, the choice, the ends
WIDTH = {"float64": 8, "float32": 4, "bfloat16": 2}  # bytes of a value


@dataclass(frozen=True)
class Items:
    """What is asked: n prompts, and answers of so many tokens, of which ``limit`` cuts more."""

    n: int
    prompt: float
    answer: float
    deviation: float
    limit: int


def loaded(model: Model, dtype: Dtype) -> Work:
    """Return the work before a model answers: imports, and its folder is read."""
    return Work(start="model", dtype=dtype, disk_bytes=model.disk_bytes + model.base_bytes)


def forward_flops(
    shape: "ModelShape", tokens: float, length: float, with_head: bool = True
) -> float:
    """Return the operations of a forward pass: 2·(P + H) a token, and 4·q·T in every layer."""
    weights = shape.packable + (shape.head if with_head else 0)
    return tokens * (2 * weights + 4 * shape.layers * shape.d_queries * length)


def forward(
    shape: "ModelShape", samples: Samples, batch_size: int, dtype: Dtype, with_head: bool = True
) -> Work:
    """Return the work of a forward pass over samples that are batched by length."""
    return Work(
        dtype=dtype,
        flops=forward_flops(shape, samples.tokens, samples.mean, with_head),
        layer_passes=math.ceil(samples.n / batch_size) * (shape.layers + 1),
    )


def generation(shape: "ModelShape", items: Items, batch_size: int, dtype: Dtype) -> Work:
    """Return the work of greedy answers, batched by length; what has ended leaves its batch.

    Notes
    -----
    A batch takes as many steps as its longest answer has tokens; each reads all weights and the
    keys and values of the tokens before it, 2·L·v a token.
    """
    if not items.n:
        return Work(dtype=dtype)
    batches = math.ceil(items.n / batch_size)
    size = max(1, items.n // batches)
    answer = min(items.answer, items.limit)
    steps = batches * longest_answer(answer, items.deviation, size, items.limit)
    context = items.prompt + answer / 2
    cache = 2 * shape.layers * shape.d_values * context * answer * items.n
    return Work(
        dtype=dtype,
        flops=forward_flops(shape, items.n * items.prompt, items.prompt)
        + forward_flops(shape, items.n * answer, context),
        layer_passes=(batches + steps) * (shape.layers + 1) + steps * STEP_PASSES,
        device_bytes=WIDTH[dtype] * ((batches + steps) * (shape.packable + shape.head) + cache),
    )


def both(first: Work, second: Work) -> Work:
    """Return the work of both, with the first one's start and precision."""
    amounts = {k: n for k, n in vars(second).items() if k not in ("start", "dtype")}
    return first.plus(**amounts)


def inference_memory(
    shape: "ModelShape", dtype: Dtype, batch_size: int, length: float, logits: bool
) -> float:
    """Return bytes at the peak: weights, keys and values, and the logits where a loss is taken.

    B·T·V logits in ``dtype`` and, in float32, their log-probabilities twice; without them the keys
    and values of B·T tokens, and a layer's widest activations.
    """
    width, tokens = WIDTH[dtype], batch_size * length
    work = width * tokens * 3 * shape.d_mlp
    cache = width * tokens * 2 * shape.layers * shape.d_values
    of_logits = tokens * shape.vocabulary * (width + 8) if logits else 0
    return width * shape.parameters + work + max(cache, of_logits)
