"""Structure of graphs by layer: Score over Null, modularity, stability, hubs, entropy."""

from collections.abc import Sequence
from pathlib import Path

from fnsft.config.stages import FigureSettings
from fnsft.reporting.figures.by_layer import source_panel
from fnsft.reporting.figures.canvas import Drawing
from fnsft.reporting.figures.layer_panels import drawing_of

# The rate-matched Null is what neurons reach that fire independently, each at its own rate.
PANELS = (
    source_panel("score_over_rate_null", 1, "parameters_score_over_rate_null"),
    source_panel("score_over_null_unbiased", 1, "parameters_score_over_null_unbiased"),
    source_panel("modularity"),
    source_panel("knn_jaccard_halves"),
    source_panel("in_degree_max", counts=True),
    source_panel("in_degree_gini"),
    source_panel("nobodys_neighbour_share"),
    source_panel("entropy_bits"),
)
PANELS_ACROSS = 4


def drawing(paths: Sequence[Path], settings: FigureSettings) -> Drawing:
    """Read measures and draw those of structure."""
    return drawing_of(paths, settings, PANELS, PANELS_ACROSS)
