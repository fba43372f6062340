"""Histograms of Score / Null over unseen tokens: a column a layer, a row a model and score.

Every source has a line, the sum of its files; the model also one of the clusters of its
parameters. At 1, the Null, a token's neurons fall into clusters as if drawn at random.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fnsft.artifacts.scores import BINS, HIGHEST, SCORES, ScoreHistograms, read_histograms
from fnsft.config.stages import FigureSettings
from fnsft.errors import InputError
from fnsft.reporting.figures.canvas import (
    Drawing,
    chosen_layers,
    layer_title,
    legend_above,
    note_below,
    sheet,
    title,
)
from fnsft.reporting.labels import BASELINE_LABEL, SOURCE_LABELS, counted
from fnsft.reporting.style import GREY, PARAMETERS_STYLE, SOURCE_STYLES, LineStyle

ROW_INCHES, LEGEND_INCHES = 1.5, 0.8
EDGES = np.linspace(0, HIGHEST, BINS + 1)
NULL_BIN = int(BINS / HIGHEST)  # it begins at 1
TAIL = 0.002  # of every line's tokens, the share that the axis may leave out at either end


@dataclass(frozen=True)
class LineKey:
    """A source's graph, and the partition that is scored."""

    source: str
    partition: str = "clusters"

    @property
    def label(self) -> str:
        """Its name in the legend."""
        return BASELINE_LABEL if self.partition == "parameters" else SOURCE_LABELS[self.source]

    @property
    def style(self) -> LineStyle:
        """Its look."""
        parameters = self.partition == "parameters"
        return PARAMETERS_STYLE if parameters else SOURCE_STYLES[self.source]


LINES = (*(LineKey(source) for source in SOURCE_LABELS), LineKey("model", "parameters"))


@dataclass(frozen=True, eq=False)
class Panel:
    """One layer and score: tokens in every bin, [BINS + 1] int64, the last one's beyond.

    ``name`` is its model's.
    """

    name: str
    layer: int
    score: str
    counts: dict[LineKey, np.ndarray]


def drawing(paths: Sequence[Path], settings: FigureSettings) -> Drawing:
    """Read histograms, sum those of a source, draw."""
    names = settings.model_labels or settings.models or ("",)
    if len(paths) % len(names):
        raise InputError(
            f"models: expected as many histograms of each of {len(names)}, found {len(paths)}"
        )
    found = [read_histograms(path) for path in paths]
    each = len(paths) // len(names)
    panels = [
        panel
        for place, name in enumerate(names)
        for panel in panels_of(found[each * place : each * (place + 1)], settings.layers, name)
    ]
    return Drawing(draw(panels, len(paths)), f"{len(names)} models, {len(paths)} histograms")


def panels_of(
    histograms: Sequence[ScoreHistograms], layers: Sequence[int] = (), name: str = ""
) -> list[Panel]:
    """Sum the histograms of every source of a model; panels by score, then layer.

    Raises
    ------
    InputError
        When sources are unknown, layers differ in number or do not exist, or no token was
        scored in those that are shown.
    """
    numbers = {len(found.layers) for found in histograms}
    if len(numbers) > 1:
        raise InputError(
            f"scores: expected histograms of one model's layers, found {counted(numbers)} layers"
        )
    if unknown := {found.source for found in histograms} - set(SOURCE_LABELS):
        raise InputError(
            f"scores: expected a source of {', '.join(SOURCE_LABELS)}, found {unknown.pop()!r}"
        )
    chosen = chosen_layers(layers, max(numbers), "scores")
    panels = [
        Panel(name, layer, score, _counts(histograms, layer, score))
        for score in SCORES
        for layer in chosen
    ]
    if not any(panel.counts for panel in panels):
        raise InputError(f"scores: expected scored tokens in layers {chosen}, found none")
    return panels


