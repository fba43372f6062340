"""The passes of the radix selection for CPU tensors: one thread, no scratch but the mask.

At 58.7M float32 entries a pass reads 235 MB; the hash is computed only for entries that
tie at the score's threshold.

Few entries belong to the bin, or to the score, on which a pass looks: whole blocks are
passed over, because one comparison of a block is vectorised and its branches are not.
"""

import numpy as np
import torch

from fnsft.compilation import kernel
from fnsft.masks.hashing import GAMMA, MULTIPLIER_1, MULTIPLIER_2
from fnsft.masks.radix import ANY_HASH, BINS, SCORE_DIGITS, Keys, Threshold, hash_shift
from fnsft.masks.radix import search as search_digits
from fnsft.masks.shards import Shard

_BLOCK = 64
_NONE, _HALF = np.uint32(0), np.uint32(16)
_NO_BITS = np.empty(0, dtype=np.uint32)
# numba turns uint64 with a Python int into float64, so that every constant has its type.
_ONE, _GAMMA_U = np.uint64(1), np.uint64(GAMMA)
_MULTIPLIER_1_U, _MULTIPLIER_2_U = np.uint64(MULTIPLIER_1), np.uint64(MULTIPLIER_2)
_SHIFT_1, _SHIFT_2, _SHIFT_3 = np.uint64(30), np.uint64(27), np.uint64(31)


def search(keys: Keys, count: int, shard: Shard | None) -> Threshold | None:
    """Return the threshold of ``count`` entries of all shards; see :func:`.radix.search`."""
    return search_digits(histogram, keys, count, shard)


def histogram(keys: Keys, digit: int, threshold: Threshold) -> np.ndarray:
    """Count the entries by one digit among those that agree with the threshold so far."""
    counts = np.zeros(BINS, dtype=np.int64)
    if digit == 0:
        _count_high(_bits(keys), np.uint32(keys.low_bits), counts)
    elif digit < SCORE_DIGITS:
        _count_low(_bits(keys), np.uint32(threshold.score >> 16), counts)
    else:
        _count_hash(*_arguments(keys, threshold), np.uint64(hash_shift(digit)), counts)
    return counts


def taken(keys: Keys, threshold: Threshold) -> torch.Tensor:
    """Return the mask, bool [size], of the entries that the threshold takes."""
    # NumPy asks for huge pages: without them the page faults of a new mask cost more than
    # all comparisons.
    mask = np.empty(keys.size, dtype=np.bool_)
    if threshold.hash == ANY_HASH:
        np.greater_equal(_bits(keys), keys.pattern(threshold), out=mask)
    else:
        if keys.bits is not None:
            np.greater(_bits(keys), keys.pattern(threshold), out=mask)
        _add_ties(*_arguments(keys, threshold), mask)
    return torch.from_numpy(mask)


def _bits(keys: Keys) -> np.ndarray:
    """Return the patterns as unsigned integers of their width, which order alike."""
    if keys.bits is None:
        return _NO_BITS
    bits = keys.bits.numpy()
    return bits.view(f"u{bits.itemsize}")


def _arguments(keys: Keys, threshold: Threshold) -> tuple:
    seed, offset = np.uint64(keys.seed & ANY_HASH), np.uint64(keys.offset)
    score, limit = np.uint32(keys.pattern(threshold)), np.uint64(threshold.hash)
    return _bits(keys), keys.size, score, seed, offset, limit


@kernel()
def hash_of_index(seed: np.uint64, index: np.uint64) -> np.uint64:
    """Hash one index (:mod:`.hashing`); both arguments are uint64."""
    word = seed + (index + _ONE) * _GAMMA_U
    word = (word ^ (word >> _SHIFT_1)) * _MULTIPLIER_1_U
    word = (word ^ (word >> _SHIFT_2)) * _MULTIPLIER_2_U
    return word ^ (word >> _SHIFT_3)


@kernel()
def _meets(block: np.ndarray, shift: np.uint32, value: np.uint32) -> bool:
    """Tell whether an entry, shifted right, is ``value``."""
    found = False
    for i in range(block.size):
        found |= block[i] >> shift == value
    return found


@kernel()
def _count_high(bits: np.ndarray, low_bits: np.uint32, counts: np.ndarray) -> None:
    for i in range(bits.size):
        counts[np.uint32(bits[i]) >> low_bits] += 1


@kernel()
def _count_low(bits: np.ndarray, high: np.uint32, counts: np.ndarray) -> None:
    for start in range(0, bits.size, _BLOCK):
        block = bits[start : start + _BLOCK]
        if _meets(block, _HALF, high):
            for i in range(block.size):
                if block[i] >> _HALF == high:
                    counts[np.uint16(block[i])] += 1


@kernel()
def _count_hash(
    bits: np.ndarray,
    size: int,
    score: np.uint32,
    seed: np.uint64,
    offset: np.uint64,
    limit: np.uint64,
    shift: np.uint64,
    counts: np.ndarray,
) -> None:
    # A shift of 64 is undefined: two shifts for the digits above this one.
    half = np.uint64(8)
    fixed = limit >> shift >> half >> half
    for start in range(0, size, _BLOCK):
        block = bits[start : start + _BLOCK]
        if block.size == 0 or _meets(block, _NONE, score):
            for i in range(min(size - start, _BLOCK)):
                if block.size == 0 or block[i] == score:
                    word = hash_of_index(seed, offset + np.uint64(start + i)) >> shift
                    if shift == np.uint64(48) or word >> half >> half == fixed:
                        counts[np.uint16(word)] += 1


@kernel()
def _add_ties(
    bits: np.ndarray,
    size: int,
    score: np.uint32,
    seed: np.uint64,
    offset: np.uint64,
    limit: np.uint64,
    mask: np.ndarray,
) -> None:
    for start in range(0, size, _BLOCK):
        block = bits[start : start + _BLOCK]
        if block.size == 0 or _meets(block, _NONE, score):
            for i in range(min(size - start, _BLOCK)):
                if block.size == 0 or block[i] == score:
                    word = hash_of_index(seed, offset + np.uint64(start + i))
                    mask[start + i] = word <= limit
