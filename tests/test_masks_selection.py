"""Exact selection against a sort by (−score, hash)."""

import math
from types import ModuleType

import numpy as np
import pytest
import torch

from fnsft.masks import radix_numba, radix_torch, random_fraction, top_fraction
from fnsft.masks.hashing import hash_of_indices
from fnsft.masks.radix import BINS, DIGITS, SCORE_DIGITS, Keys, Threshold, find_threshold
from fnsft.masks.selection import _random, _top, select_top

BACKENDS = [radix_numba, radix_torch]
FRACTIONS = [1e-9, 0.01, 0.1, 1 / 3, 0.5, 0.7, 0.999, 1.0]


def reference(score: torch.Tensor, fraction: float, seed: int = 0, offset: int = 0) -> torch.Tensor:
    """Sort all entries by decreasing score, then by increasing unsigned hash."""
    flat = score.float().flatten()
    hashes = hash_of_indices(seed, torch.arange(flat.numel()) + offset).numpy().view(np.uint64)
    order = np.lexsort((hashes, -flat.numpy()))
    mask = torch.zeros(flat.numel(), dtype=torch.bool)
    mask[torch.from_numpy(order[: round(fraction * flat.numel())])] = True
    return mask.view(score.shape)


def top(backend: ModuleType, score: torch.Tensor, fraction: float, seed: int = 0) -> torch.Tensor:
    """The mask that one of the backends makes, whatever the device."""
    return _top(backend, score, round(fraction * score.numel()), seed, 0, None).mask


