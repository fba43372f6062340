"""Agreement of partitions by layer: of two halves of the data, two data sets, and parameters."""

from collections.abc import Sequence
from pathlib import Path

from fnsft.config.stages import FigureSettings
from fnsft.reporting.figures.by_layer import source_panel
from fnsft.reporting.figures.canvas import Drawing
from fnsft.reporting.figures.layer_panels import drawing_of

# Adjusted indices are 0 by chance; the plain one's chance level moves with the sizes.
PANELS = (
    source_panel("adjusted_rand_halves", reference=0),
    source_panel("rand_halves"),
    source_panel("adjusted_rand_datasets", reference=0),
    source_panel("rand_datasets"),
    source_panel("adjusted_rand_parameters", reference=0),
)
PANELS_ACROSS = 3


def drawing(paths: Sequence[Path], settings: FigureSettings) -> Drawing:
    """Read measures and draw those of agreement."""
    return drawing_of(paths, settings, PANELS, PANELS_ACROSS)
