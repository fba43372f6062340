"""Validation curves, averaged over seeds: what a figure draws, without drawing it."""

import statistics
from collections.abc import Iterable
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
    """One model's curves, in the order of the legend."""

    model: str
    curves: tuple[Curve, ...]


def panels_of(trainings: Iterable[TrainingRecord], settings: FigureSettings) -> list[Panel]:
    """Group runs into panels by model and curves by method and fraction."""
    grouped = by_cell(trainings)
    models = settings.models or tuple(dict.fromkeys(model for model, _, _ in grouped))
    methods = settings.methods or in_order(method for _, method, _ in grouped)
    panels = []
    for model in models:
        found = [key for key in grouped if key[0] == model and key[1] in methods]
        if not found:
            raise InputError(
                f"{model}: expected training records of the figure's methods, found none"
            )
        keys = sorted(found, key=lambda key: (methods.index(key[1]), key[2] or 0))
        panels.append(Panel(model, tuple(_curve(key, grouped[key]) for key in keys)))
    return panels


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
