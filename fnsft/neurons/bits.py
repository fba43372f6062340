"""Bits of activated neurons, turned from neuron-major to token-major and back, sorted.

Both ways go through 64 × 64 bit squares, which are transposed in registers: moving single
bits would cost more than the projection that the sorting is for.

Shapes: N neurons of a layer, n = ``STRIP`` of them at a time, C = ceil(n / 64) words of 64
neurons, T tokens (padded to whole words), W words of 64 tokens of a block, Q sorted words.
"""

from collections.abc import Iterator
from typing import Protocol

import numba
import numpy as np

from fnsft.artifacts.activations import WORD_TOKENS
from fnsft.compilation import kernel

STRIP = 512


class Bits(Protocol):
    """One layer's bits, such as :class:`fnsft.artifacts.activations.LayerBits`."""

    @property
    def n_neurons(self) -> int:
        """N."""

    @property
    def n_tokens(self) -> int:
        """T."""

    def rows(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """Yield neurons ``start`` to ``stop`` of block after block, [stop − start, W] uint64."""


def strips(bits: Bits) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield slices of neurons and their bits token-major, [T, C] uint64.

    Bit b of ``[t, c]`` is neuron 64 c + b of the strip. Memory: T · n / 8 bytes, and a block.
    """
    n_words = -(-bits.n_tokens // WORD_TOKENS)
    for start in range(0, bits.n_neurons, STRIP):
        neurons = slice(start, min(start + STRIP, bits.n_neurons))
        columns = -(-(neurons.stop - start) // WORD_TOKENS)
        token_major = np.zeros((n_words * WORD_TOKENS, columns), dtype=np.uint64)
        first = 0
        for block in bits.rows(neurons.start, neurons.stop):
            stop = first + WORD_TOKENS * block.shape[1]
            _to_token_major(np.ascontiguousarray(block), token_major[first:stop])
            first = stop
        yield neurons, token_major


def hyperedge_sizes(bits: Bits) -> np.ndarray:
    """Return |E(x)| of every token, [T] int64; reads the layer once."""
    sizes = np.zeros(-(-bits.n_tokens // WORD_TOKENS) * WORD_TOKENS, dtype=np.int64)
    for _, token_major in strips(bits):
        sizes += np.bitwise_count(token_major).sum(axis=1, dtype=np.int64)
    return sizes[: bits.n_tokens]


def neuron_sums(token_major: np.ndarray, values: np.ndarray, n_neurons: int) -> np.ndarray:
    """Sum ``values`` [≤ T] float64 over the tokens that activate each neuron, [n] float64."""
    sums = np.zeros(token_major.shape[1] * WORD_TOKENS)
    _sum_by_neuron(token_major, values, sums)
    return sums[:n_neurons]


@kernel()
def _transpose(square: np.ndarray) -> None:
    """Transpose 64 × 64 bits in place: halves of 32 change places, then of 16, and so on."""
    mask, width = np.uint64(0x00000000FFFFFFFF), 32
    while width:
        shift = np.uint64(width)
        for first in range(0, 64, 2 * width):
            for k in range(first, first + width):
                low, high = square[k], square[k + width]
                moved = ((low >> shift) ^ high) & mask
                square[k + width] = high ^ moved
                square[k] = low ^ (moved << shift)
        width >>= 1
        mask ^= mask << np.uint64(width)


@kernel(parallel=True)
def _to_token_major(block: np.ndarray, out: np.ndarray) -> None:
    n, n_words = block.shape
    for word in numba.prange(n_words):
        square = np.empty(64, dtype=np.uint64)
        for column in range(out.shape[1]):
            first = 64 * column
            present = min(64, n - first)
            for b in range(present):
                square[b] = block[first + b, word]
            square[present:] = 0
            _transpose(square)
            for b in range(64):
                out[64 * word + b, column] = square[b]


@kernel(parallel=True)
def sorted_words(
    token_major: np.ndarray, order: np.ndarray, starts: np.ndarray, out: np.ndarray
) -> None:
    """Gather tokens, [T, C], to neuron-major words: ``out`` [n, Q] uint64 is written over.

    Bit b of ``out[i, q]`` is token ``order[starts[q] + b]``; bits behind the last are 0.
    """
    n, n_words = out.shape
    columns = token_major.shape[1]
    # Eight words fill a line of the cache, which no other thread should write to.
    for eight in numba.prange((n_words + 7) // 8):
        squares = np.empty((columns, 64), dtype=np.uint64)
        for word in range(8 * eight, min(8 * eight + 8, n_words)):
            first = starts[word]
            present = starts[word + 1] - first
            for b in range(present):
                token = order[first + b]
                for column in range(columns):
                    squares[column, b] = token_major[token, column]
            squares[:, present:] = 0
            for column in range(columns):
                _transpose(squares[column])
                for b in range(min(64, n - 64 * column)):
                    out[64 * column + b, word] = squares[column, b]


@kernel(parallel=True)
def _sum_by_neuron(token_major: np.ndarray, values: np.ndarray, sums: np.ndarray) -> None:
    for column in numba.prange(token_major.shape[1]):
        for token in range(values.size):
            word, value, bit = token_major[token, column], values[token], 64 * column
            while word:
                if word & np.uint64(1):
                    sums[bit] += value
                word >>= np.uint64(1)
                bit += 1