def scores(kind: str, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(len(kind) + math.prod(shape))
    normal = torch.randn(shape, generator=generator).abs()
    return {
        "normal": normal,
        "tied": (normal * 2).round(),
        "zeros": torch.zeros(shape),
        "sparse": normal * (normal > 1.5),
        "subnormal": normal * 1e-40,
        "huge": normal * 5e37,
        "one bin": 1 + normal.clamp(max=1) * 1e-3,
    }[kind].to(dtype)


KINDS = ["normal", "tied", "zeros", "sparse", "subnormal", "one bin", "huge"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_mask_is_that_of_a_sort_by_score_and_hash(backend, kind, dtype):
    for shape in [(1,), (2,), (7, 5), (129, 33), (3, 4, 5), (70_001,)]:
        score = scores(kind, shape, dtype)
        for fraction in FRACTIONS:
            mask = top(backend, score, fraction, 3)
            assert torch.equal(mask, reference(score, fraction, 3)), (shape, fraction)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("fraction", [*FRACTIONS, 0.25, 0.123456])
def test_exactly_round_p_n_entries_survive_in_every_dtype_and_shape(dtype, fraction):
    for shape in [(1, 1), (5,), (10, 10), (31, 77), (0,), (4, 0), ()]:
        mask = top_fraction(scores("normal", shape, dtype), fraction, seed=1)
        assert mask.dtype == torch.bool
        assert mask.shape == shape
        assert int(mask.sum()) == round(fraction * mask.numel())
        assert int(random_fraction(shape, fraction, seed=1).sum()) == int(mask.sum())


def test_halves_round_to_the_even_count_as_in_python():
    kept = [int(top_fraction(torch.rand(n), 0.5).sum()) for n in (1, 3, 5, 7)]
    assert kept == [0, 2, 2, 4]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", KINDS[:-1])
def test_half_precision_scores_give_the_selection_of_their_widened_values(kind, dtype):
    score = scores(kind, (100, 300), dtype)
    for fraction in FRACTIONS:
        narrow, wide = (select_top(s, fraction, 9, None) for s in (score, score.float()))
        assert torch.equal(narrow.mask, wide.mask)
        assert narrow.threshold == wide.threshold


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_no_score_below_the_threshold_is_taken_and_none_above_it_is_left(kind, dtype):
    score = scores(kind, (129, 33), dtype)
    for fraction in FRACTIONS[1:]:
        selection = select_top(score, fraction, 4, None)
        assert selection.score is score
        taken, left = score[selection.mask].float(), score[~selection.mask].float()
        assert bool((taken >= selection.threshold).all())
        assert bool((left <= selection.threshold).all())


def test_a_transposed_view_gives_the_mask_of_its_contiguous_copy():
    score = scores("tied", (40, 60)).t()
    strided = scores("tied", (40, 60))[::2, 1::3]
    for view in (score, strided):
        assert torch.equal(
            top_fraction(view, 0.4, seed=2), top_fraction(view.contiguous(), 0.4, seed=2)
        )


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_random_mask_takes_the_smallest_hashes(backend):
    for n in (1, 2, 1000, 70_001):
        for fraction in FRACTIONS:
            keys = Keys(None, n, 11, 5, torch.device("cpu"))
            mask = _random(backend, keys, round(fraction * n), None)
            assert torch.equal(mask, reference(torch.zeros(n), fraction, 11, 5))
    same = random_fraction((20, 50), 0.3, seed=4, index_offset=6)
    assert torch.equal(same, top_fraction(torch.zeros(20, 50), 0.3, seed=4, index_offset=6))


def test_both_backends_count_every_digit_alike_down_to_the_last():
    # Hashes that share 48 bits do not occur by chance: put the boundary at one entry's hash.
    bits = torch.zeros(5_000, dtype=torch.int32)
    for keys in (
        Keys(bits, 5_000, -3, 17, torch.device("cpu")),
        Keys(None, 5_000, -3, 17, torch.device("cpu")),
    ):
        hashes = hash_of_indices(-3, torch.arange(5_000) + 17).numpy().view(np.uint64)
        for word in map(int, hashes[:40]):
            for digit in range(SCORE_DIGITS, DIGITS):
                by_numba, by_torch = (
                    b.histogram(keys, digit, Threshold(0, word)) for b in BACKENDS
                )
                shift = 16 * (DIGITS - 1 - digit)
                assert by_numba[(word >> shift) % BINS] >= 1
                assert np.array_equal(by_numba, by_torch)
            masks = [b.taken(keys, Threshold(0, word)) for b in BACKENDS]
            assert torch.equal(*masks)
            assert int(masks[0].sum()) == int((hashes <= word).sum())


def test_ties_favour_no_row_and_no_column():
    # 200 × 500 equal entries, p = 0.3: a row keeps 150 ± 10, a column 60 ± 6.5.
    mask = top_fraction(torch.ones(200, 500), 0.3, seed=5).float()
    assert (mask.sum(1) - 150).abs().max() < 5 * 10.3
    assert (mask.sum(0) - 60).abs().max() < 5 * 6.5


def test_different_seeds_break_ties_differently_and_leave_the_rest_alone():
    score = scores("tied", (100, 100))
    one, two = (top_fraction(score, 0.5, seed=seed) for seed in (1, 2))
    assert not torch.equal(one, two)
    boundary = score[one].min()
    assert bool((score[one != two] == boundary).all())
    free = scores("normal", (100, 100))
    assert torch.equal(top_fraction(free, 0.5, seed=1), top_fraction(free, 0.5, seed=2))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_shard_with_its_index_offset_orders_its_entries_as_the_whole_does(backend, dtype):
    # A threshold for the whole, from the sum of the shards' histograms, cuts the same mask.
    score = scores("tied", (50, 40), dtype).flatten()
    whole = top_fraction(score, 0.37, seed=8)
    bits = torch.int32 if dtype == torch.float32 else torch.int16
    shards = [
        Keys(part.view(bits), part.numel(), 8, offset, part.device)
        for part, offset in ((score[:700], 0), (score[700:750], 700), (score[750:], 750))
    ]
    threshold = find_threshold(
        lambda digit, so_far: sum(backend.histogram(shard, digit, so_far) for shard in shards),
        round(0.37 * score.numel()),
        shards[0].digits,
    )
    assert torch.equal(torch.cat([backend.taken(shard, threshold) for shard in shards]), whole)


def test_negative_zero_is_zero():
    for dtype in (torch.float32, torch.bfloat16):
        score = torch.tensor([0.0, -0.0] * 50, dtype=dtype)
        masks = [top_fraction(zeros, 0.5, seed=1) for zeros in (score, score.abs())]
        assert torch.equal(*masks)


@pytest.mark.parametrize("backend", BACKENDS)
def test_scores_that_are_not_finite_and_non_negative_are_refused_and_counted(backend):
    score = torch.rand(10, 10)
    score[0, :3] = float("nan")
    score[1, 0], score[1, 1] = float("inf"), -float("inf")
    score[2, 2] = -1e-30
    for dtype in (torch.float32, torch.bfloat16):
        for fraction in (0.5, 1.0, 1e-9):
            with pytest.raises(ValueError, match="found 3 NaN, 2 infinite and 2 negative"):
                top(backend, score.to(dtype), fraction)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), -1.0, -1e-30])
def test_one_entry_that_is_not_finite_and_non_negative_is_refused(backend, dtype, value):
    score = torch.rand(10, 10).to(dtype)
    score[3, 4] = value
    with pytest.raises(ValueError, match="finite, non-negative"):
        top(backend, score, 0.5)


@pytest.mark.parametrize("fraction", [0, -0.1, 1.0001, float("nan")])
def test_a_fraction_outside_0_to_1_is_refused(fraction):
    with pytest.raises(ValueError, match=r"fraction in \(0, 1\]"):
        top_fraction(torch.rand(4), fraction)
    with pytest.raises(ValueError, match=r"fraction in \(0, 1\]"):
        random_fraction((4,), fraction, seed=0)


def test_a_score_in_double_precision_is_refused():
    with pytest.raises(ValueError, match="float64"):
        top_fraction(torch.rand(4, dtype=torch.float64), 0.5)
