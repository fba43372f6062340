"""The passes of the radix selection for CPU tensors: one thread, no scratch but the mask.

At 58.7M float32 entries a pass reads 235 MB; the hash is computed only for entries that
tie at the score's threshold. The kernels are not cached on disk: numba does not notice
that an imported function (the hash) has changed, and fails where no folder is writable.
"""

import numba
import numpy as np
import torch

from fnsft.masks.hashing import hash_of_index
from fnsft.masks.radix import ANY_HASH, BINS, SCORE_DIGITS, Keys, Threshold, hash_shift

_NO_BITS = np.empty(0, dtype=np.int32)


def histogram(keys: Keys, digit: int, threshold: Threshold) -> np.ndarray:
    """Count the entries by one digit among those that agree with the threshold so far."""
    counts = np.zeros(BINS, dtype=np.int64)
    if digit == 0:
        _count_high(_bits(keys), counts)
    elif digit < SCORE_DIGITS:
        _count_low(_bits(keys), np.int32(threshold.score >> 16), counts)
    else:
        _count_hash(*_arguments(keys, threshold), np.uint64(hash_shift(digit)), counts)
    return counts


def taken(keys: Keys, threshold: Threshold) -> torch.Tensor:
    """Return the mask, bool [size], of the entries that the threshold takes."""
    mask = torch.empty(keys.size, dtype=torch.bool)
    if threshold.hash == ANY_HASH:
        _write_scores(_bits(keys), np.int32(threshold.score), mask.numpy())
    else:
        _write(*_arguments(keys, threshold), mask.numpy())
    return mask


def _bits(keys: Keys) -> np.ndarray:
    return _NO_BITS if keys.bits is None else keys.bits.numpy()


def _arguments(keys: Keys, threshold: Threshold) -> tuple:
    seed, offset = np.uint64(keys.seed & ANY_HASH), np.uint64(keys.offset)
    return (
        _bits(keys),
        keys.size,
        np.int32(threshold.score),
        seed,
        offset,
        np.uint64(threshold.hash),
    )


@numba.njit
def _count_high(bits: np.ndarray, counts: np.ndarray) -> None:
    for i in range(bits.size):
        counts[np.uint32(bits[i]) >> np.uint32(16)] += 1


@numba.njit
def _count_low(bits: np.ndarray, high: np.int32, counts: np.ndarray) -> None:
    for i in range(bits.size):
        if bits[i] >> 16 == high:
            counts[bits[i] & 0xFFFF] += 1


@numba.njit
def _count_hash(
    bits: np.ndarray,
    size: int,
    score: np.int32,
    seed: np.uint64,
    offset: np.uint64,
    limit: np.uint64,
    shift: np.uint64,
    counts: np.ndarray,
) -> None:
    # A shift of 64 is undefined: two shifts for the digits above this one.
    half, low = np.uint64(8), np.uint64(0xFFFF)
    fixed = limit >> shift >> half >> half
    for i in range(size):
        if bits.size == 0 or bits[i] == score:
            word = hash_of_index(seed, offset + np.uint64(i)) >> shift
            if shift == np.uint64(48) or word >> half >> half == fixed:
                counts[word & low] += 1


@numba.njit
def _write_scores(bits: np.ndarray, score: np.int32, mask: np.ndarray) -> None:
    for i in range(bits.size):
        mask[i] = bits[i] >= score


@numba.njit
def _write(
    bits: np.ndarray,
    size: int,
    score: np.int32,
    seed: np.uint64,
    offset: np.uint64,
    limit: np.uint64,
    mask: np.ndarray,
) -> None:
    for i in range(size):
        if bits.size == 0 or bits[i] == score:
            mask[i] = hash_of_index(seed, offset + np.uint64(i)) <= limit
        else:
            mask[i] = bits[i] > score
