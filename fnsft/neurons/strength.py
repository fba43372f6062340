"""How strongly every MLP neuron is active on some text.

Shapes: n tokens of a batch, N neurons.
"""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel

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
