"""What is lost as networks are removed, and left as only they are kept: curves by model.

A column of panels is an experiment, a row a model's perplexity or accuracy. Networks are
removed and kept in the order of their effect on the ranking split; in gradual unmasking every
layer keeps a share of its neurons, those that load most.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullLocator, StrMethodFormatter

from fnsft.artifacts.lesions import read_lesions
from fnsft.config.stages import FigureSettings
from fnsft.errors import InputError
from fnsft.reporting.figures.canvas import (
    Drawing,
    legend_above,
    note_below,
    plain_log,
    sheet,
    title,
)
from fnsft.reporting.labels import ModelLabels, counted
from fnsft.reporting.lesion_summary import LOSS
from fnsft.reporting.lesions import ModelLesions, lesions_by_model, shown
from fnsft.reporting.style import DASHED, DOTTED, GREY, LineStyle

EXPERIMENTS = {
    "removed": "networks removed",
    "kept": "networks kept alone",
    "unmasked": "% of neurons kept alone",
}
NETWORK, RANDOM = LineStyle("#0072B2", "o"), LineStyle("#D55E00", "s", DOTTED)
PANEL_INCHES, ROW_INCHES, EXTRA_INCHES = 2.3, 1.45, 0.9
DECADE = 10


@dataclass(frozen=True)
class Curve:
    """One source by place: values [places][seeds, or draws of all seeds], in printed units."""

    places: tuple[float, ...]
    values: tuple[tuple[float, ...], ...]

    @property
    def mean(self) -> list[float]:
        """Mean at every place."""
        return [statistics.fmean(found) for found in self.values]


@dataclass(frozen=True)
class Panel:
    """One experiment and benchmark of one model; ``random`` is empty without draws."""

    experiment: str
    benchmark: str
    intact: float
    networks: Curve
    random: Curve
    n_seeds: int
    n_items: int


def drawing(paths: Sequence[Path], settings: FigureSettings) -> Drawing:
    """Read lesions and draw their curves."""
    labels = ModelLabels.of(settings)
    rows = [labels.row(row) for row in read_lesions(paths)]
    models = lesions_by_model(rows, labels.settings(settings).models)
    panels = {model: panels_of(found) for model, found in models.items()}
    n_panels = sum(map(len, panels.values()))
    if not n_panels:
        raise InputError(
            "lesions: expected networks that are removed, kept or unmasked together, found none; "
            "see fnsft lesion"
        )
    return Drawing(draw(panels), f"{len(models)} models, {n_panels} panels")


def panels_of(found: ModelLesions) -> list[Panel]:
    """Return the panels of a model: by benchmark, then experiment; none without a curve."""
    benchmarks = [LOSS, *(name for name in found.intact if name != LOSS)]
    panels = []
    for benchmark in benchmarks:
        for experiment in EXPERIMENTS:
            conditions = {
                place: condition
                for (kind, place), condition in found.conditions.items()
                if kind == experiment and condition.networks(benchmark)
            }
            if not conditions:
                continue
            panels.append(
                Panel(
                    experiment,
                    benchmark,
                    statistics.fmean(shown(benchmark, r.value) for r in found.intact[benchmark]),
                    _curve({p: c.networks(benchmark) for p, c in conditions.items()}),
                    _curve({p: c.draws(benchmark) for p, c in conditions.items()}),
                    found.n_seeds,
                    found.intact[benchmark][0].n,
                )
            )
    return panels


def _curve(values: Mapping[float, Sequence[float]]) -> Curve:
    known = {place: tuple(found) for place, found in values.items() if found}
    return Curve(tuple(known), tuple(known.values()))


def draw(panels: Mapping[str, Sequence[Panel]]) -> Figure:
    """Draw a row of panels a model and benchmark, a column an experiment."""
    every = [panel for found in panels.values() for panel in found]
    columns = [name for name in EXPERIMENTS if name in {panel.experiment for panel in every}]
    rows = [(model, name) for model, found in panels.items() for name in _benchmarks(found)]
    size = PANEL_INCHES * len(columns), ROW_INCHES * len(rows) + EXTRA_INCHES
    figure, axes = sheet(len(rows), len(columns), *size)
    for place, (model, benchmark) in enumerate(rows):
        for ax, experiment in zip(axes[place], columns, strict=True):
            here = [
                p for p in panels[model] if (p.experiment, p.benchmark) == (experiment, benchmark)
            ]
            if not here:
                ax.set_axis_off()
                continue
            _draw_panel(ax, here[0])
            if place == len(rows) - 1:
                ax.set_xlabel(EXPERIMENTS[experiment])
        if benchmark == _benchmarks(panels[model])[0]:
            title(axes[place, 0], model)
        unit = "perplexity" if benchmark == LOSS else f"{benchmark}, % right"
        axes[place, 0].set_ylabel(unit)
    legend_above(figure, _handles(every))
    note_below(figure, _note(every))
    return figure


def _benchmarks(panels: Sequence[Panel]) -> list[str]:
    return list(dict.fromkeys(panel.benchmark for panel in panels))


def _draw_panel(ax: Axes, panel: Panel) -> None:
    across = 100 if panel.experiment == "unmasked" else 1
    up = 1 if panel.benchmark == LOSS else 100
    ax.axhline(up * panel.intact, color=GREY, linewidth=0.8, linestyle=DASHED)
    for curve, style in ((panel.random, RANDOM), (panel.networks, NETWORK)):
        places = [across * place for place in curve.places]
        low, high = ([up * end(v) for v in curve.values] for end in (min, max))
        ax.fill_between(places, low, high, color=style.colour, alpha=0.2, linewidth=0)
        ax.plot(
            places,
            [up * value for value in curve.mean],
            color=style.colour,
            linestyle=style.line,
            marker=style.marker,
            markersize=3,
            markerfacecolor="white",
        )
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=(1, 2, 5, 10), integer=True))
    if panel.benchmark == LOSS:
        ax.set_yscale("log")
        _tick_log(ax)


def _tick_log(ax: Axes) -> None:
    """Set a handful of ticks on a logarithmic axis, however many decades it has."""
    low, high = ax.get_ylim()
    if high > DECADE**2 * low:
        ax.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        return
    plain_log(ax.yaxis)
    if high < DECADE * low:
        ax.yaxis.set_major_locator(MaxNLocator(4))
        ax.yaxis.set_minor_locator(NullLocator())


def _handles(panels: Sequence[Panel]) -> dict[str, Any]:
    """Return the legend's entries, of what there is."""
    looks = {"networks": NETWORK} | ({"random sets": RANDOM} if _draws(panels) else {})
    handles: dict[str, Any] = {
        name: Line2D(
            [], [], color=s.colour, linestyle=s.line, marker=s.marker, markerfacecolor="white"
        )
        for name, s in looks.items()
    }
    return handles | {"intact model": Line2D([], [], color=GREY, linestyle=DASHED)}


def _draws(panels: Sequence[Panel]) -> list[int]:
    return [len(values) for panel in panels for values in panel.random.values]


def _note(panels: Sequence[Panel]) -> str:
    """Say what lines and shades are, and how many seeds, draws and items there are."""
    seeds = counted(panel.n_seeds for panel in panels)
    items: dict[str, list[int]] = {}
    for panel in panels:
        items.setdefault(panel.benchmark, []).append(panel.n_items)
    listed = ", ".join(f"{name} {counted(found)}" for name, found in items.items())
    over = "one seed" if seeds == "1" else f"mean over {seeds} seeds"
    random = (
        f" Random sets: as many neurons of every layer, {counted(draws)} draws in all a point."
        if (draws := _draws(panels))
        else ""
    )
    return (
        f"Line: {over}; shade: lowest to highest.{random} Networks in the order of "
        "their effect on the ranking split; all numbers are of the evaluation split, which had "
        f"no part in it. Unmasking keeps the neurons that load most. Items: {listed}."
    )
