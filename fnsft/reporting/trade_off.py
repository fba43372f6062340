"""What runs learned of the last task against what they kept of the earlier ones.

Kept is the change since each earlier task's own stage, mean_{j<T} (R[T, j] − R[j, j]), so that what
a stage learned better is not taken for retention. With one stage alone it is the score of the
benchmarks that no stage trained on. Where tasks have no share (accuracy, pass@1), both are
perplexities, means and changes are those of their logarithms, and what is kept is a ratio.
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
    """One run: shares and their change, or logarithms of perplexities and theirs."""

    learned: float
    kept: float


@dataclass(frozen=True)
class Outcomes:
    """All runs by cell and seed; ``learned`` and ``kept`` are what they are of, with units."""

    metric: str  # accuracy or perplexity
    learned: str
    kept: str
    runs: Mapping[Key, Mapping[int | None, Outcome]]

    @property
    def sign(self) -> int:
        """1 where more is better, −1 where less is."""
        return -1 if self.metric == PERPLEXITY else 1

    def shown(self, value: float) -> float:
        """Return a value in the unit of axes: percent or points, a perplexity or a ratio."""
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
        found = [record for record in scores.tuned if record.metric in metrics]
        groups = dict.fromkeys(r.measures for r in found if r.stage == len(scores.tasks))
        never = [group for group in groups if group not in scores.tasks]
        if (earlier or never) and {last, *earlier} <= {*groups}:
            break
    else:
        needed = f"{', '.join(earlier) or 'a task that was not trained on'} and {last}"
        raise InputError(f"expected scores of {needed} after the last stage, found not all of them")
    runs: dict[Key, dict[int | None, list[Record]]] = {}
    for record in found:
        key = (record.model, record.method, record.fraction)
        runs.setdefault(key, {}).setdefault(record.seed, []).append(record)
    unit, change = ("perplexity", "ratio") if PERPLEXITY in metrics else ("%", "points")
    own = "its own stage" if len(earlier) == 1 else "their own stages"
    before = " and ".join(map(scores.task, earlier))
    return Outcomes(
        metric=PERPLEXITY if PERPLEXITY in metrics else "accuracy",
        learned=f"{scores.task(last)}, {unit}",
        kept=f"{before} since {own}, {change}" if earlier else f"{NEVER}, {unit}",
        runs={
            key: {seed: _outcome(own, scores.tasks, never, key) for seed, own in seeds.items()}
            for key, seeds in runs.items()
        },
    )


def _outcome(
    records: Sequence[Record], tasks: Sequence[str], never: Sequence[str | None], key: Key
) -> Outcome:
    if len({(record.stage, record.benchmark) for record in records}) < len(records):
        raise InputError(f"{name_of(key)}: expected one run a seed, found two; name each file once")
    values: dict[tuple[int, str | None], list[float]] = {}
    for record in records:
        value = math.log(record.value) if record.metric == PERPLEXITY else record.value
        values.setdefault((record.stage, record.measures), []).append(value)

    def mean(stage: int, task: str | None) -> float:
        if (stage, task) not in values:
            raise InputError(
                f"{name_of(key)}: expected scores of {task or NEVER} after stage {stage}, found "
                "none; give the records of fnsft transfer"
            )
        return _mean(values[stage, task])

    end = len(tasks)
    changes = [mean(end, task) - mean(j, task) for j, task in enumerate(tasks[:-1], start=1)]
    kept = changes or [mean(end, task) for task in never]
    return Outcome(mean(end, tasks[-1]), _mean(kept))


def means_of(outcomes: Outcomes) -> dict[Key, Outcome]:
    """Return every cell's mean over seeds."""
    return {
        key: Outcome(
            _mean([run.learned for run in seeds.values()]),
            _mean([run.kept for run in seeds.values()]),
        )
        for key, seeds in outcomes.runs.items()
    }


def _mean(values: Sequence[float]) -> float:
    """Return the mean; of both infinities, which ``fmean`` refuses, NaN."""
    return math.nan if {math.inf, -math.inf} <= {*values} else statistics.fmean(values)


def kept_at_same_learning(outcomes: Outcomes, curve: Sequence[str]) -> dict[Key, float]:
    """Return how much more each cell keeps than the curve does where that learns the same.

    Parameters
    ----------
    curve
        One method at several learning rates. Of its means over seeds those that no other beats in
        both, its Pareto front, are joined by straight lines: the curve at its best rates.

    Returns
    -------
    Differences of shares' changes, or ratios of perplexities' ratios. Cells that learn less or more
    than all of the front, those of the curve, and those of a model with fewer than two points on
    the front are left out.
    """
    means, sign = means_of(outcomes), outcomes.sign
    found = {}
    for key, point in means.items():
        rates = [
            (sign * other.learned, sign * other.kept)
            for (model, method, _), other in means.items()
            if model == key[0] and method in curve
        ]
        front = [rates[place] for place in pareto_front(rates)]
        x = sign * point.learned
        if key[1] in curve or len(front) < 2 or not front[0][0] <= x <= front[-1][0]:
            continue
        learned, kept = zip(*front, strict=True)
        more = point.kept - sign * float(np.interp(x, learned, kept))
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
