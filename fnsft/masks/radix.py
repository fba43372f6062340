"""The k largest of many keys, found digit by digit from histograms.

Every entry of a matrix has a 96-bit key of six 16-bit digits: two of its score (the bit
pattern of a non-negative float32 orders as the number does; that of a bfloat16 is its first
half, and the rest is zero), then four of its hash, of which the smaller is preferred. No two
entries share a key. One pass counts the entries by one digit, among those that agree with the
boundary so far; the boundary falls in one bin; the next pass looks into that bin alone and the
search ends when a bin is taken whole. Histograms of shards add up, so that a sharded matrix
gives the same threshold.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from fnsft.masks.shards import Shard

SCORE_DIGITS = 2
DIGITS = 6
BINS = 1 << 16
ANY_HASH = (1 << 64) - 1
_INFINITY_DIGIT = 0x7F80  # high half of float32's infinity; above it NaN, then the sign bit


@dataclass(frozen=True)
class Keys:
    """The entries of one matrix, or of one contiguous shard of it.

    ``bits`` is the score's bit pattern, int32 or (bfloat16) int16 [size], contiguous; None
    means that all scores are zero, so that the hash alone decides. ``offset`` is the global
    row-major index of the first entry. ``exponents`` is what :mod:`.score_triton` has counted.
    """

    bits: torch.Tensor | None
    size: int
    seed: int
    offset: int
    device: torch.device
    exponents: torch.Tensor | None = None

    @property
    def digits(self) -> Sequence[int]:
        """The digits by which entries can differ, the first one first."""
        if self.bits is None:
            return range(SCORE_DIGITS, DIGITS)
        return [digit for digit in range(DIGITS) if digit != 1 or self.low_bits]

    @property
    def low_bits(self) -> int:
        """How many of ``bits`` lie below the first digit."""
        return 0 if self.bits is None else 8 * self.bits.itemsize - 16

    def pattern(self, threshold: "Threshold") -> int:
        """Return the threshold's score as one of ``bits``."""
        return threshold.score >> (16 - self.low_bits)


@dataclass(frozen=True)
class Threshold:
    """An entry is taken if bits > ``score``, or bits = ``score`` and its hash ≤ ``hash``.

    ``score`` is a float32's pattern, ``hash`` is unsigned. While the search runs, the digits
    that it has fixed are the leading ones and the rest is such that the whole bin is taken.
    """

    score: int = 0
    hash: int = ANY_HASH


Histogram = Callable[[int, Threshold], np.ndarray]


def entries_of(keys: Keys, shard: Shard | None) -> int:
    """Return how many entries the whole has of which ``keys`` are the shard's."""
    return keys.size if shard is None else math.prod(shard.shape)


def search(
    histogram: Callable[[Keys, int, Threshold], np.ndarray],
    keys: Keys,
    count: int,
    shard: Shard | None,
) -> Threshold | None:
    """Return the threshold that takes exactly ``count`` entries of all shards.

    None if a score is not finite and non-negative, −0.0 included. ``histogram`` counts this
    process's keys.
    """

    def total(digit: int, threshold: Threshold) -> np.ndarray:
        counts = histogram(keys, digit, threshold)
        return counts if shard is None else shard.sum(counts, keys.device)

    first = None if keys.bits is None else total(0, Threshold())
    if first is not None and first[_INFINITY_DIGIT:].any():
        return None
    if count in (0, entries_of(keys, shard)):
        return Threshold()

    def counted(digit: int, threshold: Threshold) -> np.ndarray:
        return first if digit == 0 and first is not None else total(digit, threshold)

    return find_threshold(counted, count, keys.digits)


def find_threshold(histogram: Histogram, count: int, digits: Sequence[int]) -> Threshold:
    """Return the threshold that takes exactly ``count`` ≥ 1 entries.

    ``digits`` are those of the keys. ``histogram(digit, threshold)`` counts the entries by one
    digit, int64 [65536], among those whose earlier digits equal the threshold's.
    """
    threshold = Threshold()
    for digit in digits:
        counts = histogram(digit, threshold)
        large_first = digit < SCORE_DIGITS
        taken = np.cumsum(counts[::-1] if large_first else counts)
        position = int(np.searchsorted(taken, count))
        value = BINS - 1 - position if large_first else position
        threshold = _with_digit(threshold, digit, value)
        if taken[position] == count:
            return threshold
        count -= int(taken[position - 1]) if position else 0
    raise AssertionError("two entries share a key, or fewer than count entries were counted")


def _with_digit(threshold: Threshold, digit: int, value: int) -> Threshold:
    if digit < SCORE_DIGITS:
        return Threshold(score=threshold.score | value << (16 if digit == 0 else 0))
    shift = hash_shift(digit)
    cleared = threshold.hash & ~((BINS - 1) << shift)
    return Threshold(threshold.score, cleared | value << shift)


def hash_shift(digit: int) -> int:
    """Return by how many bits the hash is shifted right to have ``digit`` lowest."""
    return 16 * (DIGITS - 1 - digit)
