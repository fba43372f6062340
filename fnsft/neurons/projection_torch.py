"""The projection on an accelerator: bits are unpacked there and multiplied in half precision.

With X(i, x) = √w(x) where neuron i is in E(x), else 0, the weighted graph is a product,

    G = X Xᵀ,

whose factors are float16 and whose sums float32, as matrix units compute them. Float16 holds
√w to 1 part in 2^11 (bfloat16 to 1 in 2^8 only); 8-bit integers would be exact within tokens of
one weight, but a layer has hundreds of weights, and adding up as many products [N, N] moves
terabytes. The root halves a weight's exponent, so that one scale
serves weights of 40 binary orders; lighter tokens are multiplied apart, with a scale of theirs.

Shapes: N neurons, T tokens, K tokens of a product, R rows of a panel, k neighbours kept.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from fnsft.artifacts.activations import WORD_TOKENS
from fnsft.artifacts.graphs import LayerGraph
from fnsft.neurons.bits import Bits
from fnsft.neurons.heaviest import Heaviest
from fnsft.neurons.projection import Normalisation, as_graph, mass_of
from fnsft.neurons.unpacking import unpacked

GROUP_TOKENS = 32_768  # whose bits lie together on the device
CHUNK_TOKENS = 16_384  # K: a shorter product is slower to add up, a longer one rounds more
BLOCK_ROWS = 2_048  # of one product
PANEL_BYTES = 1 << 30  # all of G up to N = 16,384
RESIDENT_BYTES = 16 << 30  # bits that stay on the device; more are read anew for every panel
LEVEL_ORDERS = 40  # binary orders of weights under one scale
LARGEST_ROOT = 2.0**7  # the smallest is 2^20 times smaller, which float16 still has in full


@dataclass(frozen=True)
class Group:
    """Bits of the tokens from ``first`` on, uint8 [N, tokens / 8]."""

    first: int
    octets: Tensor


@dataclass(frozen=True)
class Chunk:
    """Tokens of one group, int32 [K], and a value of each, [K], in units of ``unit``."""

    octets: Tensor
    tokens: Tensor
    values: Tensor
    unit: float


@dataclass(eq=False)
class DeviceLayer:
    """One layer's bits on a device; a :class:`fnsft.neurons.projection.Projector`.

    Notes
    -----
    With exact float64 sums as the measure, no weight of the graph is off by more than a factor
    of 1 ± (2^−10 + (K + T/K) · 2^−23): √w rounds to float16 twice, and float32 sums of K and
    then of T/K terms, none negative, round at every term at worst. That is 3e−3 with K = 16,384
    and 800,000 tokens, a tenth of the words' spread on the CPU. Rounding differs by device, the
    order of equal float32 weights does not: the lower index comes first.

    Memory of the device: N · T / 8 bytes of bits, at most ``RESIDENT_BYTES`` of them (beyond,
    one group's at a time), ``PANEL_BYTES`` of G (or 8 KiB · N of a block, where that is more)
    and as much again while its neighbours are sought, 2 N · K of unpacked bits, and 16 N · k.
    """

    bits: Bits
    device: torch.device
    _kept: list[Group] = field(default_factory=list)

    def sizes(self) -> np.ndarray:
        """Return |E(x)| of every token, [T] int64."""
        sizes = np.zeros(self.bits.n_tokens, dtype=np.int64)
        for group in self._groups():
            n_tokens = min(8 * group.octets.shape[1], self.bits.n_tokens - group.first)
            for start in range(0, n_tokens, CHUNK_TOKENS):
                stop = min(start + CHUNK_TOKENS, n_tokens)
                tokens = torch.arange(start, stop, dtype=torch.int32, device=self.device)
                ones = torch.ones(stop - start, dtype=torch.float16, device=self.device)
                counts = unpacked(group.octets, tokens, ones).sum(dim=0, dtype=torch.float32)
                sizes[group.first + start : group.first + stop] = counts.cpu().numpy()
        return sizes

    def project(
        self,
        sizes: np.ndarray,
        weights: np.ndarray,
        k_max: int,
        normalise: Normalisation = "none",
        dense: np.ndarray | None = None,
    ) -> LayerGraph:
        """Project the layer; see :func:`fnsft.neurons.projection.project_layer`."""
        n_neurons = self.bits.n_neurons
        factors = self._factors(mass_of(normalise, sizes, weights))
        heaviest = Heaviest(n_neurons, min(k_max, n_neurons), self.device)
        n_rows = max(PANEL_BYTES // (4 * n_neurons), min(BLOCK_ROWS, n_neurons))
        for first in range(0, n_neurons, n_rows):
            stop = min(first + n_rows, n_neurons)
            panel = self._panel(weights, first, stop)
            if factors is not None:
                panel.mul_(factors[first:stop, None]).mul_(factors[None, first:])
            panel.diagonal().zero_()
            heaviest.offer(slice(first, stop), panel, first)
            if stop < n_neurons:
                heaviest.offer(slice(stop, n_neurons), panel[:, stop - first :].T, first)
            if dense is not None:
                dense[first:stop, first:] = block = panel.cpu().numpy()
                dense[stop:, first:stop] = block[:, stop - first :].T
        return as_graph(*heaviest.found())

    def _panel(self, weights: np.ndarray, first: int, stop: int) -> Tensor:
        """Return rows ``first`` to ``stop`` of G from column ``first`` on, float32 [R, N − first].

        Blocks on and above the diagonal are multiplied, those below are their mirror images.
        """
        n_rows = stop - first
        panel = torch.zeros((n_rows, self.bits.n_neurons - first), device=self.device)
        blocks = [slice(a, min(a + BLOCK_ROWS, n_rows)) for a in range(0, n_rows, BLOCK_ROWS)]
        for chunk in self._scaled_roots(weights):
            roots = unpacked(chunk.octets[first:], chunk.tokens, chunk.values)  # [N − first, K]
            for block in blocks:
                product = _product(roots[block], roots[block.start :])
                panel[block, block.start :].add_(product, alpha=chunk.unit)
        for block in blocks:
            square = panel[block, block]
            square.copy_(square.triu() + square.triu(1).T)
            panel[block.stop :, block].copy_(panel[block, block.stop : n_rows].T)
        return panel

    def _factors(self, token_mass: np.ndarray | None) -> Tensor | None:
        """Return 1 / √m of every neuron, m the mass of its tokens, or 1 for none, [N] float32."""
        if token_mass is None:
            return None
        peak = max(float(token_mass.max()), np.finfo(float).tiny)
        mass = torch.zeros(self.bits.n_neurons, dtype=torch.float64)
        parts = (token_mass / peak).astype(np.float32)
        for chunk in self._chunks(parts, np.where(parts > 0, 0, -1), (1.0,)):
            mass += unpacked(chunk.octets, chunk.tokens, chunk.values).sum(dim=1).cpu().double()
        roots = (mass * peak).sqrt()
        return torch.where(roots > 0, 1 / roots, 1.0).float().to(self.device)

    def _scaled_roots(self, weights: np.ndarray) -> Iterator[Chunk]:
        """Yield the tokens of every group with their √w, float16, in units of their level's."""
        exponent = int(np.frexp(weights.max(initial=0))[1])
        used = weights > 0
        levels = np.full(len(weights), -1)
        levels[used] = (exponent - np.log2(weights[used])) // LEVEL_ORDERS
        # Powers of 2, so that no scale rounds.
        tops = np.ldexp(1.0, exponent - LEVEL_ORDERS * np.arange(levels.max(initial=-1) + 1))
        roots = np.zeros(len(weights), dtype=np.float16)
        roots[used] = np.sqrt(weights[used] / tops[levels[used]]) * LARGEST_ROOT
        yield from self._chunks(roots, levels, tuple(tops / LARGEST_ROOT**2))

    def _chunks(
        self, values: np.ndarray, levels: np.ndarray, units: tuple[float, ...]
    ) -> Iterator[Chunk]:
        """Yield the tokens of each group and level, at most K at a time, and their values [T]."""
        for group in self._groups():
            inside = slice(group.first, group.first + 8 * group.octets.shape[1])
            for level, unit in enumerate(units):
                tokens = np.flatnonzero(levels[inside] == level)
                for part in np.array_split(tokens, -(-len(tokens) // CHUNK_TOKENS) or 1):
                    if len(part):
                        yield self._chunk(group.octets, part, values[inside][part], unit)

    def _chunk(self, octets: Tensor, tokens: np.ndarray, values: np.ndarray, unit: float) -> Chunk:
        """Pad with values of 0 to whole words, the lengths for which matrix units are built."""
        padding = (0, -len(tokens) % WORD_TOKENS)
        places, padded = np.pad(tokens.astype(np.int32), padding), np.pad(values, padding)
        return Chunk(
            octets,
            torch.from_numpy(places).to(self.device),
            torch.from_numpy(padded).to(self.device),
            unit,
        )

    def _groups(self) -> Iterator[Group]:
        """Yield the layer's bits; they stay on the device when they have been read once and fit."""
        if self._kept:
            yield from self._kept
            return
        n_bytes = self.bits.n_neurons * -(-self.bits.n_tokens // WORD_TOKENS) * 8
        read = []
        for group in self._read_groups():
            if n_bytes <= RESIDENT_BYTES:
                read.append(group)
            yield group
        self._kept = read

    def _read_groups(self) -> Iterator[Group]:
        blocks: list[Tensor] = []
        first = n_tokens = 0
        for words in self.bits.rows(0, self.bits.n_neurons):
            octets = np.ascontiguousarray(words, dtype="<u8").view(np.uint8)
            blocks.append(torch.from_numpy(octets).to(self.device))
            n_tokens += 8 * octets.shape[1]
            if n_tokens >= GROUP_TOKENS:
                yield Group(first, torch.cat(blocks, dim=1))
                first, n_tokens, blocks = first + n_tokens, 0, []
        if blocks:
            yield Group(first, torch.cat(blocks, dim=1))


def _product(rows: Tensor, columns: Tensor) -> Tensor:
    """Return rows [R, K] times columns [C, K], float16, in float32 [R, C]."""
    if rows.is_cuda:
        return torch.mm(rows, columns.T, out_dtype=torch.float32)
    return rows.float() @ columns.float().T
