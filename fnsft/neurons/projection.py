"""The hypergraph of co-activated neurons, projected to a weighted graph on neurons.

Neurons i ≠ j are joined by every token that activates both:

    G(i, j) = Σ_{x: i, j ∈ E(x)} |E(x)|^−α · TR(x)        (CollabMask 2026)

Tokens are sorted by their weight and packed to words of 64 that share one weight
(:mod:`fnsft.neurons.hyperedges`); a weighted count of common bits then gives G
(:mod:`fnsft.neurons.gram_numba`). An accelerator multiplies the bits instead
(:mod:`fnsft.neurons.projection_torch`).

Shapes: N = ``d_mlp`` neurons, T tokens, U of them that weigh something, Q words, k neighbours
kept of a row.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from fnsft.artifacts.graphs import LayerGraph
from fnsft.neurons.bits import Bits, hyperedge_sizes, neuron_sums, sorted_words, strips
from fnsft.neurons.gram_numba import NOBODY, PANEL_ROWS, gram_panel, offer_panel
from fnsft.neurons.hyperedges import SPREAD, WeightedWords, weighted_words

if TYPE_CHECKING:
    import torch

Normalisation = Literal["none", "cosine", "degree"]


class Projector(Protocol):
    """One layer, projected on some device."""

    def sizes(self) -> np.ndarray:
        """Return |E(x)| of every token, [T] int64."""

    def project(
        self,
        sizes: np.ndarray,
        weights: np.ndarray,
        k_max: int,
        normalise: Normalisation = "none",
        dense: np.ndarray | None = None,
    ) -> LayerGraph:
        """Project the layer; see :func:`project_layer`."""


def projector(bits: Bits, device: "torch.device | None" = None) -> Projector:
    """Return what projects a layer on a device of torch's, or with numba where none is given."""
    if device is None:
        return NumbaLayer(bits)
    from fnsft.neurons.projection_torch import DeviceLayer

    return DeviceLayer(bits, device)


@dataclass(frozen=True)
class NumbaLayer:
    """One layer's bits, counted on the CPU; a :class:`Projector`."""

    bits: Bits

    def sizes(self) -> np.ndarray:
        """Return |E(x)| of every token, [T] int64."""
        return hyperedge_sizes(self.bits)

    def project(
        self,
        sizes: np.ndarray,
        weights: np.ndarray,
        k_max: int,
        normalise: Normalisation = "none",
        dense: np.ndarray | None = None,
    ) -> LayerGraph:
        """Project the layer; see :func:`project_layer`."""
        return project_layer(self.bits, sizes, weights, k_max, normalise, dense=dense)


def project_layer(
    bits: Bits,
    sizes: np.ndarray,
    weights: np.ndarray,
    k_max: int,
    normalise: Normalisation = "none",
    spread: float = SPREAD,
    dense: np.ndarray | None = None,
) -> LayerGraph:
    """Project one layer and keep the ``k_max`` largest positive weights of each row.

    Parameters
    ----------
    bits
        Which neurons the tokens activate; read once.
    sizes, weights
        |E(x)| and the hyperedge weights, [T].
    normalise
        ``cosine`` divides G(i, j) by √(m_i m_j), m_i = Σ_{x ∋ i} w(x), the cosine of the
        neurons' weighted firing; ``degree`` by √(d_i d_j), d_i = Σ_j G(i, j).
    spread
        Largest relative error of a weight (:func:`~.hyperedges.weighted_words`); 0 is exact to
        1 part in 2^17.
    dense
        [N, N] float32 that takes all of G, diagonal 0.

    Notes
    -----
    Of equal float32 weights the lower index comes first. The number of threads changes no
    bit. Memory: N · U / 8 bytes of sorted bits, up to 1.05 T · 64 bytes of a strip, 1 KiB · N
    of a panel and 8 N · k of neighbours.
    """
    plan = weighted_words(weights, spread)
    words, mass = _sorted_layer(bits, plan, mass_of(normalise, sizes, weights))
    factors = np.ones(bits.n_neurons)
    if mass is not None:
        np.divide(1, np.sqrt(mass), out=factors, where=mass > 0)
    kept_weights = np.zeros((bits.n_neurons, min(k_max, bits.n_neurons)), dtype=np.float32)
    kept_indices = np.full(kept_weights.shape, NOBODY, dtype=np.int32)
    panel = np.zeros((min(PANEL_ROWS, len(words)), len(words)))
    for first in range(0, len(words), PANEL_ROWS):
        rows = panel[: len(words) - first]
        gram_panel(words, plan.integers, plan.tiles, plan.scales, first, rows)
        offer_panel(rows, first, factors, kept_weights, kept_indices)
        if dense is not None:
            _write_dense(dense, rows, first, factors)
    return as_graph(kept_weights, kept_indices)


def mass_of(normalise: Normalisation, sizes: np.ndarray, weights: np.ndarray) -> np.ndarray | None:
    """Return what every token adds to the mass of each neuron that it activates, [T]."""
    if normalise == "cosine":
        return weights
    return weights * (sizes - 1) if normalise == "degree" else None


def _sorted_layer(
    bits: Bits, plan: WeightedWords, token_mass: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the sorted words, N padded to an even number, and the neurons' mass [N]."""
    n_neurons = bits.n_neurons
    words = np.zeros((n_neurons + n_neurons % 2, plan.n_words), dtype=np.uint64)
    mass = None if token_mass is None else np.empty(n_neurons)
    for neurons, token_major in strips(bits):
        sorted_words(token_major, plan.order, plan.starts, words[neurons])
        if mass is not None and token_mass is not None:
            mass[neurons] = neuron_sums(token_major, token_mass, neurons.stop - neurons.start)
    return words, mass


def _write_dense(dense: np.ndarray, rows: np.ndarray, first: int, factors: np.ndarray) -> None:
    stop = min(first + len(rows), len(dense))
    block = rows[: stop - first, first : len(dense)]
    block = (block * (factors[first:stop, None] * factors[None, first:])).astype(np.float32)
    np.fill_diagonal(block[:, : stop - first], 0)
    dense[first:stop, first:] = block
    dense[stop:, first:stop] = block[:, stop - first :].T


def as_graph(weights: np.ndarray, indices: np.ndarray) -> LayerGraph:
    """Sort every row's heap [N, k] by decreasing weight, then by index, without empty places."""
    order = np.lexsort((indices, -weights), axis=1)
    weights = np.take_along_axis(weights, order, axis=1)
    indices = np.take_along_axis(indices, order, axis=1)
    kept = weights > 0
    indptr = np.concatenate([[0], np.cumsum(kept.sum(axis=1))])
    return LayerGraph(indptr, indices[kept], weights[kept])
