"""t-SNE of the spectral embedding, coloured by cluster: a panel a layer, a row a file.

A picture of how clusters lie, no measure: distances between far groups mean nothing. At
N = 14,336 neurons a layer takes minutes on one core.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fnsft.artifacts.clusters import NO_CLUSTER, LayerClusters, read_clusters
from fnsft.config.stages import FigureSettings
from fnsft.errors import InputError
from fnsft.reporting.figures.canvas import (
    Drawing,
    chosen_layers,
    layer_title,
    legend_above,
    note_below,
    sheet,
    sheet_width,
    title,
)
from fnsft.reporting.labels import inputs_of
from fnsft.reporting.style import NOTE_POINTS, PALE_GREY, nth_style

COLOURED = (1, 2, 3, 0, 5, 4, 6, 8)  # styles of the largest clusters; the others are grey
PERPLEXITY, FEWEST = 30, 5
SEED = 0
RASTERISED = 3_000  # more points than this are an image in the PDF
PANEL_INCHES = 1.65


@dataclass(frozen=True, eq=False)
class Panel:
    """One layer: places [connected, 2] float32 of the neurons with an edge, labels [connected].

    ``isolated`` neurons have no edge, and no place.
    """

    name: str
    layer: int
    places: np.ndarray
    labels: np.ndarray
    isolated: int

    @property
    def n_clusters(self) -> int:
        """Clusters of the layer."""
        return int(self.labels.max(initial=NO_CLUSTER)) + 1


def drawing(paths: Sequence[Path], settings: FigureSettings) -> Drawing:
    """Read clusters, embed their layers in the plane, draw."""
    from tqdm import tqdm

    names = inputs_of(settings, paths)
    rows = []
    for path, name in zip(paths, names, strict=True):
        clusters = read_clusters(path)
        # t-SNE of NaN ends the process without a word.
        if not all(np.isfinite(layer.embedding).all() for layer in clusters.layers):
            raise InputError(f"{path}: expected finite embeddings, found others; cluster anew")
        layers = chosen_layers(settings.layers, len(clusters.layers), str(path))
        bar = tqdm(layers, desc="t-SNE", unit="layer", disable=None)
        rows.append([panel_of(clusters.layers[layer], layer, name) for layer in bar])
    tell = len(paths) > 1 or bool(settings.models)
    return Drawing(draw(rows, tell), f"{len(rows)} models, {max(map(len, rows))} layers")


def panel_of(clusters: LayerClusters, layer: int, name: str) -> Panel:
    """Embed a layer's neurons that are in a cluster."""
    connected = clusters.labels != NO_CLUSTER
    places = plane_of(clusters.embedding[connected])
    return Panel(name, layer, places, clusters.labels[connected], int((~connected).sum()))


def plane_of(embedding: np.ndarray) -> np.ndarray:
    """Return t-SNE places, [n, 2] float32, of the rows of [n, d]; the same ones each time.

    From principal components, at a perplexity of 30, or a third of the neurons where that is
    less; fewer than five different rows keep their first two coordinates.
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    rows = np.ascontiguousarray(embedding, dtype=np.float32)
    rows = np.pad(rows, ((0, 0), (0, max(0, 2 - rows.shape[1]))))
    if len(np.unique(rows, axis=0)) < FEWEST:
        return rows[:, :2]
    perplexity = min(PERPLEXITY, (len(rows) - 1) / 3)
    with threadpool_limits(1):
        tsne = TSNE(2, perplexity=perplexity, init="pca", random_state=SEED, n_jobs=1)
        return np.asarray(tsne.fit_transform(rows), dtype=np.float32)


def draw(rows: Sequence[Sequence[Panel]], tell: bool) -> Figure:
    """Draw a row of panels a file; ``tell`` whose it is."""
    n_columns = max(map(len, rows))
    width = sheet_width(PANEL_INCHES * n_columns)
    height = (width / n_columns + 0.3) * len(rows) + 0.7
    figure, axes = sheet(len(rows), n_columns, width, height)
    for ax_row, panels in zip(axes, rows, strict=True):
        for ax in ax_row[len(panels) :]:
            ax.set_axis_off()
        for ax, panel in zip(ax_row, panels, strict=False):
            _draw_panel(ax, panel)
            title(ax, layer_title(panel.name, panel.layer, tell))
    most = max(panel.n_clusters for panels in rows for panel in panels)
    legend_above(figure, _handles(most), handle_letters=1)
    note_below(figure, "t-SNE of the spectral embedding; cluster 0 is a layer's largest.")
    return figure


def _draw_panel(ax: Axes, panel: Panel) -> None:
    """Draw the other clusters first, in grey, then the largest, the largest of all last."""
    size = float(np.clip(3_000 / max(1, len(panel.labels)), 1, 12))
    look: dict[str, Any] = {"s": size, "linewidth": 0, "rasterized": len(panel.labels) > RASTERISED}
    others = panel.labels >= len(COLOURED)
    ax.scatter(*panel.places[others].T, color=PALE_GREY, marker=".", **look)
    for cluster in reversed(range(len(COLOURED))):
        style = nth_style(COLOURED[cluster])
        places = panel.places[panel.labels == cluster]
        ax.scatter(*places.T, color=style.colour, marker=style.marker, **look)
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(True)
        spine.set_color(PALE_GREY)
    ax.set_xlabel(
        f"{len(panel.labels):,} neurons in {panel.n_clusters} clusters\n"
        f"{panel.isolated:,} without an edge",
        fontsize=NOTE_POINTS,
    )


def _handles(n_clusters: int) -> dict[str, Line2D]:
    """Return the legend's marks for the largest clusters and the others."""
    looks = [nth_style(place) for place in COLOURED[:n_clusters]]
    marks = {
        f"{n}" if n else "cluster 0": (look.colour, look.marker) for n, look in enumerate(looks)
    }
    if n_clusters > len(COLOURED):
        marks["others"] = (PALE_GREY, "o")
    return {
        name: Line2D([], [], color=colour, marker=marker, linestyle="none", markersize=4)
        for name, (colour, marker) in marks.items()
    }
