"""What methods learn against what they keep, as curves over the last stage's learning rate.

Kept is the change on the earlier tasks since their own stages (:mod:`fnsft.reporting.trade_off`).
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from fnsft.artifacts.records import Record, read_records
from fnsft.config.stages import FigureSettings
from fnsft.errors import InputError
from fnsft.reporting.cells import Key
from fnsft.reporting.figures.canvas import Drawing, note_below
from fnsft.reporting.figures.trade_off import (
    Point,
    draw_errors,
    kept_note,
    panels,
    point_of,
    put_legend,
    styles_of,
)
from fnsft.reporting.labels import ModelLabels, counted, run_labels, shared_fraction
from fnsft.reporting.scores import scores_of
from fnsft.reporting.style import LINES
from fnsft.reporting.trade_off import Outcomes, outcomes_of

MARK_POINTS = (2.5, 6.0)  # of the lowest and the highest rate


def drawing(paths: Sequence[Path], settings: FigureSettings) -> Drawing:
    """Read records of ``fnsft transfer``, one rate a file, and draw a curve a method."""
    if len(settings.values) != len(paths):
        raise InputError(
            f"values: expected the learning rate of each of {len(paths)} inputs, found "
            f"{len(settings.values)}"
        )
    labels = ModelLabels.of(settings)
    by_rate: dict[float, list[Record]] = {}
    for path, rate in sorted(zip(paths, settings.values, strict=True), key=lambda pair: pair[1]):
        by_rate.setdefault(rate, []).extend(labels.row(record) for record in read_records([path]))
    scores = scores_of([r for found in by_rate.values() for r in found], labels.settings(settings))
    order = (*scores.methods, *settings.controls)
    found = {
        rate: outcomes_of(scores_of(records, labels.settings(settings)))
        for rate, records in by_rate.items()
    }
    curves: dict[Key, dict[float, Point]] = {}
    for rate, outcomes in found.items():
        for key, runs in outcomes.runs.items():
            curves.setdefault(key, {})[rate] = point_of(runs, outcomes)
    curves = dict(sorted(curves.items(), key=lambda c: (order.index(c[0][1]), c[0][2] or 0)))
    first = next(iter(found.values()))
    if {(o.metric, o.learned, o.kept) for o in found.values()} != {
        (first.metric, first.learned, first.kept)
    }:
        raise InputError("rates: expected inputs of one sequence of tasks, measured in one way")
    figure, axes = panels(scores.models, first)
    handles: dict[str, Any] = {}
    styles = styles_of(curves, settings.controls)
    cells = [key[1:] for key in curves]
    names = run_labels(cells)
    for model, ax in zip(scores.models, axes, strict=True):
        for place, (key, points) in enumerate((k, p) for k, p in curves.items() if k[0] == model):
            look = styles[key[1:]] | {"linestyle": LINES[place % len(LINES)]}
            handles[f"{names[key[1:]]}, {_span(points)}"] = _draw_curve(ax, points, look)
    put_legend(figure, handles, len(axes))
    words = _note(list(found.values()), bool(settings.controls))
    note_below(figure, words + shared_fraction(cells))
    return Drawing(figure, f"{len(scores.models)} models, {len(curves)} curves, {len(found)} rates")


def _draw_curve(ax: Axes, points: dict[float, Point], look: dict[str, Any]) -> Line2D:
    """Draw a method's means in the order of their rates, a larger mark for a higher one.

    Return what its line looks like in the legend.
    """
    line = list(points.values())
    draw_errors(ax, line, look)
    ax.plot([p.x for p in line], [p.y for p in line], **look | {"marker": "none"})
    for size, point in zip(np.linspace(*MARK_POINTS, len(line)), line, strict=True):
        ax.plot([point.x], [point.y], **look | {"linestyle": "none"}, markersize=size)
    return Line2D([], [], **look)


def rate_text(rate: float) -> str:
    """Return a learning rate such as ``1e-4`` or ``1.5e-4``."""
    digits, exponent = f"{rate:.1e}".split("e")
    return f"{digits.removesuffix('.0')}e{int(exponent)}"


def _span(rates: Collection[float]) -> str:
    """Return the lowest and the highest of learning rates."""
    return " to ".join(dict.fromkeys(rate_text(rate) for rate in (min(rates), max(rates))))


def _note(found: Sequence[Outcomes], controls: bool) -> str:
    """Say what points and lines are."""
    seeds = counted(len(runs) for outcomes in found for runs in outcomes.runs.values())
    what = "one seed" if seeds == "1" else f"mean of {seeds} seeds; bars: standard deviation"
    hollow = " Hollow: controls." if controls else ""
    return (
        f"Point: {what}; the larger its mark, the higher the last stage's learning rate, whose "
        f"range the legend says; up and to the right is better.{kept_note(found[0])}{hollow}"
    )
