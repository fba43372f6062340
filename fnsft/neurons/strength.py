"""How strong the values that MLPs read are on some text: neurons, and inputs of every matrix.

Shapes: n tokens of a batch, N neurons, d = ``d_model``.
"""

import contextlib
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from transformers import PreTrainedModel

from fnsft.architectures.blocks import mlp_blocks
from fnsft.architectures.sites import site_widths
from fnsft.neurons.capture import watch_samples

BATCH_SAMPLES = 8


def mean_activations(model: PreTrainedModel, samples: Sequence[Sequence[int]]) -> list[np.ndarray]:
    """Return the mean of |a| over all tokens, float64 [N] a layer; a is what down reads.

    Memory beside the model: a forward pass without its logits, and one layer's values.
    """
    sums = [np.zeros(width) for width in site_widths(model)["intermediate"]]

    def see(layer: int, tokens: slice, values: torch.Tensor) -> None:
        sums[layer] += values.abs().sum(dim=0, dtype=torch.float64).cpu().numpy()

    watch_samples(model, samples, BATCH_SAMPLES, see, "intermediate", "active neurons")
    n_tokens = sum(map(len, samples))
    return [total / n_tokens for total in sums]


@torch.inference_mode()
def input_norms(
    model: PreTrainedModel, samples: Sequence[Sequence[int]]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return ‖x_j‖₂ over all tokens of every input, float64: [d] of gate and up, [N] of down.

    One pass a sample, so that there is no padding; its memory is that of a forward pass without
    its logits.
    """
    model.eval()
    blocks = mlp_blocks(model)
    squares: dict[str, Any] = {}

    def add(path: str, module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        values = inputs[0].flatten(0, -2)  # OPT flattens batch and positions itself
        squares[path] = squares.get(path, 0) + values.double().square().sum(dim=0).cpu()

    with contextlib.ExitStack() as hooks:
        for path in (path for block in blocks for path in (block.up, block.down)):
            module = model.get_submodule(path)
            hook = module.register_forward_pre_hook(functools.partial(add, path))
            hooks.callback(hook.remove)
        for ids in tqdm(samples, desc="input norms", unit="sample", disable=None):
            model.base_model(input_ids=torch.tensor([ids]).to(model.device), use_cache=False)
    roots = {path: total.sqrt().numpy() for path, total in squares.items()}
    return [(roots[block.up], roots[block.down]) for block in blocks]
