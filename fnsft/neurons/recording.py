"""What a site of a model computes on samples of some data, on disk.

Shapes: B samples a batch, P positions of the longest, T = tokens of all samples.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from fnsft.architectures.sites import watch_site
from fnsft.artifacts.site_values import SiteValues, SiteWriter
from fnsft.config.stages import NetworksSettings
from fnsft.neurons.capture import padded

SHUFFLED_BYTES = 64 << 20  # of values that are permuted together

Samples = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Drawn:
    """Samples of one data set: ``n_cut`` of them were longer, ``n_not_drawn`` others are left."""

    samples: Samples
    n_cut: int
    n_not_drawn: int

    @property
    def n_tokens(self) -> int:
        """Tokens of all samples."""
        return sum(map(len, self.samples))


def draw_samples(samples: Samples, settings: NetworksSettings) -> Drawn:
    """Draw samples without replacement, in the data's order, and cut them."""
    rng = np.random.default_rng(settings.seed)
    n = min(settings.samples, len(samples))
    chosen = np.sort(rng.choice(len(samples), size=n, replace=False))
    drawn = [samples[int(index)] for index in chosen]
    n_cut = sum(len(ids) > settings.max_tokens for ids in drawn)
    return Drawn([ids[: settings.max_tokens] for ids in drawn], n_cut, len(samples) - n)


@torch.inference_mode()
def record_site(
    model: PreTrainedModel, samples: Samples, settings: NetworksSettings, values: SiteValues
) -> None:
    """Write what a site computes at every token, in the folder of ``values``, which is made.

    Samples are padded on the right, where causal attention never looks, and the padding is
    left out. The memory is that of a forward pass without its logits, and one layer's
    B·P·width values.
    """
    model.eval()
    values.folder.mkdir()
    starts = range(0, len(samples), settings.batch_size)
    with SiteWriter(values) as writer:
        for start in tqdm(starts, desc="activations", unit="batch", disable=None):
            input_ids, attended = padded(samples[start : start + settings.batch_size])
            real = attended.flatten().bool().to(model.device)  # [B · P]
            with watch_site(model, settings.site, _keeper(writer, values, real)):
                # The base model has no output layer: nobody looks at the logits.
                model.base_model(
                    input_ids=input_ids.to(model.device),
                    attention_mask=attended.to(model.device),
                    use_cache=False,
                )


def _keeper(writer: SiteWriter, values: SiteValues, real: Tensor) -> Callable[[int, Tensor], None]:
    def keep(layer: int, found: Tensor) -> None:
        if layer in values.widths:
            writer.append(layer, found[real].float().cpu().numpy())

    return keep


def shuffle_tokens(values: SiteValues, seed: tuple[int, ...]) -> None:
    """Permute every channel's values over the tokens, in place, and each channel for itself.

    The memory is twice ``SHUFFLED_BYTES``.
    """
    for layer, width in values.widths.items():
        rng = np.random.default_rng((*seed, layer))
        mapped = values.layer(layer, "r+")
        columns = max(1, SHUFFLED_BYTES // (mapped.itemsize * values.n_tokens))
        for start in range(0, width, columns):
            block = np.ascontiguousarray(mapped[:, start : start + columns].T)
            mapped[:, start : start + columns] = rng.permuted(block, axis=1, out=block).T
