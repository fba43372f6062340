"""Panels of measures by layer: how agreement, structure and overlap are drawn."""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from fnsft.artifacts.measures import read_measures
from fnsft.config.stages import FigureSettings
from fnsft.reporting.figures.by_layer import Column, PanelSpec, Series, columns_of
from fnsft.reporting.figures.canvas import (
    Drawing,
    legend_above,
    note_below,
    plain_log,
    row_label,
    sheet,
    sheet_width,
    title,
)
from fnsft.reporting.labels import ModelLabels, counted
from fnsft.reporting.style import COLUMN_INCHES, DASHED, GREY, LineStyle

PANEL_INCHES, TITLED_INCHES, TALL_INCHES, LEGEND_INCHES = 1.2, 1.55, 2.0, 0.7
FEW = 2  # panels that are drawn tall
LETTERS_AN_INCH = 13.5  # of a title above
DECADE = 10
MARKS = 8  # markers on a line, so that many layers stay readable


def drawing_of(
    paths: Sequence[Path], settings: FigureSettings, panels: Sequence[PanelSpec], width: int
) -> Drawing:
    """Read measures, and draw the panels that have any, ``width`` of them beside each other.

    With several models (or tasks, or graphs) every one has a column, and every panel a row.
    """
    labels = ModelLabels.of(settings)
    measures = [labels.row(measure) for measure in read_measures(paths)]
    columns = columns_of(measures, panels, labels.settings(settings).models)
    shown = [p for p in panels if any(line in c for c in columns.values() for line in p.lines)]
    figure = draw(columns, shown, width)
    return Drawing(figure, f"{len(columns)} models, {len(shown)} panels")


def draw(columns: dict[str, Column], panels: Sequence[PanelSpec], width: int) -> Figure:
    """Draw a column of panels a model; one model's panels ``width`` beside each other."""
    several = len(columns) > 1
    n_across = len(columns) if several else min(width, len(panels))
    cells = [(panel, name) for panel in panels for name in columns]
    n_rows = math.ceil(len(cells) / n_across)
    page = sheet_width(COLUMN_INCHES * n_across)
    row = TALL_INCHES if len(panels) <= FEW else PANEL_INCHES if several else TITLED_INCHES
    figure, axes = sheet(
        n_rows,
        n_across,
        page,
        row * n_rows + LEGEND_INCHES,
        sharex="col" if several else False,
        sharey="row" if several else False,
    )
    handles: dict[str, Line2D] = {}
    for place, (ax, (panel, name)) in enumerate(zip(axes.flat, cells, strict=False)):
        _draw_panel(ax, panel, columns[name], handles)
        if place + n_across >= len(cells):
            ax.set_xlabel("layer")
        if not several:
            ax.set_title(_wrapped(panel.title, int(LETTERS_AN_INCH * page / n_across)), loc="left")
        elif place % n_across == 0:
            row_label(ax, panel.title)
        if several and place < n_across:
            title(ax, name)
    for ax in axes.flat[len(cells) :]:
        ax.set_axis_off()
    legend_above(figure, handles)
    note_below(figure, _note(columns, several))
    return figure


def _draw_panel(ax: Axes, panel: PanelSpec, column: Column, handles: dict[str, Line2D]) -> None:
    """Draw a panel's lines, and add them to the legend's handles."""
    if panel.reference is not None:
        ax.axhline(panel.reference, color=GREY, linewidth=0.8, linestyle=DASHED)
    lines = [(line, column[line]) for line in panel.lines if line in column]
    for line, series in lines:
        handles[line.name] = _draw_line(ax, line.style, series)
    if not lines:
        ax.text(0.5, 0.5, "not measured", transform=ax.transAxes, ha="center", color=GREY)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    ax.yaxis.set_major_locator(MaxNLocator(nbins=4, min_n_ticks=3))
    lowest = min((min(series.low) for _, series in lines), default=0)
    if panel.counts and lowest > 0 and max(max(s.high) for _, s in lines) > DECADE * lowest:
        ax.set_yscale("log")
        plain_log(ax.yaxis)


def _draw_line(ax: Axes, style: LineStyle, series: Series) -> Line2D:
    if series.low != series.high:
        ax.fill_between(
            series.layers, series.low, series.high, color=style.colour, alpha=0.15, linewidth=0
        )
    (line,) = ax.plot(
        series.layers,
        series.mean,
        color=style.colour,
        linestyle=style.line,
        marker=style.marker,
        markersize=3.2,
        markerfacecolor="white",
        markevery=max(1, len(series.layers) // MARKS),
    )
    return line


def _wrapped(text: str, letters: int) -> str:
    return textwrap.fill(text, letters, break_on_hyphens=False)


def _note(columns: dict[str, Column], several: bool) -> str:
    """Say what lines and bands are, over how many seeds; and whose the only column is."""
    drawn = [series for column in columns.values() for series in column.values()]
    seeds, parts = counted(series.n_seeds for series in drawn), max(s.n_parts for s in drawn)
    whose = "" if several else f"{next(iter(columns))}. "
    over = "one seed" if seeds == "1" else f"{seeds} seeds"
    if parts > 1:
        over += f" and {parts} matrices"
    if over == "one seed":
        return f"{whose}One seed."
    return f"{whose}Line: mean over {over}; band: lowest to highest."
