"""Best validation perplexity against a hyperparameter: one panel a hyperparameter."""

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from fnsft.artifacts.training import TrainingRecord, read_training
from fnsft.config.stages import FigureSettings
from fnsft.errors import InputError
from fnsft.reporting.cells import by_cell
from fnsft.reporting.figures.canvas import Drawing, legend_above, note_below, sheet, title
from fnsft.reporting.labels import (
    PARAMETER_LABELS,
    ModelLabels,
    counted,
    in_order,
    run_labels,
    shared_fraction,
)
from fnsft.reporting.style import COLUMN_INCHES, LineStyle, style_of

PANEL_INCHES = 2.4


@dataclass(frozen=True)
class SweepPoint:
    """Best validation perplexities of the runs at one value; ``diverged`` ones have no number."""

    value: float
    perplexities: tuple[float, ...]
    diverged: int


@dataclass(frozen=True)
class SweepLine:
    """One method and fraction of one model along one axis, values ascending."""

    axis: str
    model: str
    method: str
    fraction: float | None
    points: tuple[SweepPoint, ...]


def drawing(paths: Sequence[Path], settings: FigureSettings) -> Drawing:
    """Read training records, place them on their axes, draw."""
    for name, found in (("axes", settings.axes), ("values", settings.values)):
        if len(found) != len(paths):
            raise InputError(
                f"{name}: expected one for each of {len(paths)} inputs, found {len(found)}"
            )
    labels = ModelLabels.of(settings)
    trainings = [labels.training(read_training(path)) for path in paths]
    return draw(sweep_lines(trainings, labels.settings(settings)))


def sweep_lines(trainings: Sequence[TrainingRecord], settings: FigureSettings) -> list[SweepLine]:
    """Group runs to lines; ``settings.axes[i]`` and ``values[i]`` belong to run i.

    Raises
    ------
    InputError
        When runs are of several tasks, or none is of the settings' models and methods; when
        two runs at one value differ in more than their seed, or not even in that.
    """
    tasks = sorted({training.run.task for training in trainings})
    if len(tasks) > 1:
        raise InputError(f"expected the runs of one task, found {', '.join(tasks)}")
    places: dict[tuple[str, float], list[TrainingRecord]] = defaultdict(list)
    for training, axis, value in zip(trainings, settings.axes, settings.values, strict=True):
        run = training.run
        wanted = run.model in (settings.models or [run.model])
        if wanted and run.method in (settings.methods or [run.method]):
            places[axis, value].append(training)
    grouped: dict[tuple[str, str, str, float | None], list[SweepPoint]] = defaultdict(list)
    for (axis, value), runs in sorted(places.items(), key=lambda place: place[0][1]):
        for (model, method, fraction), found in by_cell(runs).items():
            grouped[axis, model, method, fraction].append(_point(value, found))
    if not any(point.perplexities for points in grouped.values() for point in points):
        raise InputError(
            "sweep: expected finished runs of the figure's models and methods, found none"
        )
    lines = [SweepLine(*key, tuple(points)) for key, points in grouped.items()]
    return _in_order(lines, settings)


def _point(value: float, runs: Sequence[TrainingRecord]) -> SweepPoint:
    found = [run.best_validation_perplexity for run in runs]
    finite = tuple(perplexity for perplexity in found if math.isfinite(perplexity))
    return SweepPoint(value, finite, len(found) - len(finite))


def _in_order(lines: list[SweepLine], settings: FigureSettings) -> list[SweepLine]:
    axes = list(dict.fromkeys(settings.axes))
    models = settings.models or tuple(dict.fromkeys(line.model for line in lines))
    methods = settings.methods or in_order(line.method for line in lines)

    def place(line: SweepLine) -> tuple[float, ...]:
        where = (models.index(line.model), axes.index(line.axis), methods.index(line.method))
        return (*where, line.fraction or 0)

    return sorted(lines, key=place)


def draw(lines: Sequence[SweepLine]) -> Drawing:
    """Draw a row of panels a model, a column an axis."""
    axes = list(dict.fromkeys(line.axis for line in lines))
    models = list(dict.fromkeys(line.model for line in lines))
    methods = list(dict.fromkeys(line.method for line in lines))
    fractions = sorted({line.fraction for line in lines if line.fraction is not None})
    width = COLUMN_INCHES * len(axes)
    figure, panels = sheet(
        len(models), len(axes), width, PANEL_INCHES * len(models) + 0.6, sharey="row"
    )
    runs = [(line.method, line.fraction) for line in lines]
    names = run_labels(runs)
    handles = {}
    for row, model in zip(panels, models, strict=True):
        for ax, axis in zip(row, axes, strict=True):
            here = [line for line in lines if (line.model, line.axis) == (model, axis)]
            for line in here:
                style = style_of(line.method, line.fraction, methods, fractions)
                handles[names[line.method, line.fraction]] = _draw_line(ax, line, style)
            if not here:
                ax.set_axis_off()
                continue
            _finish(ax, axis, [point.value for line in here for point in line.points])
            title(ax, model)
        row[0].set_ylabel("best validation perplexity")
    legend_above(figure, handles)
    points = [point for line in lines for point in line.points]
    note_below(figure, _note(points) + shared_fraction(runs))
    return Drawing(figure, f"{len(axes)} axes, {len(lines)} lines, {len(points)} points")


def _draw_line(ax: Axes, line: SweepLine, style: LineStyle) -> Line2D:
    """Draw the mean over seeds with its range as a bar, and every run as a faint point."""
    points = [point for point in line.points if point.perplexities]
    x = [point.value for point in points]
    means = [statistics.fmean(point.perplexities) for point in points]
    low = [mean - min(point.perplexities) for mean, point in zip(means, points, strict=True)]
    high = [max(point.perplexities) - mean for mean, point in zip(means, points, strict=True)]
    ax.errorbar(x, means, yerr=(low, high), fmt="none", ecolor=style.colour, elinewidth=0.8)
    runs = [(point.value, perplexity) for point in points for perplexity in point.perplexities]
    if len(runs) > len(points):
        places, perplexities = zip(*runs, strict=True)
        ax.scatter(places, perplexities, s=7, color=style.colour, alpha=0.35, linewidth=0)
    (drawn,) = ax.plot(
        x,
        means,
        color=style.colour,
        linestyle=style.line,
        marker=style.marker,
        markerfacecolor="white",
    )
    return drawn


def _finish(ax: Axes, axis: str, values: Sequence[float]) -> None:
    ticks = sorted(set(values))
    if ticks[0] > 0 and ticks[-1] > 10 * ticks[0]:
        ax.set_xscale("log")
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.xaxis.set_minor_locator(NullLocator())
    ax.margins(x=0.08)
    ax.set_xlabel(PARAMETER_LABELS.get(axis, axis))


def _note(points: Sequence[SweepPoint]) -> str:
    seeds = counted(len(point.perplexities) + point.diverged for point in points)
    diverged = sum(point.diverged for point in points)
    lost = f" {diverged} diverged runs are left out." if diverged else ""
    if seeds == "1":
        return f"One run a point.{lost}"
    return f"Line: mean of {seeds} seeds; bar: lowest to highest; points: single runs.{lost}"
