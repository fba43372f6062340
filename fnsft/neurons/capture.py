"""One pass of a model over tokenised samples, for the neurons that every token activates.

Shapes: B samples a batch, P positions of the longest, n tokens of the batch, N neurons.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from fnsft.architectures import neuron_activity
from fnsft.config.stages import Site


def capture(
    model: PreTrainedModel,
    samples: Sequence[Sequence[int]],
    batch_size: int,
    record: Callable[[int, np.ndarray], None],
    with_values: bool = False,
) -> None:
    """Call ``record(layer, values)`` with [n, N], batch after batch in the data's order.

    ``values`` are bool, or with ``with_values`` the activations themselves as float32; a neuron
    is activated where they are positive.

    Samples are padded on the right, where causal attention never looks, and the padding's
    neurons are left out. A neuron within rounding of 0 may fall to either side, depending on
    what its sample is batched with (measured in float32: 1 of 211,560 bits, at 1e-6). The
    memory is that of a forward pass without its logits, and one layer's B·P·N values.
    """

    def keep(layer: int, tokens: slice, values: Tensor) -> None:
        record(layer, (values.float() if with_values else values > 0).cpu().numpy())

    watch_samples(model, samples, batch_size, keep)


@torch.inference_mode()
def watch_samples(
    model: PreTrainedModel,
    samples: Sequence[Sequence[int]],
    batch_size: int,
    see: Callable[[int, slice, Tensor], None],
    site: Site = "activation",
    desc: str = "capture",
) -> None:
    """Call ``see(layer, tokens, values)`` with [n, N], batch after batch in the data's order.

    ``tokens`` are the batch's among those of all samples; padding is left out of both. The
    memory is that of a forward pass without its logits, and one layer's B·P·N values.
    """
    model.eval()
    first = 0
    for start in tqdm(range(0, len(samples), batch_size), desc=desc, unit="batch", disable=None):
        input_ids, attended = padded(samples[start : start + batch_size])
        real = attended.flatten().bool().to(model.device)  # [B · P]
        tokens = slice(first, first := first + int(attended.sum()))

        def keep(layer: int, values: Tensor, real: Tensor = real, some: slice = tokens) -> None:
            see(layer, some, values[real])

        with neuron_activity(model, keep, site):
            # The base model has no output layer: nobody looks at the logits.
            model.base_model(
                input_ids=input_ids.to(model.device),
                attention_mask=attended.to(model.device),
                use_cache=False,
            )


def padded(batch: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Return ids and attention mask, [B, P]; the id of the padding is of no account."""
    input_ids = torch.zeros(len(batch), max(map(len, batch)), dtype=torch.long)
    attended = torch.zeros_like(input_ids)
    for row, ids in enumerate(batch):
        input_ids[row, : len(ids)] = torch.tensor(ids)
        attended[row, : len(ids)] = 1
    return input_ids, attended
