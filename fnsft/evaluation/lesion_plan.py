"""Which channels every lesion is of: networks, what loads most, and random ones beside them.

Shapes: width channels of a layer's site, K networks.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from fnsft.artifacts.lesions import Experiment, Source
from fnsft.artifacts.networks import Networks, Templates
from fnsft.config.stages import LesionSettings
from fnsft.masks.random_sets import size_matched


@dataclass(frozen=True, eq=False)
class Condition:
    """What is done to the ``chosen`` channels, a bool vector [width] a layer.

    The other fields are those of :class:`fnsft.artifacts.lesions.Lesion`.
    """

    experiment: Experiment
    mode: Literal["lesion", "preserve", "amplify"]
    chosen: Sequence[np.ndarray]
    source: Source = "network"
    draw: int | None = None
    network: int | None = None
    n_networks: int | None = None
    share: float | None = None

    @property
    def n_neurons(self) -> int:
        """Channels that are masked or multiplied."""
        wanted = self.mode != "preserve"
        return sum(int(np.count_nonzero(layer == wanted)) for layer in self.chosen)

    def with_random(self, seed: int, draws: int) -> "Iterator[Condition]":
        """Yield this condition, and it with random channels."""
        yield self
        for draw in range(draws):
            drawn = size_matched(self.chosen, seed, draw)
            yield replace(self, chosen=drawn, source="random", draw=draw)


@dataclass(frozen=True, eq=False)
class Plan:
    """Which conditions there are, in the ``layers`` that lesions are in; others stay whole.

    ``strengths`` say how strong every channel of a layer loads on any network, [width] a
    layer, or None for a layer; the list is empty where nothing is known of loadings.
    """

    templates: Templates
    layers: Sequence[int]
    strengths: Sequence[np.ndarray | None]
    settings: LesionSettings

    @property
    def n_all(self) -> int:
        """Channels of the layers."""
        return sum(self.templates.widths[layer] for layer in self.layers)

    @property
    def n_conditions(self) -> int:
        """All conditions, random ones and the intact model included."""
        networks = 2 * len(self.templates.neurons) + 2 * self._n_curve
        shares = len(self.settings.unmask_shares) if self.strengths else 0
        return 1 + (networks + shares) * (1 + self.settings.random_draws)

    @property
    def _n_curve(self) -> int:
        n_networks = len(self.templates.neurons)
        return min(self.settings.max_networks or n_networks, n_networks)

    def intact(self) -> Condition:
        """Return the model as it is."""
        nothing = [np.zeros(width, dtype=bool) for width in self.templates.widths]
        return Condition("intact", "lesion", nothing)

    def singles(self) -> list[Condition]:
        """Return every network removed alone; one without a channel in the layers is refused."""
        return [
            Condition("single", "lesion", self.templates.union([k], self.layers), network=k)
            for k in self.templates.neurons
        ]

    def curves(self, order: Sequence[int]) -> Iterator[Condition]:
        """Yield the first n networks of the order removed, then kept, for every n."""
        unions = [self.templates.union(order[:n], self.layers) for n in range(1, self._n_curve + 1)]
        for n, union in enumerate(unions, start=1):
            yield Condition("removed", "lesion", union, n_networks=n)
        for n, union in enumerate(unions, start=1):
            yield Condition("kept", "preserve", self._or_whole(union), n_networks=n)

    def unmasked(self) -> Iterator[Condition]:
        """Yield the channels that load most, a share of every layer that was analysed."""
        if not self.strengths:
            return
        for share in self.settings.unmask_shares:
            kept = [
                np.ones(width, dtype=bool) if strength is None else strongest(strength, share)
                for width, strength in zip(self.templates.widths, self.strengths, strict=True)
            ]
            yield Condition("unmasked", "preserve", self._or_whole(kept), share=share)

    def _or_whole(self, kept: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Keep all of the layers that lesions are not in."""
        return [mask | (layer not in self.layers) for layer, mask in enumerate(kept)]


def strongest(strength: np.ndarray, share: float) -> np.ndarray:
    """Return the round(share · width) largest as bools [width]; of equals the first."""
    chosen = np.zeros(len(strength), dtype=bool)
    chosen[np.argsort(-strength, kind="stable")[: round(share * len(strength))]] = True
    return chosen


def loading_strengths(networks: Networks) -> list[np.ndarray | None]:
    """Return the largest absolute z of every channel over the networks, [width] a layer.

    z is a loading less its network's mean, over its standard deviation, over all channels of
    the analysis that vary (others have no loading, and strength 0). A layer that was not
    analysed has None.
    """
    found: list[np.ndarray | None] = [None] * len(networks.widths)
    for analysis in networks.analyses:
        loadings = analysis.loadings.astype(np.float64)  # [K, Σ widths]
        varies = loadings.any(axis=0)
        deviations = np.abs(loadings - loadings[:, varies].mean(axis=1, keepdims=True))
        strength = (deviations / loadings[:, varies].std(axis=1, keepdims=True)).max(axis=0)
        strength[~varies] = 0
        for layer, part in networks.by_layer(analysis, strength[None]).items():
            found[layer] = part[0]
    return found
