"""Figures, one module a kind: ``drawing(paths, settings)`` reads its files and draws them."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fnsft.config.stages import FigureSettings

if TYPE_CHECKING:
    from fnsft.reporting.figures.canvas import Drawing


def drawing_of(paths: Sequence[Path], settings: FigureSettings) -> "Drawing":
    """Draw the figure of ``settings.kind``, in one style; only its own module is imported."""
    from fnsft.reporting.figures.canvas import styled  # here: captions are read without matplotlib

    name = settings.kind.replace("-", "_")
    module = importlib.import_module(f"fnsft.reporting.figures.{name}")
    with styled():
        drawing: Drawing = module.drawing(paths, settings)
    return drawing
