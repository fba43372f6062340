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
from fnsft.architectures.activity import Watched
from fnsft.artifacts.activations import DumpWriter
from fnsft.config.stages import Neurons
from fnsft.neurons.packing import DevicePacker

See = Callable[[int, slice, Tensor], None]
SITES: dict[Neurons, Watched] = {"mlp": "activation", "heads": "heads"}


def capture_dump(
    model: PreTrainedModel,
    samples: Sequence[Sequence[int]],
    batch_size: int,
    writer: DumpWriter,
    neurons: Neurons = "mlp",
) -> None:
    """Write which neurons every token activates, and the values that the dump samples.

    Every expert is a layer of the dump; a token activates neurons of those it is routed to. On
    an accelerator the bits are packed there (:class:`~.packing.DevicePacker`).
    """
    width = writer.shape.d_mlp
    if model.device.type == "cpu":
        with_values = bool(writer.shape.n_sampled)
        capture(model, samples, batch_size, writer.append, with_values, neurons, width)
        return
    with DevicePacker(writer) as packer:
        see = by_width(width, packer.see)
        watch_samples(model, samples, batch_size, see, SITES[neurons])


def capture(
    model: PreTrainedModel,
    samples: Sequence[Sequence[int]],
    batch_size: int,
    record: Callable[[int, np.ndarray], None],
    with_values: bool = False,
    neurons: Neurons = "mlp",
    width: int | None = None,
) -> None:
    """Call ``record(layer, values)`` with [n, N], batch after batch in the data's order.

    With a ``width`` N is that, and a layer of experts is as many layers as it has experts.

    ``values`` are bool, or with ``with_values`` the activations themselves as float32; a neuron
    is activated where they are positive.

    Samples are padded on the right, where causal attention never looks, and the padding's
    neurons are left out. A neuron within rounding of 0 may fall to either side, depending on
    what its sample is batched with (measured in float32: 1 of 211,560 bits, at 1e-6). The
    memory is that of a forward pass without its logits, and one layer's B·P·N values.
    """

    def keep(layer: int, tokens: slice, values: Tensor) -> None:
        record(layer, (values.float() if with_values else values > 0).cpu().numpy())

    see = by_width(width, keep) if width else keep
    watch_samples(model, samples, batch_size, see, SITES[neurons])


def by_width(width: int, see: See) -> See:
    """Return a function that takes [n, E·N] of a layer and shows E layers of N = ``width``."""

    def split(layer: int, tokens: slice, values: Tensor) -> None:
        parts = values.split(width, dim=1)
        for number, part in enumerate(parts, start=layer * len(parts)):
            see(number, tokens, part)

    return split


@torch.inference_mode()
def watch_samples(
    model: PreTrainedModel,
    samples: Sequence[Sequence[int]],
    batch_size: int,
    see: See,
    site: Watched = "activation",
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
        # Places and not a mask [B · P], whose entries a device would first have to count.
        real = _sent(attended.flatten().nonzero().flatten(), model.device)
        tokens = slice(first, first := first + len(real))

        def keep(layer: int, values: Tensor, real: Tensor = real, some: slice = tokens) -> None:
            see(layer, some, values.index_select(0, real))

        with neuron_activity(model, keep, site):
            # The base model has no output layer: nobody looks at the logits.
            model.base_model(
                input_ids=_sent(input_ids, model.device),
                attention_mask=_sent(attended, model.device),
                use_cache=False,
            )


def _sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on the device, without waiting for what the device still does."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def padded(batch: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Return ids and attention mask, [B, P]; the id of the padding is of no account."""
    input_ids = torch.zeros(len(batch), max(map(len, batch)), dtype=torch.long)
    attended = torch.zeros_like(input_ids)
    for row, ids in enumerate(batch):
        input_ids[row, : len(ids)] = torch.tensor(ids)
        attended[row, : len(ids)] = 1
    return input_ids, attended
