"""Answers that are right when they are the completion's text, such as ``(A)`` (BBH).

White space is collapsed before texts are compared. ``accuracy`` reads as many lines of the
answer as the completion has, blank ones left out: a model that goes on after its answer has
still given it. ``exact_match`` compares the whole answer, and ``contains`` finds the completion
anywhere in it, as words of its own: what a model knows, apart from the form that it forgot.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from fnsft.artifacts.records import Measurement
from fnsft.evaluation.shares import share

BENCHMARK = "exact"


@dataclass(frozen=True)
class Scored:
    """One answer against its completion; ``extracted`` and ``gold`` are what accuracy compares."""

    extracted: str
    gold: str
    correct: bool
    exact: bool
    contains: bool


def score(text: str, completion: str) -> Scored:
    """Read a text against its completion, which must not be blank."""
    lines, wanted = _lines(text), _lines(completion)
    assert wanted, completion
    whole, gold = " ".join(lines), " ".join(wanted)
    extracted = " ".join(lines[: len(wanted)])
    words = rf"(?<!\w){re.escape(gold)}(?!\w)"
    return Scored(
        extracted=extracted,
        gold=gold,
        correct=extracted == gold,
        exact=whole == gold,
        contains=re.search(words, whole) is not None,
    )


def _lines(text: str) -> list[str]:
    """Return the lines that are not blank, runs of white space collapsed."""
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def measure(scored: Sequence[Scored]) -> list[Measurement]:
    """Return the share of right answers by each of the three readings."""
    return [
        share(BENCHMARK, "accuracy", [answer.correct for answer in scored]),
        share(BENCHMARK, "exact_match", [answer.exact for answer in scored]),
        share(BENCHMARK, "contains", [answer.contains for answer in scored]),
    ]
