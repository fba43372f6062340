"""Distributions of sampled neurons' gate activations (2026, A.2): a panel a layer, a row a neuron.

Values are those of the dump's sampled tokens; beside each neuron stands the share of all
tokens that activate it, counted from the bits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fnsft.artifacts.activations import ActivationDump, LayerBits, open_dump
from fnsft.config.stages import FigureSettings
from fnsft.reporting.figures.canvas import (
    Drawing,
    chosen_layers,
    evenly_spaced,
    layer_title,
    note_below,
    sheet,
    title,
)
from fnsft.reporting.labels import counted, inputs_of
from fnsft.reporting.style import COLOURS, GREY, NOTE_POINTS, PALE_GREY

NEURONS, BINS = 6, 60
ROW_INCHES, PANEL_INCHES = 0.33, 1.9
RIDGE = 0.85  # height of a neuron's largest bin, where rows are 1 apart
ACTIVATED = COLOURS[1]
SHARE: dict[str, Any] = {"ha": "right", "va": "center", "fontsize": NOTE_POINTS}
TAIL = 0.001  # share of a layer's values that the axis may leave out at either end


@dataclass(frozen=True, eq=False)
class Neuron:
    """A neuron's values at the sampled tokens, [S] float32, and its share of activated tokens."""

    number: int
    values: np.ndarray
    activated_share: float


@dataclass(frozen=True, eq=False)
class Panel:
    """One layer's neurons; ``name`` is its model's."""

    name: str
    layer: int
    neurons: tuple[Neuron, ...]
    n_tokens: int


def drawing(paths: Sequence[Path], settings: FigureSettings) -> Drawing:
    """Open activation dumps, take evenly spaced neurons of the layers, draw."""
    names = inputs_of(settings, paths)
    rows = []
    for path, name in zip(paths, names, strict=True):
        dump = open_dump(path)
        layers = chosen_layers(settings.layers, dump.shape.n_layers, str(path))
        rows.append([panel_of(dump, layer, name) for layer in layers])
    tell = len(paths) > 1 or bool(settings.models)
    return Drawing(draw(rows, tell), f"{len(rows)} models, {NEURONS} neurons a layer")


def panel_of(dump: ActivationDump, layer: int, name: str) -> Panel:
    """Take evenly spaced neurons of a layer, their values and shares.

    Reads their rows of the bits alone, and S float16 values a neuron.
    """
    values, bits = dump.values(layer), dump.layer(layer)
    neurons = evenly_spaced(dump.shape.d_mlp, NEURONS)
    return Panel(
        name,
        layer,
        tuple(
            Neuron(n, np.asarray(values[:, n], dtype=np.float32), activated_share(bits, n))
            for n in neurons
        ),
        dump.shape.n_tokens,
    )


def activated_share(bits: LayerBits, neuron: int) -> float:
    """Return the share of all tokens that activate a neuron."""
    blocks = bits.rows(neuron, neuron + 1)
    return sum(int(np.bitwise_count(block).sum()) for block in blocks) / bits.n_tokens


def bin_edges(panel: Panel) -> np.ndarray:
    """Return edges of about BINS bins that hold all values but the tails, and 0 as an edge.

    A bin lies left of 0 in any case: that of neurons that are silent at exactly 0.
    """
    values = np.concatenate([neuron.values for neuron in panel.neurons])
    low, high = np.quantile(values, [TAIL, 1 - TAIL], method="inverted_cdf")
    low, high = min(low, 0.0), max(high, 0.0)
    width = (high - low or 1.0) / BINS
    first, last = min(np.floor(low / width), -1), max(np.ceil(high / width), 1)
    return np.arange(first, last + 1) * width


def counts_of(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Count the values in every bin, which holds its upper edge: 0 is not activated."""
    counts, _ = np.histogram(-values, -edges[::-1])
    return counts[::-1]


def draw(rows: Sequence[Sequence[Panel]], tell: bool) -> Figure:
    """Draw a row of panels a model; ``tell`` whose it is."""
    n_columns = max(map(len, rows))
    height = len(rows) * (NEURONS * ROW_INCHES + 0.6) + 0.3
    figure, axes = sheet(len(rows), n_columns, PANEL_INCHES * n_columns, height)
    beyond = total = 0
    for ax_row, panels in zip(axes, rows, strict=True):
        for ax in ax_row[len(panels) :]:
            ax.set_axis_off()
        for ax, panel in zip(ax_row, panels, strict=False):
            shown = _draw_panel(ax, panel)
            total += sum(len(neuron.values) for neuron in panel.neurons)
            beyond += sum(len(neuron.values) for neuron in panel.neurons) - shown
            title(ax, layer_title(panel.name, panel.layer, tell))
            ax.set_xlabel("activation")
        ax_row[0].set_ylabel("neuron")
    note_below(figure, _note([panels[0] for panels in rows], beyond, total))
    return figure


def _draw_panel(ax: Axes, panel: Panel) -> int:
    """Draw a layer's neurons, each to the height of its largest bin; return the values drawn."""
    edges, shown = bin_edges(panel), 0
    for row, neuron in enumerate(panel.neurons):
        base = len(panel.neurons) - 1 - row
        counts = counts_of(neuron.values, edges)
        shown += int(counts.sum())
        heights = base + RIDGE * counts / max(1, counts.max())
        for side, colour in ((edges[:-1] < 0, GREY), (edges[:-1] >= 0, ACTIVATED)):
            where = np.flatnonzero(side)
            if len(where):
                ax.stairs(
                    heights[where],
                    edges[where[0] : where[-1] + 2],
                    baseline=base,
                    fill=True,
                    color=colour,
                    linewidth=0,
                )
        share = f"{100 * neuron.activated_share:.0f} %"
        ax.text(1, base + RIDGE / 2, share, transform=ax.get_yaxis_transform(), **SHARE)
        ax.axhline(base, color=PALE_GREY, linewidth=0.5)
    ax.axvline(0, color="black", linewidth=0.6)
    ax.set_xlim(edges[0], edges[-1] + 0.2 * (edges[-1] - edges[0]))
    places = [base + RIDGE / 2 for base in reversed(range(len(panel.neurons)))]
    ax.set_yticks(places, [str(neuron.number) for neuron in panel.neurons])
    ax.set_ylim(0, len(panel.neurons))
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    return shown


def _note(firsts: Sequence[Panel], beyond: int, total: int) -> str:
    sampled = counted(len(panel.neurons[0].values) for panel in firsts)
    tokens = counted(panel.n_tokens for panel in firsts)
    return (
        f"Histograms over {sampled} sampled tokens, each as high as its largest bin; activated "
        f"values (above 0) in blue. Right: share of all {tokens} tokens that activate the neuron. "
        f"{beyond:,} of {total:,} values lie beyond the axes."
    )
