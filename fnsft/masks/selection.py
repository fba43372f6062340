"""Exact selection: the mask of the round(p·n) largest entries, ties broken by a hash.

The mask is a function of the score's values, the seed and each entry's global row-major
index alone: neither the device, nor the memory layout, nor the number of shards changes it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch

from fnsft.masks import kernels, radix_numba, radix_torch
from fnsft.masks.radix import Keys, Threshold, entries_of
from fnsft.masks.shards import Shard

_SCORE_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def kept_entries(fraction: float, entries: int) -> int:
    """Return round(p·n), Python's rounding (halves to even), for p in (0, 1]."""
    if not 0 < fraction <= 1:
        raise ValueError(f"expected a fraction in (0, 1], found {fraction}")
    return round(fraction * entries)


@dataclass(frozen=True)
class Selection:
    """The entries of a matrix, or of a shard [r, C] of it, that were chosen.

    ``score`` and ``threshold`` (no score taken is below it, and none left above) tell by what;
    None where a mask has no score. Tensors have the gradient's device.
    """

    mask: torch.Tensor
    score: torch.Tensor | None = None
    threshold: float | None = None


def top_fraction(
    score: torch.Tensor, fraction: float, *, seed: int = 0, index_offset: int = 0
) -> torch.Tensor:
    """Return the mask of the round(p·n) entries with the largest score.

    Parameters
    ----------
    score
        Finite and non-negative, any shape and strides; float32, bfloat16 or float16. Strided
        scores are copied, and float16 is widened to float32.
    fraction
        p in (0, 1].
    seed
        Of the hash that orders equal scores: the smaller hash of (seed, global row-major
        index) is preferred, so that no row is. See :func:`fnsft.masks.hashing.mixed_seed`.
    index_offset
        Global row-major index of the first entry. It changes ties alone; the count is that
        of this tensor.

    Returns
    -------
    Bool tensor of the score's shape and device, contiguous.

    Raises
    ------
    ValueError
        For a fraction outside (0, 1], another dtype, or entries that are NaN, infinite or
        negative.
    """
    count = kept_entries(fraction, score.numel())
    return _top(_backend(score.device), score, count, seed, index_offset, None).mask


def random_fraction(
    shape: Sequence[int],
    fraction: float,
    *,
    seed: int,
    device: torch.device | str = "cpu",
    index_offset: int = 0,
) -> torch.Tensor:
    """Return a bool mask of ``shape`` with the round(p·n) entries of the smallest hash.

    It is :func:`top_fraction` of a score that is zero everywhere, and costs no score.
    """
    keys = Keys(None, math.prod(shape), seed, index_offset, torch.device(device))
    count = kept_entries(fraction, keys.size)
    return _random(_backend(keys.device), keys, count, None).view(tuple(shape))


def select_top(
    score: torch.Tensor,
    fraction: float,
    seed: int,
    shard: Shard | None,
    exponents: torch.Tensor | None = None,
) -> Selection:
    """Select the round(p·n) largest scores of a whole matrix, of which ``score`` is a shard.

    All processes of the shard's group call it together. ``exponents`` are those of
    :class:`~.score.Scored`, where the scores are from there.
    """
    whole = shard or Shard.whole((1, score.numel()))
    count = kept_entries(fraction, math.prod(whole.shape))
    backend = _backend(score.device)
    return _top(backend, score, count, seed, whole.index_offset, shard, exponents)


def select_random(
    shape: Sequence[int],
    fraction: float,
    seed: int,
    device: torch.device,
    shard: Shard | None,
) -> Selection:
    """Select round(p·n) entries of a whole matrix at random; ``shape`` is the shard's."""
    whole = shard or Shard.whole((1, math.prod(shape)))
    keys = Keys(None, math.prod(shape), seed, whole.index_offset, device)
    count = kept_entries(fraction, math.prod(whole.shape))
    return Selection(_random(_backend(device), keys, count, shard).view(tuple(shape)))


def _backend(device: torch.device) -> ModuleType:
    """Return what selects on a device: a module with ``search`` and ``taken``."""
    if kernels.uses_triton(device):
        from fnsft.masks import radix_triton

        return radix_triton
    return radix_numba if device.type == "cpu" else radix_torch


def _top(
    backend: ModuleType,
    score: torch.Tensor,
    count: int,
    seed: int,
    index_offset: int,
    shard: Shard | None,
    exponents: torch.Tensor | None = None,
) -> Selection:
    if score.dtype not in _SCORE_DTYPES:
        raise ValueError(f"expected a score in float32, bfloat16 or float16, found {score.dtype}")
    flat = score.detach().reshape(-1)
    narrow = score.dtype == torch.bfloat16
    bits = flat.view(torch.int16) if narrow else flat.float().view(torch.int32)
    keys = Keys(bits, bits.numel(), seed, index_offset, bits.device, exponents)
    threshold = backend.search(keys, count, shard)
    if threshold is None:
        _refuse_invalid(score, shard)
        # Nothing but −0.0 is left, which + 0.0 makes 0.0.
        return _top(backend, score + 0.0, count, seed, index_offset, shard)
    mask = _mask(backend, keys, count, shard, threshold)
    value = np.uint32(threshold.score).view(np.float32)
    return Selection(mask.view(score.shape), score, float(value))


def _random(backend: ModuleType, keys: Keys, count: int, shard: Shard | None) -> torch.Tensor:
    """Return the mask [size] of keys without scores; ``count`` is that of all shards."""
    return _mask(backend, keys, count, shard, backend.search(keys, count, shard))


def _mask(
    backend: ModuleType, keys: Keys, count: int, shard: Shard | None, threshold: Threshold
) -> torch.Tensor:
    if count in (0, entries_of(keys, shard)):
        return torch.full((keys.size,), count > 0, device=keys.device)
    return backend.taken(keys, threshold)


def _refuse_invalid(score: torch.Tensor, shard: Shard | None) -> None:
    found = (score.isnan().sum(), score.isinf().sum(), (score < 0).sum())
    counts = np.array([int(count) for count in found])
    if shard is not None:
        counts = shard.sum(counts, score.device)
    if counts.any():
        nan, infinite, negative = counts
        raise ValueError(
            f"expected finite, non-negative scores, found {nan} NaN, {infinite} infinite and "
            f"{negative} negative; check the gradients"
        )
