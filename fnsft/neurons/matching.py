"""Which networks of two sets are the same: of inputs, data sets, seeds, or models of one shape.

Shapes: K networks of a set, k of them analysed in a layer, N = channels of the layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from scipy.optimize import linear_sum_assignment

from fnsft.artifacts.matches import Match
from fnsft.artifacts.networks import Networks, Templates
from fnsft.artifacts.templates import short
from fnsft.errors import InputError


@dataclass(frozen=True, eq=False)
class LayerNetworks:
    """What a set knows of one layer.

    ``rows`` [k] are the networks' places in the set; ``members`` bool [k, N]; ``z`` [k, N] are
    the signed loadings, standardised over all channels of the network, or None.
    """

    rows: np.ndarray
    members: np.ndarray
    z: np.ndarray | None


@dataclass(frozen=True, eq=False)
class NetworkSet:
    """Networks by number, and one :class:`LayerNetworks` a layer of the model."""

    numbers: tuple[int, ...]
    layers: list[LayerNetworks]
    of_output: bool

    @classmethod
    def of_networks(cls, networks: Networks) -> Self:
        """Take networks that have loadings."""
        parts: list[list[LayerNetworks]] = [[] for _ in networks.widths]
        first = 0
        for analysis in networks.analyses:
            rows = np.arange(first, first + analysis.n_networks)
            first += analysis.n_networks
            z = networks.by_layer(analysis, _standardised(analysis.loadings))
            for layer, members in networks.by_layer(analysis, analysis.members).items():
                parts[layer].append(LayerNetworks(rows, members, z[layer]))
        layers = [_joined(found, n) for found, n in zip(parts, networks.widths, strict=True)]
        return cls(tuple(range(first)), layers, networks.site == "output")

    @classmethod
    def of_templates(cls, templates: Templates) -> Self:
        """Take networks of which the members alone are known."""
        parts: list[list[LayerNetworks]] = [[] for _ in templates.widths]
        for row, network in enumerate(templates.neurons.values()):
            for layer, neurons in network.items():
                members = np.zeros((1, templates.widths[layer]), dtype=bool)
                members[0, neurons] = True
                parts[layer].append(LayerNetworks(np.array([row]), members, None))
        layers = [_joined(found, n) for found, n in zip(parts, templates.widths, strict=True)]
        return cls(tuple(templates.neurons), layers, templates.site == "output")

    @property
    def widths(self) -> list[int]:
        """Channels of every layer."""
        return [layer.members.shape[1] for layer in self.layers]


def _standardised(loadings: np.ndarray) -> np.ndarray:
    """Return each network's z-scores, [K, F] float32; 0 where all loadings are the same."""
    centred = loadings - loadings.mean(axis=1, keepdims=True, dtype=np.float64)
    deviation = centred.std(axis=1, keepdims=True)
    return (centred / np.where(deviation > 0, deviation, 1)).astype(np.float32)


def _joined(parts: Sequence[LayerNetworks], n_channels: int) -> LayerNetworks:
    if not parts:
        none = np.zeros((0, n_channels))
        return LayerNetworks(np.zeros(0, dtype=np.int64), none.astype(bool), None)
    z = [part.z for part in parts if part.z is not None]
    return LayerNetworks(
        np.concatenate([part.rows for part in parts]),
        np.concatenate([part.members for part in parts]),
        np.concatenate(z) if z else None,
    )


class Similarity(NamedTuple):
    """Of every pair [K, K']: IoU of the members, |correlation| of the loadings (NaN: unknown)."""

    iou: np.ndarray
    correlation: np.ndarray


