"""What masks do, by layer and optimizer step: heat maps, a column a method, a row a quantity.

Quantities are those of :class:`fnsft.artifacts.telemetry.MaskRecord`, all shares from 0 to 1.
Two random masks that let a share p pass overlap by p / (2 − p).
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from fnsft.artifacts.telemetry import MASKS_FILE_NAME, MaskRecord, read_masks
from fnsft.artifacts.training import TrainingRecord, read_training
from fnsft.config.stages import FigureSettings
from fnsft.errors import InputError
from fnsft.reporting.cells import Key, by_cell
from fnsft.reporting.figures.canvas import Drawing, note_below, row_label, sheet, title
from fnsft.reporting.labels import ModelLabels, counted, in_order, label_of
from fnsft.reporting.style import GREY, HATCH, PAGE_INCHES, PALE_GREY

QUANTITIES = {
    "jaccard_last": "overlap with\nthe step before",
    "jaccard_highest": "overlap with the\nlargest gradients",
    "neighbour_share": "share of the score\nfrom neighbours",
}
ROW_INCHES, EXTRA_INCHES = 1.05, 1.1
COLOURS = "viridis"


@dataclass(frozen=True, eq=False)
class Panel:
    """One quantity of one model's runs of a method at a fraction.

    ``values`` are means over matrices and seeds, float64 [L, steps], NaN where there is none;
    ``steps`` are those of the columns.
    """

    model: str
    method: str
    fraction: float | None
    quantity: str
    values: np.ndarray
    steps: tuple[int, ...]

    @property
    def row(self) -> tuple[str, float | None, str]:
        """What the panels of its row have in common."""
        return self.model, self.fraction, self.quantity


def drawing(paths: Sequence[Path], settings: FigureSettings) -> Drawing:
    """Read what the masks of fine-tuned models did, and draw it; leave out models without."""
    labels = ModelLabels.of(settings)
    recorded = [path for path in paths if (path / MASKS_FILE_NAME).exists()]
    trainings = [labels.training(read_training(path)) for path in recorded]
    records = [read_masks(path) for path in recorded]
    panels = panels_of(trainings, records, labels.settings(settings))
    seeds = counted(len(runs) for runs in by_cell(trainings).values())
    sampled = counted(record.n for found in records for record in found)
    return Drawing(draw(panels, seeds, sampled), f"{len(panels)} panels")


def panels_of(
    trainings: Sequence[TrainingRecord],
    records: Sequence[Sequence[MaskRecord]],
    settings: FigureSettings,
) -> list[Panel]:
    """Group runs by model, method and fraction; panels by model, fraction, quantity, method.

    Raises
    ------
    InputError
        When no run of the settings' models and methods has records of its masks.
    """
    of_run = {id(run): found for run, found in zip(trainings, records, strict=True)}
    grouped = by_cell(trainings)
    models = settings.models or tuple(dict.fromkeys(model for model, _, _ in grouped))
    methods = settings.methods or in_order(method for _, method, _ in grouped)
    panels = [
        panel
        for key, runs in grouped.items()
        if key[0] in models and key[1] in methods
        for panel in _panels(key, [record for run in runs for record in of_run[id(run)]])
    ]
    if not panels:
        raise InputError(
            "telemetry: expected fine-tuned models of the figure's methods with records in "
            f"{MASKS_FILE_NAME}, found none; train a method that has masks, with telemetry"
        )
    order = list(QUANTITIES)
    return sorted(
        panels,
        key=lambda p: (
            models.index(p.model),
            p.fraction or 1,
            order.index(p.quantity),
            methods.index(p.method),
        ),
    )


def _panels(key: Key, records: Sequence[MaskRecord]) -> list[Panel]:
    """Return the panels of one cell's quantities that have values."""
    panels = []
    for quantity in QUANTITIES:
        found: dict[tuple[int, int], list[float]] = {}
        for record in records:
            if (value := getattr(record, quantity)) is not None:
                found.setdefault((record.layer, record.step), []).append(value)
        if found:
            steps = sorted({record.step for record in records})
            values = np.full((1 + max(record.layer for record in records), len(steps)), np.nan)
            for (layer, step), these in found.items():
                values[layer, steps.index(step)] = statistics.fmean(these)
            panels.append(Panel(*key, quantity, values, tuple(steps)))
    return panels


def draw(panels: Sequence[Panel], seeds: str, sampled: str) -> Figure:
    """Draw the panels with one colour scale from 0 to 1."""
    rows = list(dict.fromkeys(panel.row for panel in panels))
    columns = list(dict.fromkeys(panel.method for panel in panels))
    size = PAGE_INCHES, ROW_INCHES * len(rows) + EXTRA_INCHES
    figure, axes = sheet(len(rows), len(columns), *size, sharex="col", sharey="row")
    found = {(panel.row, panel.method): panel for panel in panels}
    for ax_row, row in zip(axes, rows, strict=True):
        for ax, method in zip(ax_row, columns, strict=True):
            if panel := found.get((row, method)):
                image = _draw_panel(ax, panel)
            else:
                _leave_empty(ax)
        row_label(ax_row[0], _row_words(row, rows))
    for ax, method in zip(axes[0], columns, strict=True):
        title(ax, label_of(method))
    for ax in axes[-1]:
        ax.set_xlabel("step")
    figure.colorbar(image, ax=axes, label="share", shrink=min(1, 2 / len(rows)), pad=0.02)
    note_below(figure, _note(rows, seeds, sampled))
    return figure


def _draw_panel(ax: Axes, panel: Panel) -> AxesImage:
    """Draw a method's layers, the first one lowest; a step as wide as to the next record."""
    half = (panel.steps[-1] - panel.steps[0]) / max(1, len(panel.steps) - 1) / 2 or 0.5
    extent = (panel.steps[0] - half, panel.steps[-1] + half, -0.5, len(panel.values) - 0.5)
    ax.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    ax.xaxis.set_major_locator(MaxNLocator(nbins=3, integer=True))
    return ax.imshow(
        panel.values,
        cmap=COLOURS,
        vmin=0,
        vmax=1,
        extent=extent,
        aspect="auto",
        interpolation="nearest",
        origin="lower",
    )


def _leave_empty(ax: Axes) -> None:
    """Show that a method has no such quantity; its axes stay, which others share."""
    ax.set_facecolor(PALE_GREY)
    ax.patch.set(hatch=HATCH, edgecolor=GREY, linewidth=0)


def _row_words(
    row: tuple[str, float | None, str], rows: Sequence[tuple[str, float | None, str]]
) -> str:
    """Name a row's quantity and, where they differ, its model and fraction."""
    model, fraction, quantity = row
    words = [model] if len({other[0] for other in rows}) > 1 else []
    words += [f"p = {fraction:g}"] if len({other[1] for other in rows}) > 1 and fraction else []
    return "\n".join([*words, QUANTITIES[quantity]])


def _note(rows: Sequence[tuple[str, float | None, str]], seeds: str, sampled: str) -> str:
    fractions = {fraction for _, fraction, _ in rows}
    p = next(iter(fractions)) if len(fractions) == 1 else None
    chance = f" p = {p:g}: random masks overlap by {p / (2 - p):.2f}." if p else ""
    runs = "one run" if seeds == "1" else f"runs of {seeds} seeds"
    return (
        f"Up: layers. Mean of a layer's matrices, {runs}, from {sampled} sampled entries a matrix. "
        f"Overlap: entries in both masks over entries in either (Jaccard).{chance} Hatched or "
        "white: not defined."
    )
