"""How strong values are on some text: those of neurons, and the inputs of every matrix.

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

from fnsft.architectures import MLPMatrix, graph_shape
from fnsft.architectures.activity import Watched
from fnsft.config.stages import Neurons
from fnsft.devices import widest
from fnsft.errors import InputError
from fnsft.neurons.capture import by_width, watch_samples

BATCH_SAMPLES = 8


def mean_activations(
    model: PreTrainedModel, samples: Sequence[Sequence[int]], neurons: Neurons = "mlp"
) -> list[np.ndarray]:
    """Return the mean of |a| over all tokens, float64 [N] a layer, or an expert.

    a is what down, or the output projection of heads, reads; 0 in experts that a token is not
    routed to. Memory beside the model: a forward pass without its logits, and one layer's values.
    """
    n_layers, width = graph_shape(model, neurons)
    sums = np.zeros((n_layers, width))

    def see(layer: int, tokens: slice, values: torch.Tensor) -> None:
        sums[layer] += values.abs().sum(dim=0, dtype=widest(values.device)).cpu().numpy()

    site: Watched = "heads" if neurons == "heads" else "intermediate"
    watch_samples(model, samples, BATCH_SAMPLES, by_width(width, see), site, "active neurons")
    return list(sums / sum(map(len, samples)))


@torch.inference_mode()
def input_norms(
    model: PreTrainedModel, samples: Sequence[Sequence[int]], matrices: Sequence[MLPMatrix]
) -> list[np.ndarray]:
    """Return ‖x_j‖₂ over all tokens of every input of every matrix, float64 [inputs].

    One pass a sample, so that there is no padding; its memory is that of a forward pass without
    its logits.

    Raises
    ------
    InputError
        For matrices of experts, whose inputs are those of the tokens that they are given.
    """
    model.eval()
    if matrices[0].expert is not None:
        raise InputError(
            f"{matrices[0].name}: expected a linear layer, whose inputs can be recorded, found an "
            "expert's matrix; use column_score magnitude or random, or another method"
        )
    squares: dict[str, Any] = {}

    def add(path: str, module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        values = inputs[0].flatten(0, -2)  # OPT flattens batch and positions itself
        wide = values.to(widest(values.device))
        squares[path] = squares.get(path, 0) + wide.square().sum(dim=0).cpu().double()

    with contextlib.ExitStack() as hooks:
        for path in {matrix.module for matrix in matrices}:
            module = model.get_submodule(path)
            hook = module.register_forward_pre_hook(functools.partial(add, path))
            hooks.callback(hook.remove)
        for ids in tqdm(samples, desc="input norms", unit="sample", disable=None):
            model.base_model(input_ids=torch.tensor([ids]).to(model.device), use_cache=False)
    roots = {path: total.sqrt().numpy() for path, total in squares.items()}
    return [roots[matrix.module] for matrix in matrices]
