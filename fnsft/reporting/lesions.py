"""Lesions by model and condition, over seeds: what the table and the figure both show.

Losses are shown as perplexities, their exponentials; shares of right answers as they are.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fnsft.artifacts.lesions import Lesion
from fnsft.errors import InputError
from fnsft.reporting.grid import Measured
from fnsft.reporting.lesion_summary import (
    LOSS,
    Comparison,
    NetworkEffect,
    compare,
    summarise_lesions,
)

Place = tuple[str, float]  # an experiment, and its number of networks or its share


@dataclass(frozen=True)
class Condition:
    """One lesion; of every seed the share of neurons that are masked, and what it cost."""

    masked: tuple[float, ...]
    comparisons: Mapping[str, Sequence[Comparison]]

    def draws(self, benchmark: str) -> list[float]:
        """Return what the random sets of all seeds show."""
        return [
            shown(benchmark, draw)
            for comparison in self.comparisons.get(benchmark, ())
            for draw in comparison.random
        ]

    def networks(self, benchmark: str) -> list[float]:
        """Return what the networks show, seed by seed."""
        return [shown(benchmark, found.value) for found in self.comparisons.get(benchmark, ())]


@dataclass(frozen=True)
class ModelLesions:
    """A model's lesions: the intact model by benchmark, single networks, and larger sets."""

    n_seeds: int
    intact: Mapping[str, Sequence[Lesion]]
    effects: Sequence[NetworkEffect]
    conditions: Mapping[Place, Condition]


@dataclass(frozen=True)
class Shown:
    """A measurement in the unit that is printed."""

    value: float
    stderr: float | None
    n: int


def shown(benchmark: str, value: float) -> float:
    """Return a value as it is printed: of a loss, in nats a token, the perplexity."""
    if benchmark != LOSS:
        return value
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf


def measured(benchmark: str, found: Measured) -> Shown:
    """Return a measurement as it is printed; the error of a loss carries over to first order."""
    value, stderr = shown(benchmark, found.value), found.stderr
    if stderr is not None and benchmark == LOSS:
        stderr = value * stderr if math.isfinite(value) else None
    return Shown(value, stderr, found.n)


def lesions_by_model(rows: Sequence[Lesion], models: Sequence[str] = ()) -> dict[str, ModelLesions]:
    """Group lesions by model, in the order of ``models``, and by condition.

    Raises
    ------
    InputError
        When a model has none, and when they are of several tasks or networks.
    """
    wanted = models or tuple(dict.fromkeys(row.model for row in rows))
    rows = [row for row in rows if row.model in wanted]
    if missing := [model for model in wanted if model not in {row.model for row in rows}]:
        raise InputError(f"{missing[0]}: expected lesions, found none; see fnsft lesion")
    if not rows:
        raise InputError("expected lesions of fnsft lesion, found none")
    for field in ("task", "networks"):
        found = sorted({getattr(row, field) for row in rows})
        if len(found) > 1:
            raise InputError(f"expected lesions of one {field}, found {', '.join(found)}")
    effects = summarise_lesions(rows)
    return {
        model: _model(
            [row for row in rows if row.model == model],
            [effect for effect in effects if effect.model == model],
        )
        for model in wanted
    }


def _model(rows: Sequence[Lesion], effects: Sequence[NetworkEffect]) -> ModelLesions:
    by_seed: dict[int, list[Lesion]] = {}
    for row in rows:
        by_seed.setdefault(row.seed, []).append(row)
    intact: dict[str, list[Lesion]] = {}
    conditions: dict[Place, list[tuple[float, dict[str, Comparison]]]] = {}
    for found in by_seed.values():
        whole = [r for r in found if (r.experiment, r.split) == ("intact", "evaluation")]
        for row in whole:
            intact.setdefault(row.benchmark, []).append(row)
        for place, members in _by_place(found).items():
            masked = members[0].n_neurons / members[0].n_all
            conditions.setdefault(place, []).append((masked, compare(whole, members)))
    return ModelLesions(
        n_seeds=len(by_seed),
        intact=intact,
        effects=effects,
        conditions={place: condition_of(found) for place, found in sorted(conditions.items())},
    )


def _by_place(rows: Iterable[Lesion]) -> dict[Place, list[Lesion]]:
    """Group the rows of larger sets by experiment, and number of networks or share."""
    found: dict[Place, list[Lesion]] = {}
    for row in rows:
        size = row.share if row.experiment == "unmasked" else row.n_networks
        if row.experiment in ("removed", "kept", "unmasked") and size is not None:
            found.setdefault((row.experiment, size), []).append(row)
    return found


def condition_of(seeds: Sequence[tuple[float, Mapping[str, Comparison]]]) -> Condition:
    """Join one condition's seeds: the share that is masked, and the comparisons by benchmark."""
    benchmarks = dict.fromkeys(name for _, found in seeds for name in found)
    return Condition(
        masked=tuple(masked for masked, _ in seeds),
        comparisons={
            name: [found[name] for _, found in seeds if name in found] for name in benchmarks
        },
    )
