"""The learning rate of every method with the lowest mean validation perplexity.

Of runs on pairs of answers it is DPO's validation loss that stands in the perplexity's place.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from fnsft.artifacts.training import Run, TrainingRecord
from fnsft.errors import InputError
from fnsft.reporting.labels import in_order

Place = tuple[float | None, int | None]  # fraction and seed


@dataclass(frozen=True)
class RatePoint:
    """One learning rate of one method: mean best validation perplexity over n runs."""

    learning_rate: float
    perplexity: float
    stderr: float | None
    n: int


@dataclass(frozen=True)
class Choice:
    """A method's chosen rate and its whole curve, rates ascending.

    ``at_edge``: the chosen rate is the grid's lowest or highest, so that a better one may lie
    beyond; a grid of one rate is all edge.
    """

    method: str
    learning_rate: float
    at_edge: bool
    curve: tuple[RatePoint, ...]

    @property
    def warning(self) -> str | None:
        """Return what a reader must know before the choice is used."""
        if len(self.curve) == 1:
            return f"{self.method}: only one learning rate was tried, {self.learning_rate:g}"
        if self.at_edge:
            return f"{self.method}: {self.learning_rate:g} is at the edge of the grid; widen it"
        return None


def choose_rates(trainings: Iterable[TrainingRecord]) -> list[Choice]:
    """Choose every method's rate; of equals the lowest.

    Raises
    ------
    InputError
        When the runs are of several models or tasks, or a method's rates were not tried at
        the same fractions and seeds: their means would not compare.
    """
    trainings = list(trainings)
    for field in ("model", "task"):
        found = sorted({getattr(training.run, field) for training in trainings})
        if len(found) != 1:
            raise InputError(f"expected the runs of one {field}, found {', '.join(found)}")
    grouped: dict[str, dict[float, dict[Place, float]]] = defaultdict(lambda: defaultdict(dict))
    for training in trainings:
        run = training.run
        if run.learning_rate is None:
            raise InputError(f"{run.method}: a run without a learning rate")
        runs = grouped[run.method][run.learning_rate]
        if (run.fraction, run.seed) in runs:
            raise InputError(f"{_name(run)}: two runs of one fraction and seed")
        perplexity = training.criterion
        runs[run.fraction, run.seed] = perplexity if math.isfinite(perplexity) else math.inf
    return [_choice(method, grouped[method]) for method in in_order(grouped)]


def _name(run: Run) -> str:
    return f"{run.method}, learning rate {run.learning_rate:g}"


def _choice(method: str, rates: dict[float, dict[Place, float]]) -> Choice:
    places = set().union(*rates.values())
    for rate, runs in rates.items():
        if missing := sorted(places - set(runs), key=str):
            fraction, seed = missing[0]
            raise InputError(
                f"{method}, learning rate {rate:g}: no run of fraction {fraction}, seed {seed}, "
                "which other rates have; run it, or leave that fraction and seed out"
            )
    curve = tuple(_point(rate, list(runs.values())) for rate, runs in sorted(rates.items()))
    best = min(curve, key=lambda point: point.perplexity)
    return Choice(method, best.learning_rate, best in (curve[0], curve[-1]), curve)


def _point(rate: float, perplexities: list[float]) -> RatePoint:
    n, mean = len(perplexities), statistics.fmean(perplexities)
    spread = n > 1 and math.isfinite(mean)
    stderr = statistics.stdev(perplexities) / math.sqrt(n) if spread else None
    return RatePoint(rate, mean, stderr, n)
