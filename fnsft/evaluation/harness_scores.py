"""Shares of right answers: of all items, of each part, and the parts' mean, as lm-eval has them."""

import math
from collections.abc import Sequence

from fnsft.artifacts.items import ItemScore
from fnsft.artifacts.records import Measurement
from fnsft.evaluation.benchmarks.contract import Scores
from fnsft.evaluation.harness import PACKAGES
from fnsft.evaluation.shares import share, shares_by


def scores_of(items: Sequence[str], correct: Sequence[bool]) -> Scores:
    """Return the share of right answers, and what each item adds to it."""
    scored = [
        ItemScore("", "accuracy", i, float(hit)) for i, hit in zip(items, correct, strict=True)
    ]
    return Scores([share("", "accuracy", correct)], scored, packages=PACKAGES)


def scores_by_part(
    items: Sequence[str], correct: Sequence[bool], key: str, parts: Sequence[str]
) -> Scores:
    r"""Return the accuracy over all items, over each part, and the parts' mean.

    Notes
    -----
    Of S parts with n_s items, N in all, and standard errors e_s, as lm-eval's groups have it:
    ``accuracy`` weighs parts by their items, with the pooled error
    √(Σ (n_s − 1) n_s e_s² / ((N − S) N)); ``accuracy_macro`` is their plain mean, with the error
    √(Σ e_s²) / S. A part of one item has no error, and neither has what it belongs to.
    """
    found = scores_of(items, correct)
    each = shares_by("", "accuracy", correct, key, parts)
    (overall,) = found.measurements
    n, errors = len(correct), [part.stderr for part in each]
    pooled = macro = None
    if all(error is not None for error in errors):
        squares = [error**2 for error in errors if error is not None]
        spreads = [
            (part.n - 1) * part.n * square for part, square in zip(each, squares, strict=True)
        ]
        pooled = math.sqrt(sum(spreads) / ((n - len(each)) * n))
        macro = math.sqrt(sum(squares)) / len(each)
    mean = sum(part.value for part in each) / len(each)
    measurements = [
        Measurement("", "accuracy", overall.value, pooled, n),
        *each,
        Measurement("", "accuracy_macro", mean, macro, n),
    ]
    return Scores(measurements, found.items, packages=PACKAGES)
