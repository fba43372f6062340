"""What runs learned of the last task against what they kept of the earlier ones.

With one stage alone, what is kept are the benchmarks that no stage trained on. Where tasks have no
share (accuracy, pass@1), both are perplexities, and means are taken of their logarithms.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fnsft.artifacts.records import Record
from fnsft.config.stages import PRIMARY_METRICS
from fnsft.errors import InputError
from fnsft.reporting.cells import Key, name_of
from fnsft.reporting.scores import PERPLEXITY, Scores

NEVER = "tasks never trained on"


@dataclass(frozen=True)
class Outcome:
    """One run: shares, or logarithms of perplexities."""

    learned: float
    kept: float


@dataclass(frozen=True)
class Outcomes:
    """All runs by cell and seed; ``learned`` and ``kept`` are their tasks in words."""

    metric: str  # accuracy or perplexity
    learned: str
    kept: str
    runs: Mapping[Key, Mapping[int | None, Outcome]]

    @property
    def sign(self) -> int:
        """1 where more is better, −1 where less is."""
        return -1 if self.metric == PERPLEXITY else 1

    def shown(self, value: float) -> float:
        """Return a value in the unit of axes: percent, or a perplexity."""
        return math.exp(value) if self.metric == PERPLEXITY else 100 * value


def outcomes_of(scores: Scores) -> Outcomes:
    """Sum every run up.

    Raises
    ------
    InputError
        When the tasks were measured neither by shares nor by perplexity, and when a run lacks
        what others have.
    """
    last, earlier = scores.tasks[-1], scores.tasks[:-1]
    for metrics in (PRIMARY_METRICS, (PERPLEXITY,)):
        found = [record for record in scores.last if record.metric in metrics]
        groups = list(dict.fromkeys(record.measures for record in found))
        never = [group for group in groups if group not in scores.tasks]
        kept_groups: list[str | None] = list(dict.fromkeys(earlier)) or never
        if kept_groups and {last, *kept_groups} <= {*groups}:
            break
    else:
        needed = f"{', '.join(earlier) or 'a task that was not trained on'} and {last}"
        raise InputError(f"expected scores of {needed} after the last stage, found not all of them")
    runs: dict[Key, dict[int | None, list[Record]]] = {}
    for record in found:
        key = (record.model, record.method, record.fraction)
        runs.setdefault(key, {}).setdefault(record.seed, []).append(record)
    return Outcomes(
        metric=PERPLEXITY if PERPLEXITY in metrics else "accuracy",
        learned=last,
        kept=" and ".join(dict.fromkeys(earlier)) or NEVER,
        runs={
            key: {seed: _outcome(own, last, kept_groups, key) for seed, own in seeds.items()}
            for key, seeds in runs.items()
        },
    )


def _outcome(
    records: Sequence[Record], last: str, kept_groups: Sequence[str | None], key: Key
) -> Outcome:
    if len({record.benchmark for record in records}) < len(records):
        raise InputError(f"{name_of(key)}: expected one run a seed, found two; name each file once")
    values: dict[str | None, list[float]] = {}
    for record in records:
        value = math.log(record.value) if record.metric == PERPLEXITY else record.value
        values.setdefault(record.measures, []).append(value)
    if missing := [str(group) for group in (last, *kept_groups) if group not in values]:
        raise InputError(f"{name_of(key)}: expected scores of {missing[0]}, found none")
    means = {group: statistics.fmean(found) for group, found in values.items()}
    return Outcome(means[last], statistics.fmean(means[group] for group in kept_groups))


def means_of(outcomes: Outcomes) -> dict[Key, Outcome]:
    """Return every cell's mean over seeds."""
    return {
        key: Outcome(
            statistics.fmean(run.learned for run in seeds.values()),
            statistics.fmean(run.kept for run in seeds.values()),
        )
        for key, seeds in outcomes.runs.items()
    }


def kept_at_same_learning(outcomes: Outcomes, curve: Sequence[str]) -> dict[Key, float]:
    """Return how much more each cell keeps than the curve does where that learns the same.

    Parameters
    ----------
    curve
        Methods whose means over seeds are joined by straight lines, in the order of what they
        learn: one method at several learning rates.

    Returns
    -------
    Differences of shares, or ratios of perplexities. Cells that learn less or more than all of
    the curve, those of the curve, and those of a model without two points of it are left out.
    """
    means = means_of(outcomes)
    found = {}
    for key, point in means.items():
        line = sorted(
            (other.learned, other.kept)
            for (model, method, _), other in means.items()
            if model == key[0] and method in curve
        )
        if key[1] in curve or len(line) < 2 or not line[0][0] <= point.learned <= line[-1][0]:
            continue
        learned, kept = zip(*line, strict=True)
        more = point.kept - float(np.interp(point.learned, learned, kept))
        found[key] = math.exp(more) if outcomes.metric == PERPLEXITY else more
    return found


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the places of the points that no other beats or equals in both, x ascending."""
    order = sorted(range(len(points)), key=lambda i: (-points[i][0], -points[i][1], i))
    front: list[int] = []
    for place in order:
        if not front or points[place][1] > points[front[-1]][1]:
            front.append(place)
    return front[::-1]
