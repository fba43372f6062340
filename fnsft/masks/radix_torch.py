"""The passes of the radix selection in plain torch, for tensors of any device.

Bit for bit the same masks as :mod:`fnsft.masks.radix_numba`. Scratch: up to 16 bytes an
entry for the first pass, and 24 an entry that ties at the score's threshold.
"""

import numpy as np
import torch

from fnsft.masks.hashing import hash_of_indices, shifted_right, signed
from fnsft.masks.radix import ANY_HASH, BINS, SCORE_DIGITS, Keys, Threshold, hash_shift
from fnsft.masks.radix import search as search_digits
from fnsft.masks.shards import Shard


def search(keys: Keys, count: int, shard: Shard | None) -> Threshold | None:
    """Return the threshold of ``count`` entries of all shards; see :func:`.radix.search`."""
    return search_digits(histogram, keys, count, shard)


def histogram(keys: Keys, digit: int, threshold: Threshold) -> np.ndarray:
    """Count the entries by one digit among those that agree with the threshold so far."""
    if digit < SCORE_DIGITS:
        assert keys.bits is not None
        high = (keys.bits.int() >> keys.low_bits) & 0xFFFF
        values = high if digit == 0 else keys.bits[high == threshold.score >> 16] & 0xFFFF
    else:
        shift = hash_shift(digit)
        words = shifted_right(_hashes(keys, _tied(keys, threshold)), shift)
        within = shifted_right(words, 16) == threshold.hash >> shift >> 16
        values = words[within] & 0xFFFF
    return torch.bincount(values, minlength=BINS).cpu().numpy()


def taken(keys: Keys, threshold: Threshold) -> torch.Tensor:
    """Return the mask, bool [size], of the entries that the threshold takes."""
    if keys.bits is None:
        mask = torch.zeros(keys.size, dtype=torch.bool, device=keys.device)
    elif threshold.hash == ANY_HASH:
        return keys.bits >= keys.pattern(threshold)
    else:
        mask = keys.bits > keys.pattern(threshold)
    tied = _tied(keys, threshold)
    # Flipping the highest bit makes the signed comparison an unsigned one.
    highest = 1 << 63
    mask[tied] = (_hashes(keys, tied) ^ signed(highest)) <= signed(threshold.hash ^ highest)
    return mask


def _hashes(keys: Keys, indices: torch.Tensor) -> torch.Tensor:
    return hash_of_indices(keys.seed, indices + keys.offset)


def _tied(keys: Keys, threshold: Threshold) -> torch.Tensor:
    """Return the local indices, int64, of the entries whose score is the threshold's."""
    if keys.bits is None:
        return torch.arange(keys.size, device=keys.device)
    return (keys.bits == keys.pattern(threshold)).nonzero().squeeze(1)
