"""Validation perplexity over epochs: a panel a model and task, a line a method and fraction.

A task that is a later stage of a sequence has a panel of its own.
"""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from fnsft.artifacts.training import read_training
from fnsft.config.stages import FigureSettings
from fnsft.reporting.curves import Curve, Panel, panels_of
from fnsft.reporting.figures.canvas import (
    Drawing,
    legend_above,
    legend_beside,
    note_below,
    sheet,
    title,
)
from fnsft.reporting.labels import (
    ModelLabels,
    counted,
    run_labels,
    shared_fraction,
    task_labels,
)
from fnsft.reporting.style import NOTE_POINTS, PAGE_INCHES, LineStyle, style_of

ALONE_INCHES, ROW_INCHES, EXTRA_INCHES = 3.4, 2.1, 1.0
MOST_ACROSS = 3
MARKS, MARK_POINTS = 6, 3.0  # on the way to the best epoch, whose mark is larger and filled


def drawing(paths: Sequence[Path], settings: FigureSettings) -> Drawing:
    """Read training records, group and draw them."""
    labels = ModelLabels.of(settings)
    trainings = [labels.training(read_training(path)) for path in paths]
    panels = panels_of(trainings, labels.settings(settings))
    curves = sum(len(panel.curves) for panel in panels)
    models = {panel.model for panel in panels}
    figure = draw(panels, task_labels(settings))
    return Drawing(figure, f"{len(models)} models, {len(panels)} panels, {curves} curves")


def draw(panels: Sequence[Panel], tasks: dict[str, str]) -> Figure:
    """Draw the panels, a row a model where there are several tasks; ``tasks`` are their labels.

    The x axis counts epochs: a GMT run makes fewer optimizer steps from the same samples.
    Perplexity is on a logarithmic axis, where equal distances are equal ratios of it.
    """
    curves = [curve for panel in panels for curve in panel.curves]
    methods = list(dict.fromkeys(curve.method for curve in curves))
    fractions = sorted({curve.fraction for curve in curves if curve.fraction is not None})
    runs = [(curve.method, curve.fraction) for curve in curves]
    names = run_labels(runs)
    figure, axes = _panels_on_sheet(panels)
    handles = {}
    for panel, ax in axes:
        for place, curve in enumerate(panel.curves):
            style = style_of(curve.method, curve.fraction, methods, fractions)
            handles[names[curve.method, curve.fraction]] = _draw_curve(ax, curve, style, place)
        _finish(ax, panel)
        title(ax, _title(panel, panels, tasks))
    beside = legend_beside if len(panels) == 1 else legend_above
    beside(figure, handles)
    note_below(figure, _note(curves, panels, tasks) + shared_fraction(runs))
    return figure


def _panels_on_sheet(panels: Sequence[Panel]) -> tuple[Figure, list[tuple[Panel, Axes]]]:
    """Return a sheet and the panel of each of its axes; what is missing of a row stays empty."""
    models = list(dict.fromkeys(panel.model for panel in panels))
    parts = list(dict.fromkeys(panel.part for panel in panels))
    n_across = len(parts)
    places = [n_across * models.index(p.model) + parts.index(p.part) for p in panels]
    if n_across == 1:
        n_across = len(models) if len(models) <= MOST_ACROSS else 2
    n_rows = -(-(max(places) + 1) // n_across)
    height = ALONE_INCHES if len(panels) == 1 else ROW_INCHES * n_rows + EXTRA_INCHES
    figure, axes = sheet(n_rows, n_across, PAGE_INCHES, height)
    drawn = [(panel, axes.flat[place]) for panel, place in zip(panels, places, strict=True)]
    for place in {*range(axes.size)} - {*places}:
        axes.flat[place].set_axis_off()
    for row in axes:
        next(ax for ax in row if ax.axison).set_ylabel("validation perplexity")
    return figure, drawn


def _title(panel: Panel, panels: Sequence[Panel], tasks: dict[str, str]) -> str:
    """Name a panel by its model and, where they differ, its task and stage."""
    words = [panel.model]
    if len({other.task for other in panels}) > 1:
        words.append(tasks.get(panel.task, panel.task))
    if len({other.stage for other in panels}) > 1:
        words.append(f"stage {panel.stage}")
    return ", ".join(words)


def _draw_curve(ax: Axes, curve: Curve, style: LineStyle, place: int) -> Line2D:
    """Draw the mean with filled marks at best epochs, and the range of the seeds as a band.

    Hollow marks on the way begin elsewhere in every curve, so that those of near ones show.
    """
    if curve.n_seeds > 1:
        ax.fill_between(
            curve.epochs, curve.low, curve.high, color=style.colour, alpha=0.08, linewidth=0
        )
    best = [(curve.epochs[i], curve.mean[i]) for i in curve.best]
    ax.plot(*zip(*best, strict=True), color=style.colour, marker=style.marker, linestyle="none")
    every = max(1, len(curve.epochs) // MARKS)
    (line,) = ax.plot(
        curve.epochs,
        curve.mean,
        color=style.colour,
        linestyle=style.line,
        marker=style.marker,
        markersize=MARK_POINTS,
        markerfacecolor="white",
        markeredgewidth=0.7,
        markevery=[
            i for i in range(place % every, len(curve.epochs), every) if i not in curve.best
        ],
    )
    return line


def _finish(ax: Axes, panel: Panel) -> None:
    ax.set_xlabel("epochs")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(MaxNLocator(6))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.margins(x=0.02)
    _zoom(ax, panel)


def _zoom(ax: Axes, panel: Panel) -> None:
    """Leave the first fall, which would flatten all else, above the axis, and say from where."""
    shown_from = min(1.0, max(curve.epochs[-1] for curve in panel.curves) / 3)
    seen = [
        value
        for curve in panel.curves
        for epoch, *values in zip(curve.epochs, curve.low, curve.high, strict=True)
        if epoch >= shown_from
        for value in values
    ]
    starts = [curve.mean[0] for curve in panel.curves if curve.epochs[0] == 0]
    if not seen or not starts or max(starts) <= max(seen):
        return
    margin = (max(seen) / min(seen)) ** 0.05
    ax.set_ylim(min(seen) / margin, max(seen) * margin)
    before = sorted({f"{start:.3g}" for start in starts}, key=float)
    at_start = " to ".join(before if len(before) < 2 else (before[0], before[-1]))
    # The lower left is free: every curve comes down from above.
    ax.text(
        0.03, 0.03, f"\u2191 epoch 0:\n{at_start}", transform=ax.transAxes, fontsize=NOTE_POINTS
    )


def _note(curves: Sequence[Curve], panels: Sequence[Panel], tasks: dict[str, str]) -> str:
    """Say what lines, bands and marks are, of how many seeds; and whose the only task is."""
    seeds = counted(curve.n_seeds for curve in curves)
    names = list(dict.fromkeys(tasks.get(panel.task, panel.task) for panel in panels))
    task = f"{names[0]}. " if len(names) == 1 else ""
    over = "one seed" if seeds == "1" else f"mean of {seeds} seeds; band: lowest to highest"
    return f"{task}Line: {over}. Filled mark: best epoch. Logarithmic scale."
