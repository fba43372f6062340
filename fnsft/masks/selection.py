"""Exact selection: the mask of the round(p·n) largest entries, ties broken by a hash.

The mask is a function of the score's values, the seed and each entry's global row-major
index alone: neither the device, nor the memory layout, nor the number of shards changes it.
"""

import math
from collections.abc import Sequence
from types import ModuleType

import numpy as np
import torch

from fnsft.masks import radix_numba, radix_torch
from fnsft.masks.radix import SCORE_DIGITS, Keys, Threshold, find_threshold

_INFINITY_DIGIT = 0x7F80  # high half of float32's infinity; above it NaN, then the sign bit
_SCORE_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def kept_entries(fraction: float, entries: int) -> int:
    """Return round(p·n), Python's rounding (halves to even), for p in (0, 1]."""
    if not 0 < fraction <= 1:
        raise ValueError(f"expected a fraction in (0, 1], found {fraction}")
    return round(fraction * entries)


def top_fraction(
    score: torch.Tensor, fraction: float, *, seed: int = 0, index_offset: int = 0
) -> torch.Tensor:
    """Return the mask of the round(p·n) entries with the largest score.

    Parameters
    ----------
    score
        Finite and non-negative, any shape and strides; float32, or bfloat16 or float16,
        which are widened to float32.
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
    return _top(_backend(score.device), score, fraction, seed, index_offset)


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
    return _selected(_backend(keys.device), keys, count).view(tuple(shape))


def _backend(device: torch.device) -> ModuleType:
    return radix_numba if device.type == "cpu" else radix_torch


def _top(
    backend: ModuleType, score: torch.Tensor, fraction: float, seed: int, index_offset: int
) -> torch.Tensor:
    if score.dtype not in _SCORE_DTYPES:
        raise ValueError(f"expected a score in float32, bfloat16 or float16, found {score.dtype}")
    count = kept_entries(fraction, score.numel())
    flat = score.detach().float().reshape(-1)
    keys = Keys(flat.view(torch.int32), flat.numel(), seed, index_offset, flat.device)
    first = backend.histogram(keys, 0, Threshold())
    if first[_INFINITY_DIGIT:].any():
        _refuse_invalid(score)
        # Nothing but −0.0 is left, which + 0.0 makes 0.0.
        return _top(backend, score + 0.0, fraction, seed, index_offset)
    return _selected(backend, keys, count, first).view(score.shape)


def _selected(
    backend: ModuleType, keys: Keys, count: int, first: np.ndarray | None = None
) -> torch.Tensor:
    """Return the mask [size]; ``first`` is the first digit's histogram, None without scores."""
    if count in (0, keys.size):
        return torch.full((keys.size,), count > 0, device=keys.device)

    def histogram(digit: int, threshold: Threshold) -> np.ndarray:
        if digit == 0 and first is not None:
            return first
        return backend.histogram(keys, digit, threshold)

    first_digit = SCORE_DIGITS if first is None else 0
    return backend.taken(keys, find_threshold(histogram, count, first_digit))


def _refuse_invalid(score: torch.Tensor) -> None:
    nan, infinite = int(score.isnan().sum()), int(score.isinf().sum())
    negative = int((score < 0).sum())
    if nan or infinite or negative:
        raise ValueError(
            f"expected finite, non-negative scores, found {nan} NaN, {infinite} infinite and "
            f"{negative} negative among {score.numel()}; check the gradients"
        )
