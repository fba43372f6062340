"""How often neurons could change, by layer: a heat map a method, model and fraction p.

A neuron's share is the part of its weights that the masks of the recorded steps let pass, in
the mean. Masks that favour no neuron, as random ones, give every neuron the uniform share,
that of its whole layer. The neurons of a layer are sorted by their shares; between two lines
lie those that differ from the uniform one by less than NEAR. The Gini coefficient of a layer's
shares is 0 when all are uniform, and 1 − p when some neurons always change wholly, and the
others never.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from fnsft.artifacts.telemetry import UPDATES_FILE_NAME, NeuronUpdates, read_neuron_updates
from fnsft.artifacts.training import TrainingRecord, read_training
from fnsft.config.stages import FigureSettings
from fnsft.errors import InputError
from fnsft.reporting.cells import Key, by_cell, name_of
from fnsft.reporting.figures.canvas import Drawing, note_below, row_label, sheet, title
from fnsft.reporting.labels import ModelLabels, counted, in_order, label_of
from fnsft.reporting.style import NOTE_POINTS

PANEL_INCHES, SIDE_INCHES, NOTE_INCHES = (1.2, 1.5), 1.2, 0.7
BINS = 100  # of sorted neurons, across a panel
COLOURS = "viridis"
NEAR = 0.1


@dataclass(frozen=True, eq=False)
class Panel:
    """One model's runs of a method at a fraction, mean over their seeds.

    ``shares`` are float64 [L, N], sorted within each layer of each seed, and ``gini`` [L].
    """

    model: str
    method: str
    fraction: float | None
    shares: np.ndarray
    gini: np.ndarray
    n_seeds: int
    recorded_steps: tuple[int, ...]

    @property
    def uniform(self) -> np.ndarray:
        """The share of each layer as a whole, [L]."""
        return self.shares.mean(axis=1)


def drawing(paths: Sequence[Path], settings: FigureSettings) -> Drawing:
    """Read the neuron updates of fine-tuned models, and draw them; leave out models without."""
    labels = ModelLabels.of(settings)
    recorded = [path for path in paths if (path / UPDATES_FILE_NAME).exists()]
    others = [read_training(path).run.method for path in paths if path not in recorded]
    trainings = [labels.training(read_training(path)) for path in recorded]
    updates = [read_neuron_updates(path) for path in recorded]
    panels = panels_of(trainings, updates, labels.settings(settings))
    left_out = ", ".join(label_of(method) for method in in_order(others))
    words = f"; without records of masks: {left_out}" if left_out else ""
    return Drawing(draw(panels), f"{len(panels)} panels{words}")


def panels_of(
    trainings: Sequence[TrainingRecord], updates: Sequence[NeuronUpdates], settings: FigureSettings
) -> list[Panel]:
    """Group runs by model, method and fraction; in the order of the settings.

    Raises
    ------
    InputError
        When no run is of the settings' models and methods, and when seeds differ in shape.
    """
    of_run = {id(run): found for run, found in zip(trainings, updates, strict=True)}
    grouped = by_cell(trainings)
    models = settings.models or tuple(dict.fromkeys(model for model, _, _ in grouped))
    methods = settings.methods or in_order(method for _, method, _ in grouped)
    keys = [key for key in grouped if key[0] in models and key[1] in methods]
    if not keys:
        raise InputError(
            "updates: expected fine-tuned models of the figure's methods with "
            f"{UPDATES_FILE_NAME}, found none; train a method that has masks, with telemetry"
        )
    keys.sort(key=lambda key: (models.index(key[0]), key[2] or 1, methods.index(key[1])))
    return [_panel(key, [of_run[id(run)] for run in grouped[key]]) for key in keys]


def _panel(key: Key, updates: Sequence[NeuronUpdates]) -> Panel:
    if len({found.share.shape for found in updates}) > 1:
        raise InputError(f"{name_of(key)}: expected seeds of one model, found several shapes")
    shares = [np.sort(found.share.astype(np.float64), axis=1) for found in updates]
    return Panel(
        *key,
        shares=np.mean(shares, axis=0),
        gini=np.mean([gini_of(sorted_shares) for sorted_shares in shares], axis=0),
        n_seeds=len(updates),
        recorded_steps=tuple(found.recorded_steps for found in updates),
    )


def gini_of(shares: np.ndarray) -> np.ndarray:
    """Return the Gini coefficient of each row of ascending shares [L, N]; 0 of zeros."""
    n = shares.shape[1]
    weights = (2 * np.arange(1, n + 1) - n - 1) / n
    # Of equal shares rounding can leave less than nothing.
    return np.maximum(shares @ weights, 0) / np.maximum(shares.sum(axis=1), np.finfo(float).tiny)


def binned(shares: np.ndarray) -> np.ndarray:
    """Return the means of at most BINS groups of neighbouring columns."""
    edges = np.linspace(0, shares.shape[1], min(BINS, shares.shape[1]) + 1).round().astype(int)
    return np.add.reduceat(shares, edges[:-1], axis=1) / np.diff(edges)


def draw(panels: Sequence[Panel]) -> Figure:
    """Draw a row of panels a model and fraction, a column a method, with one colour scale."""
    rows = list(dict.fromkeys((panel.model, panel.fraction) for panel in panels))
    columns = list(dict.fromkeys(panel.method for panel in panels))
    width, height = PANEL_INCHES
    size = width * len(columns) + SIDE_INCHES, height * len(rows) + NOTE_INCHES
    figure, axes = sheet(len(rows), len(columns), *size, sharex=True, sharey="row")
    tell = len({panel.model for panel in panels}) > 1
    tops = {panel.method: panel for panel in reversed(panels)}
    found = {((panel.model, panel.fraction), panel.method): panel for panel in panels}
    for ax_row, row in zip(axes, rows, strict=True):
        here = [(ax, found.get((row, method))) for ax, method in zip(ax_row, columns, strict=True)]
        for ax, panel in here:
            if panel is None:
                ax.set_axis_off()
                continue
            image = _draw_panel(ax, panel)
            if panel is tops[panel.method]:
                title(ax, label_of(panel.method))
        first = next(ax for ax, panel in here if panel)
        row_label(first, _row_words(*row, tell))
        first.tick_params(labelleft=True)
    _draw_scale(figure, axes, image, panels)
    note_below(figure, _note(panels))
    return figure


def _draw_panel(ax: Axes, panel: Panel) -> AxesImage:
    """Draw a method's layers, the first one lowest, and lines around the uniform share."""
    n_layers, n_neurons = panel.shares.shape
    image = ax.imshow(
        binned(panel.shares),
        cmap=COLOURS,
        vmin=0,
        vmax=1,
        extent=(0, 1, -0.5, n_layers - 0.5),
        aspect="auto",
        interpolation="nearest",
        origin="lower",
    )
    layers = np.arange(n_layers)
    for off in (-NEAR, NEAR):
        below = (panel.shares < panel.uniform[:, None] + off).sum(axis=1) / n_neurons
        ax.vlines(below, layers - 0.5, layers + 0.5, color="black")
    ax.set_xlim(0, 1)
    ax.set_xticks([0, 0.5, 1], ["0", "50", "100"])
    ax.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    ax.set_xlabel(f"neurons, %\nGini {_spread(panel.gini)}", fontsize=NOTE_POINTS)
    return image


