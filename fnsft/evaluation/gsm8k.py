r"""Answers to GSM8K problems: which number a text ends on, and whether it is the gold one.

Three readings, each under a name of its own. ``exact_match_strict`` and
``exact_match_flexible`` are lm-eval's (tasks/gsm8k/gsm8k.yaml, version 3), to compare with
published numbers; both compare texts, so that they miss ``18.00``, and the strict one also
misses ``#### $18`` and ``\boxed{18}``. ``accuracy`` compares decimal numbers (ours).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from fnsft.artifacts.records import Measurement
from fnsft.evaluation.shares import share, shares_by

BENCHMARK = "gsm8k"
# A model that goes on with the next problem has answered this one (lm-eval's stop string).
STOP = "\nQuestion:"

_STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")
_FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
_IGNORED = [re.compile(pattern) for pattern in (r",", r"\$", r"(?s).*#### ", r"\.$")]

# A minus belongs to the number unless it stands between two: 10-4 has the numbers 10 and 4.
_NUMBER = re.compile(
    r"(?:(?<![\w)])[-\u2212](?:\$\s?)?|\$\s?-?)?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)"
)
_FINAL = re.compile(r"####\s*(" + _NUMBER.pattern + ")")
_BOXED = re.compile(r"\\boxed\{\s*(?:\\\$)?\s*(" + _NUMBER.pattern + ")")
_ANNOTATION = re.compile(r"<<[^<>]*>>")


@dataclass(frozen=True)
class Scored:
    """One text, read against its gold answer; ``extracted`` is what ``accuracy`` compares."""

    extracted: Decimal | None
    gold: Decimal
    correct: bool
    strict: bool
    flexible: bool
    format_ok: bool


def begins_another(text: str) -> bool:
    """Say whether an answer is none, but another problem, which no stop ends."""
    return text.startswith(STOP.lstrip())


def strict_answer(text: str) -> str | None:
    """Return the first ``#### <number>``, as lm-eval's filter ``strict-match`` does."""
    found = _STRICT.search(text)
    return found[1].strip() if found else None


def flexible_answer(text: str) -> str | None:
    """Return the last number, as lm-eval's filter ``flexible-extract`` does."""
    found = _FLEXIBLE.findall(text)
    return next(group for group in found[-1] if group).strip() if found else None


def lm_eval_match(answer: str | None, completion: str) -> bool:
    """Compare texts as lm-eval's ``exact_match`` does, with what it ignores taken out."""
    return answer is not None and _normalised(answer) == _normalised(completion)


def _normalised(text: str) -> str:
    for pattern in _IGNORED:
        text = pattern.sub("", text)
    return text.lower()


def decimal_answer(text: str) -> Decimal | None:
    r"""Return the number after the first ``####``, else in the last ``\boxed``, else the last.

    The last resort keeps what a model knows apart from the format that it forgot, which
    ``format_ok`` reports.
    """
    if final := _FINAL.search(text):
        return _decimal(final[1])
    candidates = _BOXED.findall(text) or _NUMBER.findall(text)
    return _decimal(candidates[-1]) if candidates else None


def gold_answer(completion: str) -> Decimal | None:
    """Return the number after ``####`` in a worked answer, None where there is none."""
    found = _FINAL.search(completion)
    return _decimal(found[1]) if found else None


def _decimal(number: str) -> Decimal:
    return Decimal(re.sub(r"[\s$,]", "", number.replace("\u2212", "-")))


def step_count(completion: str) -> int:
    """Count the steps of a worked answer: ``<<…>>`` annotations, else lines before ``####``."""
    worked = completion.split("####")[0]
    lines = [line for line in worked.splitlines() if line.strip()]
    return len(_ANNOTATION.findall(worked)) or len(lines)


def score(text: str, completion: str) -> Scored:
    """Read a text against its gold completion, which must have a number after ``####``."""
    extracted, gold = decimal_answer(text), gold_answer(completion)
    assert gold is not None, completion
    return Scored(
        extracted=extracted,
        gold=gold,
        correct=extracted == gold,
        strict=lm_eval_match(strict_answer(text), completion),
        flexible=lm_eval_match(flexible_answer(text), completion),
        format_ok=_FINAL.search(text) is not None,
    )


def measure(scored: Sequence[Scored], steps: Sequence[int]) -> list[Measurement]:
    """Return every metric of the scored answers, and the accuracy by number of steps."""
    correct = [answer.correct for answer in scored]
    return [
        share(BENCHMARK, "accuracy", correct),
        *shares_by(BENCHMARK, "accuracy", correct, "steps", steps),
        share(BENCHMARK, "exact_match_strict", [answer.strict for answer in scored]),
        share(BENCHMARK, "exact_match_flexible", [answer.flexible for answer in scored]),
        share(BENCHMARK, "format_ok", [answer.format_ok for answer in scored]),
    ]
