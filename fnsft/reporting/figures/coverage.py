"""Where networks lie: the share of every layer's channels that are in each, a panel a model."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from fnsft.artifacts.networks import Networks
from fnsft.config.stages import FigureSettings
from fnsft.reporting.figures.canvas import Drawing, note_below, title
from fnsft.reporting.figures.network_maps import map_sheet, networks_by_name, tick_networks
from fnsft.reporting.labels import counted
from fnsft.reporting.style import GREY, HATCH, PALE_GREY

PANEL_INCHES, EXTRA_INCHES = (2.4, 2.0), 0.9
COLOURS = "viridis"


def drawing(paths: Sequence[Path], settings: FigureSettings) -> Drawing:
    """Read networks and draw their shares."""
    found = networks_by_name(paths, settings)
    layers = counted(len(networks.widths) for networks in found.values())
    return Drawing(draw(found), f"{len(found)} models, {layers} layers")


def shares_of(networks: Networks) -> np.ndarray:
    """Return the share of each layer's channels in each network, [K, L] float64.

    NaN where a layer was not part of the analysis that found the network.
    """
    rows = []
    for analysis in networks.analyses:
        part = np.full((analysis.n_networks, len(networks.widths)), np.nan)
        for layer, members in networks.by_layer(analysis, analysis.members).items():
            part[:, layer] = members.mean(axis=1)
        rows.append(part)
    return np.concatenate(rows)


def draw(found: Mapping[str, Networks]) -> Figure:
    """Draw a row a network and a column a layer, on one scale in percent."""
    percent = {name: 100 * shares_of(networks) for name, networks in found.items()}
    largest = max(np.nanmax(values, initial=0) for values in percent.values())
    figure, axes = map_sheet(len(found), PANEL_INCHES, EXTRA_INCHES)
    for ax, (name, values) in zip(axes, percent.items(), strict=True):
        image = _draw_panel(ax, values, largest or 1)
        title(ax, name)
    label = "channels of the layer, %"
    figure.colorbar(image, ax=list(axes), label=label, aspect=25, pad=0.02)
    note_below(figure, _note(found, percent))
    return figure


def _draw_panel(ax: Axes, values: np.ndarray, largest: float) -> AxesImage:
    # What the map leaves out shows the hatched background.
    ax.set_facecolor(PALE_GREY)
    ax.patch.set(hatch=HATCH, edgecolor=GREY, linewidth=0)
    image = ax.imshow(
        values, cmap=COLOURS, vmin=0, vmax=largest, aspect="auto", interpolation="nearest"
    )
    tick_networks(ax.yaxis, len(values))
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    ax.set_xlabel("layer")
    return image


def _note(found: Mapping[str, Networks], percent: Mapping[str, np.ndarray]) -> str:
    sites = ", ".join(sorted({networks.site for networks in found.values()}))
    sizes = [
        int(row.sum())
        for networks in found.values()
        for analysis in networks.analyses
        for row in analysis.members
    ]
    hatched = any(np.isnan(values).any() for values in percent.values())
    words = " Hatched: not part of the network's analysis." if hatched else ""
    return (
        f"Channels of the site {sites} that are in each network: {counted(sizes)} a network, one "
        f"seed a model.{words}"
    )
