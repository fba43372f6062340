"""Validation curves, averaged over seeds: what a figure draws, without drawing it."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fnsft.artifacts.training import TrainingRecord
from fnsft.config.stages import FigureSettings
from fnsft.errors import InputError
from fnsft.reporting.cells import Key, by_cell
from fnsft.reporting.labels import in_order


@dataclass(frozen=True)
class Curve:
    """Validation perplexity of one method and fraction at ``epochs``.

    Mean, lowest and highest over ``n_seeds`` seeds. ``best`` are the places in ``epochs`` of
    the epochs whose weights were kept, each once where seeds agree.
    """

    method: str
    fraction: float | None
    epochs: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    n_seeds: int
    best: tuple[int, ...]


@dataclass(frozen=True)
class Panel:
    """One model's curves on one task, as this stage of a sequence; in the order of the legend."""

    model: str
    stage: int
    task: str
    curves: tuple[Curve, ...]

    @property
    def part(self) -> tuple[int, str]:
        """Its stage and task."""
        return self.stage, self.task


def panels_of(trainings: Iterable[TrainingRecord], settings: FigureSettings) -> list[Panel]:
    """Group runs into panels by model, stage and task, and curves by method and fraction.

    Raises
    ------
    InputError
        When a model of the settings has no run of their methods, and when seeds of one curve do
        not belong together.
    """
    every = list(trainings)
    models = settings.models or tuple(dict.fromkeys(found.run.model for found in every))
    methods = settings.methods or in_order(found.run.method for found in every)
    grouped: dict[tuple[str, int, str], list[TrainingRecord]] = {}
    for found in every:
        if (run := found.run).model in models and run.method in methods:
            grouped.setdefault((run.model, run.stage, run.task), []).append(found)
    if missing := [model for model in models if model not in {key[0] for key in grouped}]:
        raise InputError(
            f"{missing[0]}: expected training records of the figure's methods, found none"
        )
    tasks = [*settings.tasks, *dict.fromkeys(task for _, _, task in grouped)]
    places = sorted(grouped, key=lambda key: (models.index(key[0]), key[1], tasks.index(key[2])))
    return [Panel(*place, _curves(grouped[place], methods)) for place in places]


def _curves(trainings: Iterable[TrainingRecord], methods: Sequence[str]) -> tuple[Curve, ...]:
    cells = by_cell(trainings)
    keys = sorted(cells, key=lambda key: (methods.index(key[1]), key[2] or 0))
    return tuple(_curve(key, cells[key]) for key in keys)


def _curve(key: Key, runs: list[TrainingRecord]) -> Curve:
    """Average the points that all seeds share (their last steps may differ by a few samples)."""
    points = [{p["epoch"]: p["perplexity"] for p in run.validation} for run in runs]
    epochs = sorted(set.intersection(*(set(found) for found in points)))
    if not epochs:
        raise InputError(f"{key[0]}, {key[1]}: the seeds' curves share no epoch; train them alike")
    at = [[found[epoch] for found in points] for epoch in epochs]
    return Curve(
        method=key[1],
        fraction=key[2],
        epochs=tuple(epochs),
        mean=tuple(statistics.fmean(values) for values in at),
        low=tuple(min(values) for values in at),
        high=tuple(max(values) for values in at),
        n_seeds=len(runs),
        best=tuple(sorted({_nearest(epochs, run.best_epoch) for run in runs})),
    )


def _nearest(epochs: list[float], epoch: float) -> int:
    return min(range(len(epochs)), key=lambda place: abs(epochs[place] - epoch))
