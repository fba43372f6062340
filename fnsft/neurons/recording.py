"""What a site of a model computes on samples of some data, on disk."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor
from transformers import PreTrainedModel

from fnsft.artifacts.site_values import SiteValues, SiteWriter
from fnsft.config.stages import NetworksSettings
from fnsft.neurons.capture import watch_samples

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


def record_site(
    model: PreTrainedModel, samples: Samples, settings: NetworksSettings, values: SiteValues
) -> None:
    """Write what a site computes at every token, in the folder of ``values``, which is made.

    The memory is that of :func:`watch_samples`.
    """
    values.folder.mkdir()
    with SiteWriter(values) as writer:

        def keep(layer: int, _: slice, found: Tensor) -> None:
            if layer in values.widths:
                writer.append(layer, found.float().cpu().numpy())

        watch_samples(model, samples, settings.batch_size, keep, settings.site, "activations")


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
