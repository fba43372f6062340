"""What all figures share: the sheet with its panels, the legend above, the note below, files."""

import textwrap
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from fnsft.errors import InputError
from fnsft.reporting.style import (
    COLUMN_INCHES,
    NOTE_POINTS,
    PAGE_HEIGHT_INCHES,
    PAGE_INCHES,
    RC,
)

SPREAD_LAYERS = 4
NOTE_LETTERS_AN_INCH, TITLE_LETTERS_AN_INCH, ROW_LABEL_LETTERS = 19, 10.5, 18


@dataclass(frozen=True)
class Drawing:
    """A figure, and in a few words what it shows (for the stage's last line)."""

    figure: Figure
    summary: str


def sheet(
    n_rows: int, n_columns: int, width: float, height: float, **shared: Any
) -> tuple[Figure, np.ndarray]:
    """Return a figure and its panels, [n_rows, n_columns] Axes.

    It is a column or a page wide, whichever holds ``width`` inches, and at most a page high.
    """
    figure = Figure(figsize=(sheet_width(width), min(height, PAGE_HEIGHT_INCHES)))
    FigureCanvasAgg(figure)
    return figure, figure.subplots(n_rows, n_columns, squeeze=False, **shared)


def sheet_width(wanted: float) -> float:
    """Return the width of a column, or that of a page where a column is too narrow."""
    return COLUMN_INCHES if wanted <= COLUMN_INCHES else PAGE_INCHES


def legend_above(figure: Figure, handles: dict[str, Any], handle_letters: float = 3) -> None:
    """Put one legend for all panels above them, as many entries in a line as the sheet has room."""
    canvas = FigureCanvasAgg(figure)
    for n_columns in range(len(handles), 0, -1):
        legend = figure.legend(
            handles.values(),
            handles.keys(),
            loc="outside upper left",
            ncols=n_columns,
            handlelength=handle_letters,
            columnspacing=1.5,
        )
        if legend.get_window_extent(canvas.get_renderer()).width <= figure.bbox.width:
            return
        if n_columns > 1:
            legend.remove()


def legend_beside(figure: Figure, handles: dict[str, Any], handle_letters: float = 3) -> None:
    """Put the legend to the right of a page's only panel, which needs no whole page."""
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside right center",
        handlelength=handle_letters,
        alignment="left",
    )


def note_below(figure: Figure, note: str) -> None:
    """Put small print, such as numbers of seeds and tokens, below the panels."""
    letters = int(NOTE_LETTERS_AN_INCH * figure.get_figwidth())
    figure.supxlabel(textwrap.fill(note, letters), x=0.01, ha="left", fontsize=NOTE_POINTS)


def title(ax: Axes, text: str) -> None:
    """Write a panel's title, in as many lines as it needs beside its neighbours'."""
    grid = ax.get_subplotspec()
    assert grid is not None
    inches = ax.figure.bbox.width / ax.figure.get_dpi() / grid.get_gridspec().ncols
    words = _wrapped(text, int(TITLE_LETTERS_AN_INCH * inches))
    ax.set_title(words, loc="left", fontweight="bold")


def layer_title(name: str, layer: int, tell: bool) -> str:
    """Return the title of a layer's panel; ``tell`` whose layer it is."""
    words = f"layer\u00a0{layer}"  # never apart
    return f"{name}, {words}" if tell else words


def row_label(ax: Axes, text: str) -> None:
    """Write what a row of panels shows to its left, upright, where rows are low."""
    words = "\n".join(_wrapped(line, ROW_LABEL_LETTERS) for line in text.split("\n"))
    ax.set_ylabel(words, rotation=0, ha="right", va="center", ma="right")


def _wrapped(text: str, letters: int) -> str:
    return textwrap.fill(text, letters, break_long_words=False)


def plain_log(axis: Any) -> None:
    """Write a logarithmic axis's numbers in full, at 1, 2 and 5 times the powers of ten."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def chosen_layers(asked: Sequence[int], n_layers: int, where: str) -> list[int]:
    """Return the layers that were asked for, else four (or all) that are evenly spread.

    Raises
    ------
    InputError
        When a layer that was asked for does not exist.
    """
    for layer in asked:
        if not 0 <= layer < n_layers:
            raise InputError(
                f"{where}: layers: expected numbers from 0 to {n_layers - 1}, found {layer}"
            )
    return list(asked) or evenly_spaced(n_layers, SPREAD_LAYERS)


def evenly_spaced(n: int, wanted: int) -> list[int]:
    """Return ``wanted`` numbers from 0 to n − 1, ends included, or all of them when n is less."""
    places = np.linspace(0, n - 1, min(wanted, n))
    return [int(place) for place in places.round()]


def styled() -> AbstractContextManager[None]:
    """Return the one style of all figures, whatever the user's own settings are."""
    return mpl.style.context(["default", RC])


def save(figure: Figure, path: Path, format: Literal["pdf", "png"]) -> None:
    """Write the figure; the same figure gives the same bytes (a PDF holds no date)."""
    with styled():
        metadata = {"CreationDate": None} if format == "pdf" else {}
        figure.savefig(path, format=format, metadata=metadata)
