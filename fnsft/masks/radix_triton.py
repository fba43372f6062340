"""The radix selection by Triton's kernels (:mod:`.radix_kernels`), for CUDA devices.

Bit for bit the same masks as :mod:`fnsft.masks.radix_numba`, by other digits: a GPU counts
quickly what fits registers (256 bins) or what is rare. The first digit of a score is its exponent,
8 bits, and all entries are counted by it, a tile at a time in registers. Later digits have up to
12 bits and concern the entries of one bin alone; these are counted by atomic additions. Hashes
go the same way, from the first digit on only where scores tie.

The hash is complemented, so that of both words the larger is preferred. The search's state stays
on the device: the host reads it once behind the score's digits and, where scores tie at the
boundary, once behind each of the hash's.

n float32 scores are read four times (4 n bytes each): by exponent, twice by mantissa, and for
the mask. :mod:`.score_triton` counts the exponents itself, and ties cost a pass a digit: one
where they are few. Scratch is the mask and 32 KiB.
"""

from dataclasses import dataclass
from typing import Any

import torch
import triton

from fnsft.masks.hashing import signed
from fnsft.masks.kernels import launch
from fnsft.masks.radix import ANY_HASH, Keys, Threshold, entries_of
from fnsft.masks.radix_kernels import count_digit, descend, take
from fnsft.masks.shards import Shard

# 16 entries a thread: four independent 16-byte loads, enough of them in flight to hide memory.
_BLOCK, _WARPS = 4096, 8


@dataclass(frozen=True)
class _Digit:
    """``width`` bits from ``shift`` on, of a score's pattern or of a complemented hash."""

    of_hash: bool
    shift: int
    width: int


_SCORE = (_Digit(False, 23, 8), _Digit(False, 11, 12), _Digit(False, 0, 11))
_HASH = (_Digit(True, 56, 8), *(_Digit(True, s, 12) for s in (44, 32, 20, 8)), _Digit(True, 0, 8))


def search(keys: Keys, count: int, shard: Shard | None) -> Threshold | None:
    """Return the threshold that takes exactly ``count`` entries of all shards.

    None if a score is not a finite number ≥ 0. The keys' ``exponents``, int64 [256], are a
    histogram of :func:`~.radix_kernels.exponents_of` these entries, or of others, as long as
    those of all processes together are the whole's.
    """
    needless = count in (0, entries_of(keys, shard))
    if needless and keys.bits is None:
        return Threshold()
    digits = _digits(keys)
    state = torch.empty(5, dtype=torch.int64, device=keys.device)
    for number, digit in enumerate(digits):
        first = number == 0
        known = keys.exponents if first else None
        counts = _counts(keys, digit, state) if known is None else known
        if shard is not None:
            counts = shard.total(counts)
        launch(
            descend,
            (1,),
            keys.device,
            counts,
            state,
            count,
            FIRST=first,
            OF_HASH=digit.of_hash,
            SHIFT=digit.shift,
            BINS=counts.numel(),
            num_warps=8,
        )
        if digits[number + 1 :] and not digits[number + 1].of_hash and not needless:
            continue
        score, word, needed, here, invalid = state.tolist()
        if invalid:
            return None
        if needless:
            return Threshold()
        if needed == here:
            return Threshold(score, ~word & ANY_HASH)
    raise AssertionError("two entries share a key, or fewer than count entries were counted")


def taken(keys: Keys, threshold: Threshold) -> torch.Tensor:
    """Return the mask, bool [size], of the entries that the threshold takes."""
    mask = torch.empty(keys.size, dtype=torch.bool, device=keys.device)
    _launch(
        take,
        keys,
        mask.view(torch.uint8),
        threshold.score,
        signed(~threshold.hash),
        TIES=threshold.hash != ANY_HASH,
    )
    return mask


def _digits(keys: Keys) -> tuple[_Digit, ...]:
    if keys.bits is None:
        return _HASH
    # The 16 bits of a bfloat16 end within the second digit.
    return (*(_SCORE if keys.bits.itemsize == 4 else _SCORE[:2]), *_HASH)


def _counts(keys: Keys, digit: _Digit, state: torch.Tensor) -> torch.Tensor:
    """Count the entries by one digit among those that agree with the state so far."""
    counts = torch.zeros(1 << digit.width, dtype=torch.int64, device=keys.device)
    constants = {"OF_HASH": digit.of_hash, "SHIFT": digit.shift, "WIDTH": digit.width}
    _launch(count_digit, keys, counts, state, **constants)
    return counts


def _launch(kernel: Any, keys: Keys, out: torch.Tensor, *arguments: Any, **constants: Any) -> None:
    bits = out if keys.bits is None else keys.bits
    scored = {"SCORED": keys.bits is not None, "NARROW": bits.itemsize == 2, "BLOCK": _BLOCK}
    grid, of_hash = (triton.cdiv(keys.size, _BLOCK),), (signed(keys.seed), keys.offset)
    positional = (bits, out, *arguments, keys.size, *of_hash)
    launch(kernel, grid, keys.device, *positional, **constants, **scored, num_warps=_WARPS)
