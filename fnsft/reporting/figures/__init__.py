"""Figures, one module a kind: ``drawing(paths, settings)`` reads its files and draws them."""

import importlib
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

from fnsft.config.stages import FigureSettings
from fnsft.reporting.figures.canvas import Drawing
from fnsft.reporting.style import RC


def drawing_of(paths: Sequence[Path], settings: FigureSettings) -> Drawing:
    """Draw the figure of ``settings.kind``, in one style; only its own module is imported."""
    name = settings.kind.replace("-", "_")
    module = importlib.import_module(f"fnsft.reporting.figures.{name}")
    with mpl.rc_context(RC):
        drawing: Drawing = module.drawing(paths, settings)
    return drawing
