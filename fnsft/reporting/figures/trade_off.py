"""What methods learn of the last task against what they keep: a point a method, a panel a model.

Kept is the change on the earlier tasks since their own stages (:mod:`fnsft.reporting.trade_off`).
Up and to the right is better, also where both are perplexities: then the axes run backwards.
"""

import statistics
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from fnsft.artifacts.records import read_records
from fnsft.config.stages import FigureSettings
from fnsft.reporting.cells import Key
from fnsft.reporting.figures.canvas import (
    Drawing,
    legend_above,
    legend_beside,
    note_below,
    sheet,
    title,
)
from fnsft.reporting.grid import deviation_of
from fnsft.reporting.labels import (
    ModelLabels,
    counted,
    label_of,
    run_labels,
    shared_fraction,
)
from fnsft.reporting.scores import PERPLEXITY, scores_of
from fnsft.reporting.style import DASHED, GREY, PAGE_INCHES, LineStyle, nth_style
from fnsft.reporting.trade_off import NEVER, Outcome, Outcomes, outcomes_of, pareto_front

ALONE_INCHES, ROW_INCHES, EXTRA_INCHES = 3.7, 2.6, 1.2
LABEL_LETTERS = 36
SEVERAL = "at several rates"
FRONT: dict[str, Any] = {"color": GREY, "linewidth": 0.9, "drawstyle": "steps-pre", "zorder": 1}
CURVE: dict[str, Any] = {"color": "black", "linewidth": 0.9, "linestyle": DASHED, "zorder": 1}


@dataclass(frozen=True)
class Point:
    """Means over seeds in the axes' units, and standard deviations; None of one seed."""

    x: float
    y: float
    x_error: float | None
    y_error: float | None


def drawing(paths: Sequence[Path], settings: FigureSettings) -> Drawing:
    """Read records of ``fnsft transfer`` and draw their points."""
    labels = ModelLabels.of(settings)
    records = [labels.row(record) for record in read_records(paths)]
    scores = scores_of(records, labels.settings(settings))
    outcomes = outcomes_of(scores)
    order = (*scores.methods, *settings.controls)
    points = {key: point_of(runs, outcomes) for key, runs in outcomes.runs.items()}
    points = dict(sorted(points.items(), key=lambda p: (order.index(p[0][1]), p[0][2] or 0)))
    figure, axes = panels(scores.models, outcomes)
    handles: dict[str, Any] = {}
    styles = styles_of(points, settings.controls)
    runs = [key[1:] for key in points]
    names = run_labels(runs)
    for model, ax in zip(scores.models, axes, strict=True):
        own = {key: point for key, point in points.items() if key[0] == model}
        for key, point in own.items():
            look = styles[key[1:]]
            draw_errors(ax, [point], look)
            handles[names[key[1:]]] = ax.plot([point.x], [point.y], **look)[0]
        curve = [point for key, point in own.items() if key[1] in settings.curve]
        handles |= _draw_lines(ax, list(own.values()), curve, outcomes, settings.curve[:1])
    put_legend(figure, handles, len(axes))
    joined = any(name.endswith(SEVERAL) for name in handles)
    words = note(outcomes, bool(settings.controls), joined)
    note_below(figure, words + shared_fraction(runs))
    return Drawing(figure, f"{len(scores.models)} models, {len(points)} points")


def point_of(runs: Mapping[int | None, Outcome], outcomes: Outcomes) -> Point:
    """Return where a method stands: means over its seeds."""
    learned = [run.learned for run in runs.values()]
    kept = [run.kept for run in runs.values()]
    of_x, of_y = ([outcomes.shown(value) for value in found] for found in (learned, kept))
    x, y = (outcomes.shown(statistics.fmean(found)) for found in (learned, kept))
    return Point(x, y, deviation_of(of_x), deviation_of(of_y))


