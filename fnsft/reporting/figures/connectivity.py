"""Functional connectivity: how the time courses of networks correlate, a panel a model.

A network's time course is its mean signal at every token; shapes: T tokens, K networks of all
analyses of a file.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from fnsft.artifacts.networks import Networks
from fnsft.config.stages import FigureSettings
from fnsft.reporting.figures.canvas import Drawing, note_below, title
from fnsft.reporting.figures.network_maps import (
    MOST_LABELLED,
    map_sheet,
    networks_by_name,
    tick_networks,
)
from fnsft.reporting.labels import counted
from fnsft.reporting.style import PALE_GREY

PANEL_INCHES, EXTRA_INCHES = (2.3, 2.2), 0.8
CLEAR = 0.1  # of the scale
COLOURS = "PuOr_r"  # purple to orange: told apart by the colour-blind


def drawing(paths: Sequence[Path], settings: FigureSettings) -> Drawing:
    """Read networks, correlate and draw them."""
    found = networks_by_name(paths, settings)
    numbers = counted(len(correlations_of(networks)) for networks in found.values())
    return Drawing(draw(found), f"{len(found)} models, {numbers} networks")


def correlations_of(networks: Networks) -> np.ndarray:
    """Return Pearson's correlation of all pairs of time courses, [K, K] float64.

    NaN for a course that is constant.
    """
    courses = np.concatenate([a.time_courses for a in networks.analyses], axis=1, dtype=np.float64)
    constant = np.ptp(courses, axis=0) == 0
    courses -= courses.mean(axis=0)
    norms = np.linalg.norm(courses, axis=0)
    norms[constant] = np.nan
    return np.clip(courses.T @ courses / np.outer(norms, norms), -1, 1)


def draw(found: Mapping[str, Networks]) -> Figure:
    """Draw the matrices in the order of the networks' numbers, on one scale."""
    matrices = {name: correlations_of(networks) for name, networks in found.items()}
    for matrix in matrices.values():
        np.fill_diagonal(matrix, np.nan)
    largest = max(np.nanmax(np.abs(m), initial=0) for m in matrices.values())
    limit = min(1, max(0.1, np.ceil(10 * largest) / 10))
    figure, axes = map_sheet(len(found), PANEL_INCHES, EXTRA_INCHES)
    for ax, (name, matrix) in zip(axes, matrices.items(), strict=True):
        image = _draw_panel(ax, matrix, limit)
        if len(matrix) <= MOST_LABELLED:
            _draw_borders(ax, found[name])
        title(ax, name)
    figure.colorbar(image, ax=list(axes), label="correlation", aspect=25, pad=0.02, shrink=0.8)
    note_below(figure, _note(found, matrices, limit))
    return figure


def _draw_panel(ax: Axes, matrix: np.ndarray, limit: float) -> AxesImage:
    """Draw a matrix; dots tell what is clearly negative where there is no colour."""
    ax.set_facecolor(PALE_GREY)
    image = ax.imshow(matrix, cmap=COLOURS, vmin=-limit, vmax=limit, interpolation="nearest")
    n_networks = len(matrix)
    if n_networks <= MOST_LABELLED:
        rows, columns = np.nonzero(matrix < -CLEAR * limit)
        ax.scatter(columns, rows, s=60 / n_networks, color="black", linewidth=0)
    tick_networks(ax.xaxis, n_networks)
    tick_networks(ax.yaxis, n_networks)
    return image


def _draw_borders(ax: Axes, networks: Networks) -> None:
    """Draw lines between the networks of one analysis and the next."""
    ends = np.cumsum([analysis.n_networks for analysis in networks.analyses])
    for end in ends[:-1]:
        ax.axhline(end - 0.5, color="black", linewidth=0.3)
        ax.axvline(end - 0.5, color="black", linewidth=0.3)


def _note(found: Mapping[str, Networks], matrices: Mapping[str, np.ndarray], limit: float) -> str:
    tokens = counted(len(n.analyses[0].time_courses) for n in found.values())
    samples = counted(len(n.sample_offsets) - 1 for n in found.values())
    constant = sum(int(np.isnan(m).all(axis=1).sum()) for m in matrices.values() if len(m) > 1)
    words = f" and {constant} networks whose course is constant" if constant else ""
    return (
        "Pearson correlation of time courses, a network's mean signal at every token: "
        f"{tokens} tokens of {samples} samples, one seed a model. Dots: less than "
        f"−{CLEAR * limit:.2g}. Grey: the diagonal{words}."
    )