def _draw_scale(
    figure: Figure, axes: np.ndarray, image: AxesImage, panels: Sequence[Panel]
) -> None:
    """Draw the colour bar, with a line at the uniform share of every panel."""
    words = "share of a\nneuron's weights\nthat could change"
    shrink = min(1, 2 / len(axes))
    bar = figure.colorbar(image, ax=axes, label=words, shrink=shrink, aspect=25, pad=0.02)
    for level in {round(float(panel.uniform.mean()), 3) for panel in panels}:
        bar.ax.axhline(level, color="black", linewidth=0.8)


def _row_words(model: str, fraction: float | None, tell: bool) -> str:
    words = [model] if tell else []
    words += [] if fraction is None else [f"p = {fraction:g}"]
    return "\n".join([*words, "layer"])


def _spread(values: np.ndarray) -> str:
    """Write the mean of the layers with the lowest and the highest."""
    return f"{values.mean():.2f}\n{values.min():.2f} to {values.max():.2f}"


def _note(panels: Sequence[Panel]) -> str:
    seeds = counted(panel.n_seeds for panel in panels)
    steps = counted(steps for panel in panels for steps in panel.recorded_steps)
    runs = "one run" if seeds == "1" else f"runs of {seeds} seeds"
    return (
        "Across: a layer's neurons, sorted by the share of their weights that passed; "
        f"mean of {steps} recorded steps, {runs} a panel. Between the lines: less than {NEAR:g} "
        "from the layer's share, which all would have if the mask favoured none (on the scale: "
        "a line a panel). Gini: mean of the layers, below it their range."
    )
