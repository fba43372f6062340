"""Paired bootstrap of differences, over seeds and items, and Holm's correction."""

import itertools
import math
import random

import numpy as np
import pytest

from fnsft.errors import InputError
from fnsft.reporting import paired as module
from fnsft.reporting.paired import Difference, Pair, differences, exponentiated, holm, paired


def pair_of(
    n_seeds: int, n_items: int, seed: int = 0, effect: float = 0.0, spread: float = 0.1
) -> Pair:
    """Yes and no of two methods on items of their own difficulty, and seeds that differ."""
    rng = np.random.default_rng(seed)
    difficulty = rng.normal(size=n_items)
    luck = 0.5 * rng.normal(size=(2, n_seeds, n_items))
    luck += spread * rng.normal(size=(2, n_seeds, 1))
    skill = np.array([effect, 0.0])[:, None, None]
    values = (difficulty + luck < skill).astype(float)
    return Pair(values, np.ones_like(values))


def weighted_pair(n_seeds: int, n_items: int) -> Pair:
    rng = np.random.default_rng(3)
    weights = np.broadcast_to(rng.integers(5, 60, n_items), (2, n_seeds, n_items)).astype(float)
    losses = 1 + 0.3 * rng.normal(size=(2, n_seeds, n_items))
    losses[0] -= 0.05
    return Pair(weights * losses, weights)


def slow(pair: Pair, resamples: int) -> tuple[float, float, float, float]:
    """The same statistic item by item, with draws of another generator."""
    _, n_seeds, n_items = pair.values.shape
    rng = random.Random(1)

    def difference(seeds: list[int], items: list[int]) -> float:
        shares = []
        for method in range(2):
            value = weight = 0.0
            for seed, item in itertools.product(seeds, items):
                value += pair.values[method, seed, item]
                weight += pair.weights[method, seed, item]
            shares.append(value / weight)
        return shares[0] - shares[1]

    found = difference(list(range(n_seeds)), list(range(n_items)))
    drawn = sorted(
        difference(rng.choices(range(n_seeds), k=n_seeds), rng.choices(range(n_items), k=n_items))
        for _ in range(resamples)
    )
    p = (1 + sum(abs(d - found) >= abs(found) - 1e-12 for d in drawn)) / (1 + resamples)
    return found, drawn[int(0.025 * resamples)], drawn[int(0.975 * resamples)], p


@pytest.mark.parametrize("pair", [pair_of(3, 12, effect=0.5), weighted_pair(3, 12)])
def test_intervals_and_p_are_those_of_a_loop_over_drawn_seeds_and_items(pair: Pair) -> None:
    found = differences([pair])[0]
    value, low, high, p = slow(pair, 4000)
    assert found.value == pytest.approx(value, abs=1e-12)
    width = high - low
    assert found.low == pytest.approx(low, abs=0.07 * width)
    assert found.high == pytest.approx(high, abs=0.07 * width)
    assert found.p == pytest.approx(p, abs=0.03)
    assert (found.n_items, found.n_seeds) == (12, 3)


def test_with_one_seed_the_interval_is_that_of_the_items_differences() -> None:
    pair = pair_of(1, 400, effect=0.3)
    found = differences([pair])[0]
    per_item = pair.values[0, 0] - pair.values[1, 0]
    error = per_item.std() / math.sqrt(len(per_item))
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.05)


def test_seeds_that_differ_widen_the_interval_beyond_that_of_items_alone() -> None:
    pair = pair_of(4, 300)
    values = pair.values.copy()
    values[0, :2], values[0, 2:] = 1.0, 0.0
    by_seed = differences([Pair(values, pair.weights)])[0]
    pooled = differences([Pair(values.mean(1, keepdims=True), pair.weights[:, :1])])[0]
    assert by_seed.value == pytest.approx(pooled.value)
    assert by_seed.high - by_seed.low > 5 * (pooled.high - pooled.low)


@pytest.mark.parametrize("pair", [pair_of(3, 50), weighted_pair(3, 50)])
def test_identical_methods_differ_by_nothing_with_p_1(pair: Pair) -> None:
    same = Pair(np.stack([pair.values[0]] * 2), np.stack([pair.weights[0]] * 2))
    found = differences([same, pair])[0]
    assert [found.value, found.low, found.high] == pytest.approx([0, 0, 0], abs=1e-12)
    assert found.p == 1


def test_methods_that_never_agree_have_the_smallest_p_there_is() -> None:
    values = np.zeros((2, 1, 30))
    values[0] = 1
    found = differences([Pair(values, np.ones_like(values))], 499)[0]
    assert (found.value, found.low, found.high, found.p) == (1, 1, 1, 1 / 500)


