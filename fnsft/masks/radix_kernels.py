"""The kernels of :mod:`.radix_triton`: histograms of digits, the search for a bin, the mask.

A program looks at a tile of ``BLOCK`` entries. ``bits`` are the scores' patterns, int32 or
(``NARROW``) int16, of ``SCORED`` keys; ``seed`` and ``offset`` are those of
:class:`~.radix.Keys`, and a digit is ``WIDTH`` bits from ``SHIFT`` on of a pattern or, ``OF_HASH``,
of a complemented hash.

``state``, int64 [5], is how far the search has come: the score's pattern and the hash's
complement as far as they are known, how many entries of the boundary's bin are needed, how many
it holds, and how many scores are no finite numbers ≥ 0.
"""

import triton
import triton.language as tl

from fnsft.masks.hashing import GAMMA, MULTIPLIER_1, MULTIPLIER_2
from fnsft.masks.radix import ANY_HASH

EXPONENTS = tl.constexpr(256)  # the last one stands for what is no finite number ≥ 0

_EXPONENT_SHIFT = tl.constexpr(23)
_ANY_HASH = tl.constexpr(ANY_HASH)
_GAMMA, _MULTIPLIER_1 = tl.constexpr(GAMMA), tl.constexpr(MULTIPLIER_1)
_MULTIPLIER_2 = tl.constexpr(MULTIPLIER_2)


@triton.jit
def exponents_of(patterns: tl.tensor) -> tl.tensor:
    """Return the exponents of float32's patterns, both int32.

    That of an infinity, a NaN or a pattern with the sign bit is 255.
    """
    # As unsigned the sign bit is the highest, so that all of these lie above.
    found = patterns.to(tl.uint32, bitcast=True) >> _EXPONENT_SHIFT
    return tl.minimum(found, EXPONENTS - 1).to(tl.int32)


@triton.jit
def add_tile(digits: tl.tensor, counts: tl.tensor) -> None:
    """Add a histogram of 256 bins, made in registers, whatever the values; −1 is not counted."""
    bins = tl.arange(0, EXPONENTS)
    found = tl.histogram(digits, EXPONENTS, mask=digits >= 0)
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
    """Return float32's patterns as int32."""
    found = tl.load(bits + index, mask=inside, other=0).to(tl.int32)
    if NARROW:
        found = found << 16
    return found


@triton.jit
def _words(index: tl.tensor, seed: tl.tensor, offset: tl.tensor) -> tl.tensor:
    """Return the complements of :func:`fnsft.masks.radix_numba.hash_of_index`, uint64."""
    word = seed.to(tl.uint64) + (index + offset + 1).to(tl.uint64) * _GAMMA
    word = (word ^ (word >> 30)) * _MULTIPLIER_1
    word = (word ^ (word >> 27)) * _MULTIPLIER_2
    return word ^ (word >> 31) ^ _ANY_HASH


@triton.jit(do_not_specialize=["seed", "offset"])
def count_digit(
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
    """Count the entries by one digit, among those that agree with the state so far."""
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    counted = index < size
    BINS: tl.constexpr = 1 << WIDTH
    ABOVE: tl.constexpr = SHIFT + WIDTH
    if OF_HASH:
        if SCORED:
            counted &= _patterns(bits, index, counted, NARROW) == tl.load(state).to(tl.int32)
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
def descend(
    counts: tl.tensor,
    state: tl.tensor,
    count: tl.int64,
    FIRST: tl.constexpr,
    OF_HASH: tl.constexpr,
    SHIFT: tl.constexpr,
    BINS: tl.constexpr,
) -> None:
    """Fix the digit of the boundary's bin, by ``counts`` of it; one program."""
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
def take(
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
    """Write the mask of what lies above ``score``, or ties and has a word from ``lowest`` on."""
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