def _counts(
    histograms: Sequence[ScoreHistograms], layer: int, score: str
) -> dict[LineKey, np.ndarray]:
    counts = {}
    for line in LINES:
        found = [h.layers[layer][line.partition, score] for h in histograms]
        found = [c for c, h in zip(found, histograms, strict=True) if h.source == line.source]
        if found and np.sum(found):
            counts[line] = np.sum(found, axis=0)
    return counts


def shown_bins(panels: Sequence[Panel]) -> tuple[int, int]:
    """Return the first bin and the one after the last that an axis of these panels shows.

    Of every line all bins but its outermost tokens (at most TAIL at either end), and the Null.
    """
    first, last = NULL_BIN - 1, NULL_BIN
    for panel in panels:
        for counts in panel.counts.values():
            cumulative = np.cumsum(counts) / counts.sum()
            first = min(first, int(np.searchsorted(cumulative, TAIL, side="right")))
            last = max(last, int(np.searchsorted(cumulative, 1 - TAIL)))
    return first, min(last + 1, BINS)


def draw(panels: Sequence[Panel], n_files: int) -> Figure:
    """Draw a row of panels a model and score, a column a layer."""
    rows: dict[tuple[str, str], list[Panel]] = {}
    for panel in panels:
        rows.setdefault((panel.name, panel.score), []).append(panel)
    n_layers = max(map(len, rows.values()))
    figure, axes = sheet(
        len(rows),
        n_layers,
        1.2 + 1.6 * n_layers,
        ROW_INCHES * len(rows) + LEGEND_INCHES,
        sharex="row",
        sharey="row",
    )
    handles: dict[str, Line2D] = {}
    outside: dict[LineKey, int] = dict.fromkeys(LINES, 0)
    tell = len(rows) > len(SCORES)
    for row, ((name, score), here) in zip(axes, rows.items(), strict=True):
        first, last = shown_bins(here)
        for ax in row[len(here) :]:
            ax.set_axis_off()
        for ax, panel in zip(row, here, strict=False):
            _draw_panel(ax, panel, first, last, handles)
            for line, counts in panel.counts.items():
                outside[line] += int(counts.sum() - counts[first:last].sum())
        row[0].set_ylim(bottom=0)
        row[0].set_ylabel(f"{score} score\nshare of tokens")
        for ax, panel in zip(row, here if score == SCORES[0] else (), strict=False):
            title(ax, layer_title(name, panel.layer, tell))
    for ax in axes[-1]:
        ax.set_xlabel("Score / Null")
    legend_above(
        figure, {line.label: handles[line.label] for line in LINES if line.label in handles}
    )
    note_below(figure, _note(panels, outside, n_files))
    return figure


def _draw_panel(ax: Axes, panel: Panel, first: int, last: int, handles: dict[str, Line2D]) -> None:
    ax.axvline(1, color=GREY, linewidth=0.8)
    for line, counts in panel.counts.items():
        shares = counts[first:last] / counts.sum()
        look = dict(color=line.style.colour, linestyle=line.style.line)
        ax.stairs(shares, EDGES[first : last + 1], linewidth=1.1, **look)
        handles[line.label] = Line2D([], [], **look)
    if not panel.counts:
        ax.text(0.5, 0.5, "no token scored", transform=ax.transAxes, ha="center", color=GREY)


def _note(panels: Sequence[Panel], outside: dict[LineKey, int], n_files: int) -> str:
    """Say how many tokens were scored in a layer, and how many lie beyond the axes."""
    tokens, beyond = [], []
    for line in LINES:
        sums = [int(panel.counts[line].sum()) for panel in panels if line in panel.counts]
        tokens += sums
        if sums:
            beyond.append(f"{line.label} {outside[line]:,} of {sum(sums):,}")
    return (
        f"Vertical line: Score = Null. Bins of {HIGHEST / BINS:g}; {counted(tokens)} tokens "
        f"a line, from {n_files} files. Beyond the axes of all panels: {'; '.join(beyond)}."
    )