def panels(models: Sequence[str], outcomes: Outcomes) -> tuple[Any, list[Axes]]:
    """Return a sheet with a panel a model, its axes named."""
    columns = min(len(models), 2)
    rows = -(-len(models) // columns)
    height = ALONE_INCHES if len(models) == 1 else ROW_INCHES * rows + EXTRA_INCHES
    figure, axes = sheet(rows, columns, PAGE_INCHES, height)
    for model, ax in zip(models, axes.flat, strict=False):
        title(ax, model)
        ax.set_xlabel(f"learned: {outcomes.learned}")
        ax.set_ylabel(textwrap.fill(f"kept: {outcomes.kept}", LABEL_LETTERS))
        ax.margins(0.1)
        if outcomes.metric == PERPLEXITY:
            ax.invert_xaxis()
            ax.invert_yaxis()
    for ax in axes.flat[len(models) :]:
        ax.set_axis_off()
    return figure, list(axes.flat[: len(models)])


def put_legend(figure: Any, handles: dict[str, Any], n_panels: int) -> None:
    """Put the legend beside a panel that is alone, else above all."""
    (legend_beside if n_panels == 1 else legend_above)(figure, handles, handle_letters=2)


def styles_of(
    keys: Mapping[Key, Any], controls: Sequence[str]
) -> dict[tuple[str, float | None], dict[str, Any]]:
    """Return how each method and fraction is marked; controls are hollow."""
    runs = list(dict.fromkeys(key[1:] for key in keys))
    looks: dict[tuple[str, float | None], dict[str, Any]] = {}
    for place, run in enumerate(runs):
        style: LineStyle = nth_style(place)
        fill = "white" if run[0] in controls else style.colour
        looks[run] = {"color": style.colour, "marker": style.marker, "linestyle": "none"}
        looks[run] |= {"markerfacecolor": fill, "zorder": 3}
    return looks


def draw_errors(ax: Axes, points: Sequence[Point], look: Mapping[str, Any]) -> None:
    """Draw the standard deviations of points, where they are known."""
    ax.errorbar(
        [p.x for p in points],
        [p.y for p in points],
        xerr=[p.x_error or 0.0 for p in points],
        yerr=[p.y_error or 0.0 for p in points],
        fmt="none",
        ecolor=look["color"],
        elinewidth=0.6,
        alpha=0.4,
        zorder=2,
    )


def _draw_lines(
    ax: Axes,
    points: Sequence[Point],
    curve: Sequence[Point],
    outcomes: Outcomes,
    of_curve: Sequence[str],
) -> dict[str, Line2D]:
    """Draw what the Pareto front bounds, and the curve's own front where it has two points."""

    def front_of(found: Sequence[Point]) -> list[Point]:
        places = pareto_front([(outcomes.sign * p.x, outcomes.sign * p.y) for p in found])
        return [found[place] for place in places]

    best, line = front_of(points), front_of(curve)
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    x, y = [left, *(p.x for p in best), best[-1].x], [best[0].y, *(p.y for p in best), bottom]
    drawn = {"Pareto front": ax.plot(x, y, **FRONT)[0]}
    ax.set(xlim=(left, right), ylim=(bottom, top))
    if len(line) > 1:
        name = f"{label_of(of_curve[0])} {SEVERAL}"
        drawn[name] = ax.plot([p.x for p in line], [p.y for p in line], **CURVE)[0]
    return drawn


def note(outcomes: Outcomes, controls: bool, joined: bool) -> str:
    """Say what points, bars, hollow marks and lines are."""
    seeds = counted(len(runs) for runs in outcomes.runs.values())
    what = "one seed" if seeds == "1" else f"mean of {seeds} seeds; bars: standard deviation"
    hollow = " Hollow: controls." if controls else ""
    rates = " Dashed: one method's learning rates, without those that another beats in both."
    return (
        f"Point: {what}; after the last stage; up and to the right is better.{kept_note(outcomes)}"
        f"{hollow} Pareto front: no other point, controls included, is as good in both."
        f"{rates if joined else ''}"
    )


def kept_note(outcomes: Outcomes) -> str:
    """Say what is kept, where that is a change."""
    if outcomes.kept.startswith(NEVER):
        return ""
    kind = "over" if outcomes.metric == PERPLEXITY else "minus"
    return f" Kept: a task's score after the last stage {kind} that after its own."
