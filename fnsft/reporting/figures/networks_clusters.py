"""Agreement of functional networks and collaboration clusters by layer, with its controls."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fnsft.config.stages import FigureSettings
from fnsft.reporting.figures.by_layer import LineSpec, source_panel
from fnsft.reporting.figures.canvas import Drawing
from fnsft.reporting.figures.layer_panels import drawing_of
from fnsft.reporting.style import PARAMETERS_STYLE

CHANCE = LineSpec("best_iou_chance", "model", "model, clusters permuted", PARAMETERS_STYLE)
OVERLAP = source_panel("best_iou_networks_clusters")
PANELS = (
    source_panel("adjusted_rand_networks_clusters", reference=0),
    replace(OVERLAP, lines=(*OVERLAP.lines, CHANCE)),
)
PANELS_ACROSS = 2


def drawing(paths: Sequence[Path], settings: FigureSettings) -> Drawing:
    """Read measures and draw those of networks and clusters."""
    return drawing_of(paths, settings, PANELS, PANELS_ACROSS)
