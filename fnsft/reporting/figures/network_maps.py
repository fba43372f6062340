"""What heat maps of networks share: a panel a file, ticks by network, one colour scale."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from fnsft.artifacts.networks import Networks, read_networks
from fnsft.config.stages import FigureSettings
from fnsft.errors import InputError
from fnsft.reporting.figures.canvas import sheet
from fnsft.reporting.labels import inputs_of
from fnsft.reporting.style import NOTE_POINTS

MOST_ACROSS = 3
TICK_STEPS = {12: 1, 24: 2, 40: 5}  # up to so many networks, a tick every so many
MOST_LABELLED = max(TICK_STEPS)


def networks_by_name(paths: Sequence[Path], settings: FigureSettings) -> dict[str, Networks]:
    """Read networks under the names of their models, else of their files."""
    names = inputs_of(settings, paths)
    if len(set(names)) < len(names):
        raise InputError(f"models: expected one file each, found {', '.join(names)}")
    found = {name: read_networks(path)[1] for name, path in zip(names, paths, strict=True)}
    for path, networks in zip(paths, found.values(), strict=True):
        if not sum(analysis.n_networks for analysis in networks.analyses):
            raise InputError(f"{path}: expected at least one network, found none")
    return found


def map_sheet(
    n_panels: int, panel_inches: tuple[float, float], extra: float
) -> tuple[Figure, np.ndarray]:
    """Return a figure and its panels, [n_panels] Axes, with room for a scale and notes."""
    across = min(n_panels, MOST_ACROSS)
    n_rows = math.ceil(n_panels / across)
    width, height = panel_inches
    figure, axes = sheet(n_rows, across, width * across + extra, height * n_rows + extra)
    for ax in axes.flat[n_panels:]:
        ax.set_axis_off()
    return figure, axes.flat[:n_panels]


def tick_networks(axis: Any, n_networks: int) -> None:
    """Set ticks at the networks of an axis: all, some, or none where there are too many."""
    step = next((step for most, step in TICK_STEPS.items() if n_networks <= most), None)
    shown = range(0, n_networks, step) if step else ()
    axis.set_ticks(list(shown), [str(number) for number in shown])
    axis.set_tick_params(labelsize=NOTE_POINTS, length=2)
    axis.set_label_text("network" if shown else f"{n_networks:,} networks")