@pytest.mark.parametrize(("n_seeds", "spread"), [(1, 0.0), (5, 0.1)])
def test_without_a_difference_about_one_in_twenty_is_found_at_most(
    n_seeds: int, spread: float
) -> None:
    def drawn(n: int, effect: float) -> list[Difference]:
        pairs = [pair_of(n_seeds, 150, seed, effect, spread) for seed in range(n)]
        return [differences([pair], 299)[0] for pair in pairs]

    null = drawn(250, 0.0)
    assert sum(d.p < 0.05 for d in null) / len(null) < 0.09
    assert sum(d.low <= 0 <= d.high for d in null) / len(null) > 0.91
    assert sum(d.p < 0.05 for d in drawn(20, 1.0)) > 15


def test_counts_of_items_are_drawn_in_chunks_and_all_of_them_are_drawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pair, sizes = pair_of(2, 100), []
    counts = module._counts

    def watched(rng: np.random.Generator, size: int, n: int) -> np.ndarray:
        sizes.append(size * n)
        return counts(rng, size, n)

    monkeypatch.setattr(module, "_counts", watched)
    monkeypatch.setattr(module, "CHUNK_COUNTS", 1000)
    chunked = differences([pair], 4000)[0]
    assert max(sizes) <= 1000 and sum(sizes) == 4000 * (100 + 2)
    monkeypatch.undo()
    whole = differences([pair], 4000)[0]
    assert chunked.value == whole.value
    assert chunked.low == pytest.approx(whole.low, abs=0.01)


def runs_of(pair: Pair, method: int, order: list[int]) -> dict[int | None, dict]:
    return {
        seed: {
            f"i{i}": (pair.values[method, seed, i], pair.weights[method, seed, i]) for i in order
        }
        for seed in range(pair.values.shape[1])
    }


def test_neither_the_order_of_items_nor_of_seeds_nor_of_comparisons_changes_a_number() -> None:
    pair, other = pair_of(3, 40, effect=0.4), weighted_pair(3, 40)
    forward, mixed = list(range(40)), random.Random(0).sample(range(40), 40)
    a, b = runs_of(pair, 0, forward), runs_of(pair, 1, forward)
    plain = paired(a, b, "x")
    turned = paired(dict(reversed(runs_of(pair, 0, mixed).items())), b, "x")
    assert plain is not None and turned is not None
    assert np.array_equal(plain.values, turned.values)
    assert differences([plain])[0] == differences([turned])[0]
    assert differences([plain, other]) == differences([other, plain])[::-1]


def test_common_seeds_alone_are_compared_and_a_run_without_a_seed_with_all() -> None:
    pair, items = pair_of(3, 20), list(range(20))
    a, b = runs_of(pair, 0, items), runs_of(pair, 1, items)
    found = paired({s: a[s] for s in (0, 2)}, b, "x")
    assert found is not None and found.values.shape == (2, 2, 20)
    base = paired({None: a[0]}, b, "x")
    assert base is not None and base.values.shape == (2, 3, 20)
    assert (base.values[0] == base.values[0, :1]).all()
    assert paired({5: a[0]}, b, "x") is None
    one = {seed: {"i0": run["i0"]} for seed, run in a.items()}
    assert paired(one, one, "x") is None


def test_other_items_are_refused_with_what_is_missing() -> None:
    pair = pair_of(2, 20)
    a, b = runs_of(pair, 0, list(range(20))), runs_of(pair, 1, list(range(19)))
    with pytest.raises(InputError, match=r"gsm8k: expected the same items, found 1 .* 'i19'"):
        paired(a, b, "gsm8k")


def test_a_difference_of_logarithms_is_a_ratio() -> None:
    found = exponentiated(Difference(math.log(0.9), math.log(0.8), 0.0, 0.03, 9, 2))
    assert (found.value, found.low, found.high) == pytest.approx((0.9, 0.8, 1.0))
    assert (found.p, found.n_items, found.n_seeds) == (0.03, 9, 2)


def test_holm_multiplies_by_what_is_left_and_never_turns_the_order() -> None:
    # By hand: .01·4, then max(.04, .02·3), max(.06, .03·2), .5·1.
    assert holm([0.5, 0.01, 0.03, 0.02]) == pytest.approx([0.5, 0.04, 0.06, 0.06])
    assert holm([0.4, 0.9]) == [0.8, 0.9]
    assert holm([0.7, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