def similarity(
    first: NetworkSet, second: NetworkSet, rng: np.random.Generator | None = None
) -> Similarity:
    """Compare every network of one set with every one of the other.

    With ``rng`` the channels of every layer of ``second`` are permuted first, all its networks
    alike.

    Notes
    -----
    IoU = |A ∩ B| / |A ∪ B|, 0 of two empty networks. The correlation is Pearson's over the
    channels that both networks' analyses cover, in absolute value: the sign of a component is
    a convention. It is NaN where there are none, and where a file has no loadings.
    """
    shape = len(first.numbers), len(second.numbers)
    common, sums = np.zeros(shape), np.zeros((6, *shape))
    sizes = [np.zeros(n) for n in shape]
    for a, b in zip(first.layers, second.layers, strict=True):
        np.add.at(sizes[0], a.rows, a.members.sum(axis=1))
        np.add.at(sizes[1], b.rows, b.members.sum(axis=1))
        order = (
            np.arange(b.members.shape[1]) if rng is None else rng.permutation(b.members.shape[1])
        )
        pairs = np.ix_(a.rows, b.rows)
        common[pairs] += a.members.astype(np.float32) @ b.members[:, order].T.astype(np.float32)
        if a.z is not None and b.z is not None:
            sums[:, pairs[0], pairs[1]] += _sums(a.z, b.z[:, order])
    union = sizes[0][:, None] + sizes[1] - common
    iou = np.divide(common, union, out=np.zeros(shape), where=union > 0)
    return Similarity(iou, _correlation(sums))


def _sums(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return n, Σx, Σy, Σx², Σy², Σxy of every pair of rows, [6, k, k'] float64."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    ones_x, ones_y = np.ones_like(x), np.ones_like(y)
    pairs = [(ones_x, ones_y), (x, ones_y), (ones_x, y), (x * x, ones_y), (ones_x, y * y), (x, y)]
    return np.stack([left @ right.T for left, right in pairs])


def _correlation(sums: np.ndarray) -> np.ndarray:
    n, x, y, xx, yy, xy = sums
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.sqrt((xx - x * x / n) * (yy - y * y / n))
        return np.where(scale > 0, np.abs(xy - x * y / n) / scale, np.nan)


def match_networks(
    first: NetworkSet, second: NetworkSet, permutations: int, seed: int
) -> list[Match]:
    """Match the networks of two sets one to one so that the sum of IoU is largest.

    Chance is what a network of the smaller set (of ``first``, when they are equal) gets when
    the channels within every layer of the other are permuted and all networks are matched
    anew, in the mean over permutations: the sizes in every layer stay.

    Raises
    ------
    InputError
        When the two are not of one shape.

    Notes
    -----
    The assignment is that of Crouse 2016 (``scipy.optimize.linear_sum_assignment``).
    """
    _require_one_shape(first, second)
    rng = np.random.default_rng(seed)
    swapped = len(first.numbers) > len(second.numbers)
    small, large = (second, first) if swapped else (first, second)

    found = similarity(small, large)
    rows, columns = linear_sum_assignment(-found.iou)
    chance = np.full((2, permutations, len(rows)), np.nan)
    for number in range(permutations):
        permuted = similarity(small, large, rng)
        anew = linear_sum_assignment(-permuted.iou)
        chance[:, number] = permuted.iou[anew], permuted.correlation[anew]
    matches = []
    for row, column, by_chance in zip(rows, columns, chance.transpose(2, 0, 1), strict=True):
        numbers = small.numbers[row], large.numbers[column]
        known = by_chance[1][~np.isnan(by_chance[1])]
        correlation = float(found.correlation[row, column])
        matches.append(
            Match(
                *(numbers[::-1] if swapped else numbers),
                iou=float(found.iou[row, column]),
                iou_chance=float(by_chance[0].mean()),
                correlation=None if np.isnan(correlation) else correlation,
                correlation_chance=float(known.mean()) if len(known) else None,
            )
        )
    return sorted(matches, key=lambda match: match.first)


def _require_one_shape(first: NetworkSet, second: NetworkSet) -> None:
    a, b = first.widths, second.widths
    if a != b:
        raise InputError(
            f"networks: expected two sets of one shape, found {len(a)} layers of {short(a)} and "
            f"{len(b)} of {short(b)}"
        )
    if first.of_output != second.of_output:
        raise InputError(
            "networks: expected two sets of neurons or two of the MLP's output, found one of each"
        )
