"""Influence of tokens by frequency rank, for several exponents β (2026, A.3).

The influence of the token of rank r is count(r) · r^β / Σ count · r^β: the share of all token
weight TR(x) = rank(x)^β that its occurrences carry. Upper panels cumulate it over ranks; lower
ones show, for every β, the ranks between the 20 % and the 80 % quantile of influence, its
middle 60 %. A quantile is the lowest rank at which the cumulated influence reaches it. Tokens
of equal counts share their mean rank, and enter together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fnsft.artifacts.statistics import TokenStatistics, read_statistics
from fnsft.config.stages import FigureSettings
from fnsft.errors import InputError
from fnsft.reporting.figures.canvas import Drawing, legend_above, note_below, sheet, title
from fnsft.reporting.labels import inputs_of
from fnsft.reporting.style import GREY, LineStyle, nth_style

QUANTILES = (0.2, 0.8)
PANEL_INCHES, CURVES_INCHES, BAR_INCHES, LEGEND_INCHES = 3.3, 2.1, 0.16, 0.9


@dataclass(frozen=True, eq=False)
class Influence:
    """Influence at one β: ``ranks`` ascending and ``cumulated`` shares, both [ranks] float64.

    ``band`` holds the ranks of the QUANTILES.
    """

    beta: float
    ranks: np.ndarray
    cumulated: np.ndarray
    band: tuple[float, float]


@dataclass(frozen=True, eq=False)
class Panel:
    """The influences of one file of token statistics, and its numbers of tokens."""

    name: str
    influences: tuple[Influence, ...]
    n_occurrences: int
    n_distinct: int


def drawing(paths: Sequence[Path], settings: FigureSettings) -> Drawing:
    """Read token statistics, cumulate influences, draw."""
    names = inputs_of(settings, paths)
    if not settings.betas:
        raise InputError("betas: expected at least one exponent, found none")
    panels = []
    for path, name in zip(paths, names, strict=True):
        statistics = read_statistics(path)
        seen = statistics.ranks > 0
        if not seen.any():
            raise InputError(f"{path}: expected tokens that occur, found none; count anew")
        influences = tuple(influence_of(statistics, beta) for beta in settings.betas)
        panels.append(Panel(name, influences, int(statistics.counts.sum()), int(seen.sum())))
    tell = len(paths) > 1 or bool(settings.models)
    return Drawing(draw(panels, tell), f"{len(panels)} panels, {len(settings.betas)} exponents")


def influence_of(statistics: TokenStatistics, beta: float) -> Influence:
    """Cumulate the influence of the tokens that occur, by rank; see the module for formulas."""
    seen = statistics.ranks > 0
    ranks, places = np.unique(statistics.ranks[seen], return_inverse=True)
    counts = np.bincount(places, weights=statistics.counts[seen])
    # Relative to the last rank, since rank^β may exceed any float.
    influence = counts * (ranks / ranks[-1]) ** beta
    cumulated = np.cumsum(influence) / influence.sum()
    first, last = (ranks[_reaches(cumulated, quantile)] for quantile in QUANTILES)
    return Influence(beta, ranks, cumulated, (float(first), float(last)))


def _reaches(cumulated: np.ndarray, quantile: float) -> int:
    # The last sum may miss 1 by a rounding error, and a quantile by as much.
    return int(np.flatnonzero(cumulated >= quantile - 1e-12)[0])


def draw(panels: Sequence[Panel], tell: bool) -> Figure:
    """Draw a column a file: cumulated influences above, their middle ranks below."""
    betas = [influence.beta for influence in panels[0].influences]
    bars = BAR_INCHES * len(betas) + 0.1
    figure, axes = sheet(
        2,
        len(panels),
        PANEL_INCHES * len(panels),
        CURVES_INCHES + bars + LEGEND_INCHES,
        sharex="col",
        sharey="row",
        height_ratios=(CURVES_INCHES, bars),
    )
    handles: dict[str, Line2D] = {}
    wide = len(panels) <= 2
    for (upper, lower), panel in zip(axes.T, panels, strict=True):
        for place, influence in enumerate(panel.influences):
            style = nth_style(place)
            handles[f"β = {influence.beta:g}"] = _draw_influence(upper, influence, style)
            _draw_band(lower, place, influence.band, style)
        for quantile in QUANTILES:
            upper.axhline(quantile, color=GREY, linewidth=0.6)
        if tell:
            title(upper, panel.name)
        upper.set_xscale("log")
        upper.set_ylim(0, 1.02)
        lower.set_ylim(len(betas) - 0.4, -0.6)
        lower.set_xlabel("rank of the token" + wide * " (1: most frequent)")
    axes[0, 0].set_ylabel("cumulated influence")
    axes[1, 0].set_yticks(range(len(betas)), [f"{beta:g}" for beta in betas])
    axes[1, 0].set_ylabel("β")
    legend_above(figure, handles)
    note_below(figure, _note(panels, tell))
    return figure


def _draw_influence(ax: Axes, influence: Influence, style: LineStyle) -> Line2D:
    (line,) = ax.step(
        influence.ranks,
        influence.cumulated,
        where="post",
        color=style.colour,
        linestyle=style.line,
        marker=style.marker,
        markersize=3.2,
        markerfacecolor="white",
        markevery=0.1,
    )
    return line


def _draw_band(ax: Axes, place: int, band: tuple[float, float], style: LineStyle) -> None:
    """Draw a bar, with ends that show where a band is one rank wide."""
    height = [place, place]
    ax.plot(band, height, color=style.colour, linewidth=5, solid_capstyle="butt")
    ax.plot(band, height, color=style.colour, marker="|", markersize=7, linestyle="none")


def _note(panels: Sequence[Panel], tell: bool) -> str:
    numbers = [
        (f"{panel.name}: " if tell else "")
        + f"{panel.n_occurrences:,} tokens, {panel.n_distinct:,} of them distinct"
        for panel in panels
    ]
    return (
        f"{'; '.join(numbers)}. Influence: count\u00a0·\u00a0rank^β, as a share; tokens of "
        "equal counts share a rank. Bars: the ranks of its middle 60 %."
    )
