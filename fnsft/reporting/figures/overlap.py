"""What the graph changes about a mask, by layer: entries that masks share, energy they keep."""

from collections.abc import Sequence
from pathlib import Path

from fnsft.config.stages import FigureSettings
from fnsft.reporting.figures.by_layer import LineSpec, PanelSpec
from fnsft.reporting.figures.canvas import Drawing
from fnsft.reporting.figures.layer_panels import drawing_of
from fnsft.reporting.labels import label_of
from fnsft.reporting.style import nth_style

METHODS = ("highest", "collab", "shuffled", "random")
PANELS_ACROSS = 2


def _line(prefix: str, method: str) -> LineSpec:
    style = nth_style(METHODS.index(method))
    return LineSpec(prefix + method, "model", label_of(method), style)


PANELS = (
    PanelSpec(
        "share of the squared gradient that the mask keeps",
        tuple(_line("gradient_energy_", method) for method in METHODS),
    ),
    PanelSpec(
        "share of CollabMask's entries that the other mask has too",
        tuple(_line("mask_shared_with_", method) for method in METHODS if method != "collab"),
    ),
)


def drawing(paths: Sequence[Path], settings: FigureSettings) -> Drawing:
    """Read measures and draw those of overlap, the mean over a layer's matrices."""
    return drawing_of(paths, settings, PANELS, PANELS_ACROSS)
