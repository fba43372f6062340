"""A stateless hash of (seed, index): random numbers that no sharding can change.

The hash is SplitMix64 (Steele, Lea and Flood 2014) read at one position of its stream,

    h(seed, i) = mix(seed + (i + 1) · γ   mod 2⁶⁴),

where i is the global row-major index of an entry. For one seed it is a bijection of i, so
two entries of a matrix never share a hash: what is ordered by it has no ties.
"""

import torch

GAMMA = 0x9E3779B97F4A7C15
MULTIPLIER_1 = 0xBF58476D1CE4E5B9
MULTIPLIER_2 = 0x94D049BB133111EB
_WORD = (1 << 64) - 1


def mixed_seed(seed: int, step: int, matrix: int) -> int:
    """Fold run seed, optimizer step and matrix index to one seed in [0, 2⁶⁴)."""
    state = 0
    for value in (seed, step, matrix):
        state = _mix(((state ^ (value & _WORD)) + GAMMA) & _WORD)
    return state


def _mix(word: int) -> int:
    word = ((word ^ (word >> 30)) * MULTIPLIER_1) & _WORD
    word = ((word ^ (word >> 27)) * MULTIPLIER_2) & _WORD
    return word ^ (word >> 31)


def hash_of_indices(seed: int, indices: torch.Tensor) -> torch.Tensor:
    """Hash int64 indices of any shape; the result holds the 64 bits of the hash as int64."""
    word = (indices + 1).mul_(signed(GAMMA)).add_(signed(seed))
    word = (word ^ shifted_right(word, 30)).mul_(signed(MULTIPLIER_1))
    word = (word ^ shifted_right(word, 27)).mul_(signed(MULTIPLIER_2))
    return word ^ shifted_right(word, 31)


def shifted_right(words: torch.Tensor, bits: int) -> torch.Tensor:
    """Shift int64 words as if they were unsigned; torch's ``>>`` drags the sign along."""
    return (words >> bits) & ((1 << (64 - bits)) - 1) if bits else words


def signed(word: int) -> int:
    """Return the int64 that has the low 64 bits of ``word``."""
    return ((word & _WORD) ^ (1 << 63)) - (1 << 63)
