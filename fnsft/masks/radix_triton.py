"""The passes of the radix selection as Triton kernels, for CUDA devices.

Bit for bit the same masks as :mod:`fnsft.masks.radix_numba`, by other digits: a GPU counts
quickly what fits registers (256 bins) or what is rare. The first digit of a score is its exponent,
8 bits, and all entries are counted by it, a tile at a time in registers. Later digits have up to
12 bits and concern entries of one bin alone, a few in a hundred; these are counted by atomic
additions. Hashes go the same way, from the first digit on only where scores tie.

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
import triton.language as tl

from fnsft.masks.hashing import GAMMA, MULTIPLIER_1, MULTIPLIER_2, signed
from fnsft.masks.kernels import launch
from fnsft.masks.radix import ANY_HASH, Keys, Threshold, entries_of
from fnsft.masks.shards import Shard

EXPONENTS = 256  # bins of the first digit; the last one is of what is no finite number ≥ 0

_EXPONENTS = tl.constexpr(EXPONENTS)
_EXPONENT_SHIFT = tl.constexpr(23)
_ANY_HASH = tl.constexpr(ANY_HASH)
_GAMMA, _MULTIPLIER_1 = tl.constexpr(GAMMA), tl.constexpr(MULTIPLIER_1)
_MULTIPLIER_2 = tl.constexpr(MULTIPLIER_2)

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
    histogram of :func:`exponents_of` these entries, or of others, as long as those of all
    processes together are the whole's.
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
            _descend,
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
        _take,
        keys,
        mask.view(torch.uint8),
        threshold.score,
        signed(~threshold.hash),
        TIES=threshold.hash != ANY_HASH,
    )
    return mask


def no_exponents(device: torch.device) -> torch.Tensor:
    """Return zeros, int64 [256], for :func:`add_tile` to add to."""
    return torch.zeros(EXPONENTS, dtype=torch.int64, device=device)


def _digits(keys: Keys) -> tuple[_Digit, ...]:
    if keys.bits is None:
        return _HASH
    # The 16 bits of a bfloat16 end within the second digit.
    return (*(_SCORE if keys.bits.itemsize == 4 else _SCORE[:2]), *_HASH)


def _counts(keys: Keys, digit: _Digit, state: torch.Tensor) -> torch.Tensor:
    """Count the entries by one digit among those that agree with the state so far."""
    counts = torch.zeros(1 << digit.width, dtype=torch.int64, device=keys.device)
    constants = {"OF_HASH": digit.of_hash, "SHIFT": digit.shift, "WIDTH": digit.width}
    _launch(_count, keys, counts, state, **constants)
    return counts


def _launch(kernel: Any, keys: Keys, out: torch.Tensor, *arguments: Any, **constants: Any) -> None:
    bits = out if keys.bits is None else keys.bits
    scored = {"SCORED": keys.bits is not None, "NARROW": bits.itemsize == 2, "BLOCK": _BLOCK}
    grid, of_hash = (triton.cdiv(keys.size, _BLOCK),), (signed(keys.seed), keys.offset)
    positional = (bits, out, *arguments, keys.size, *of_hash)
    launch(kernel, grid, keys.device, *positional, **constants, **scored, num_warps=_WARPS)


@triton.jit
def exponents_of(patterns: tl.tensor) -> tl.tensor:
    """Return the exponents of float32's patterns, both int32.

    That of an infinity, a NaN or a pattern with the sign bit is 255.
    """
    # As unsigned the sign bit is the highest, so that all of these lie above.
    found = patterns.to(tl.uint32, bitcast=True) >> _EXPONENT_SHIFT
    return tl.minimum(found, _EXPONENTS - 1).to(tl.int32)


@triton.jit
def add_tile(digits: tl.tensor, counts: tl.tensor) -> None:
    """Add a histogram of 256 bins, made in registers, whatever the values; −1 is not counted."""
    bins = tl.arange(0, _EXPONENTS)
    found = tl.histogram(digits, _EXPONENTS, mask=digits >= 0)
    tl.atomic_add(counts + bins, found.to(tl.int64), mask=found > 0, sem="relaxed")


@triton.jit
def _add_few(digits: tl.tensor, counts: tl.tensor) -> None:
    """Add one for each digit; one addition where all of them agree; −1 is not counted.

    Where all agree most entries tie, as zeros do, and would wait for each other at one address.
    """
    counted = digits >= 0
    lowest = tl.min(tl.where(counted, digits, 1 << 30))
    highest = tl.max(digits)
    if lowest == highest:
        tl.atomic_add(counts + highest, tl.sum(counted.to(tl.int64)), sem="relaxed")
    elif highest >= 0:
        one = tl.full(digits.shape, 1, tl.int64)
        tl.atomic_add(counts + digits, one, mask=counted, sem="relaxed")


@triton.jit
def _patterns(
    bits: tl.tensor, index: tl.tensor, inside: tl.tensor, NARROW: tl.constexpr
) -> tl.tensor:
    """Return float32's patterns as int32; that of −0.0 is 0.0's."""
    found = tl.load(bits + index, mask=inside, other=0).to(tl.int32)
    if NARROW:
        found = found << 16
    return tl.where(found == -(1 << 31), 0, found)


@triton.jit
def _words(index: tl.tensor, seed: tl.tensor, offset: tl.tensor) -> tl.tensor:
    """Return the complements of :func:`fnsft.masks.hashing.hash_of_index`, uint64."""
    word = seed.to(tl.uint64) + (index + offset + 1).to(tl.uint64) * _GAMMA
    word = (word ^ (word >> 30)) * _MULTIPLIER_1
    word = (word ^ (word >> 27)) * _MULTIPLIER_2
    return word ^ (word >> 31) ^ _ANY_HASH


@triton.jit(do_not_specialize=["seed", "offset"])
def _count(
    bits: tl.tensor,
    counts: tl.tensor,
    state: tl.tensor,
    size: tl.tensor,
    seed: tl.int64,
    offset: tl.int64,
    OF_HASH: tl.constexpr,
    SHIFT: tl.constexpr,
    WIDTH: tl.constexpr,
    SCORED: tl.constexpr,
    NARROW: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    counted = index < size
    BINS: tl.constexpr = 1 << WIDTH
    ABOVE: tl.constexpr = SHIFT + WIDTH
    if OF_HASH:
        if SCORED:
            counted &= _patterns(bits, index, counted, NARROW) == tl.load(state)
        if tl.max(counted.to(tl.int32)) > 0:
            words = _words(index, seed, offset)
            if ABOVE < 64:
                known = tl.load(state + 1).to(tl.uint64, bitcast=True)
                counted &= words >> ABOVE == known >> ABOVE
            digits = tl.where(counted, (words >> SHIFT).to(tl.int32) & (BINS - 1), -1)
            if WIDTH == 8:
                add_tile(digits, counts)
            else:
                _add_few(digits, counts)
    else:
        patterns = _patterns(bits, index, counted, NARROW)
        if SHIFT == _EXPONENT_SHIFT:
            add_tile(tl.where(counted, exponents_of(patterns), -1), counts)
        else:
            counted &= patterns >> ABOVE == tl.load(state).to(tl.int32) >> ABOVE
            _add_few(tl.where(counted, (patterns >> SHIFT) & (BINS - 1), -1), counts)


@triton.jit(do_not_specialize=["count"])
def _descend(
    counts: tl.tensor,
    state: tl.tensor,
    count: tl.int64,
    FIRST: tl.constexpr,
    OF_HASH: tl.constexpr,
    SHIFT: tl.constexpr,
    BINS: tl.constexpr,
) -> None:
    """Fix the digit of the boundary's bin.

    ``state``, int64 [5], holds the score's pattern and the hash's complement as far as they are
    known, how many entries of the boundary's bin are needed, how many it holds, and how many
    scores are invalid.
    """
    bins = BINS - 1 - tl.arange(0, BINS)  # the largest first
    found = tl.load(counts + bins)
    score, word, needed, invalid = count * 0, count * 0, count, count * 0
    if FIRST:
        if not OF_HASH:
            invalid = tl.load(counts + BINS - 1)
            found = tl.where(bins == BINS - 1, 0, found)
    else:
        score, word = tl.load(state), tl.load(state + 1)
        needed, invalid = tl.load(state + 2), tl.load(state + 4)
    enough = tl.cumsum(found) >= needed
    value = tl.max(tl.where(enough, bins, 0)).to(tl.int64)
    if OF_HASH:
        word |= value << SHIFT
    else:
        score |= value << SHIFT
    tl.store(state, score)
    tl.store(state + 1, word)
    tl.store(state + 2, needed - tl.sum(tl.where(bins > value, found, 0)))
    tl.store(state + 3, tl.sum(tl.where(bins == value, found, 0)))
    tl.store(state + 4, invalid)


@triton.jit(do_not_specialize=["score", "lowest", "seed", "offset"])
def _take(
    bits: tl.tensor,
    mask: tl.tensor,
    score: tl.int32,
    lowest: tl.int64,
    size: tl.tensor,
    seed: tl.int64,
    offset: tl.int64,
    TIES: tl.constexpr,
    SCORED: tl.constexpr,
    NARROW: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = index < size
    ties, above = inside, inside & False
    if SCORED:
        patterns = _patterns(bits, index, inside, NARROW)
        ties, above = patterns == score, patterns > score
    if TIES:  # noqa: SIM102 (known when it is compiled, the other when it runs)
        if tl.max((ties & inside).to(tl.int32)) > 0:
            ties &= _words(index, seed, offset) >= lowest.to(tl.uint64)
    tl.store(mask + index, (above | ties).to(tl.uint8), mask=inside)
