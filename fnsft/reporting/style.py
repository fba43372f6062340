"""How figures look: colour-blind-safe, and still told apart when printed in grey.

Colours are Okabe and Ito's (2008) with a dark grey and a brown; a method also has a marker of
its own, and a fraction a line style, so that no line depends on its colour. Lines of one line
style have colours that are told apart in grey as well. Of more methods than there are colours
those of one kind share one, full fine-tuning, LoRA and their controls each with a line style of
its own. A figure is as wide as a column or as a two-column page, and no higher than the page.
"""

from dataclasses import dataclass
from typing import Any

from fnsft.reporting.labels import RANDOM

COLOURS = (
    "#000000",
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#606060",
    "#8B5A2B",
)
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "<", ">", "p", "h")
SOLID, DASHED, DOTTED, DASH_DOTTED = "-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (6, 1.2, 1, 1.2))
LINES = (SOLID, DASHED, DOTTED, DASH_DOTTED)
GREY, PALE_GREY = "#7F7F7F", "#C8C8C8"
HATCH = "////"  # on pale grey: there is nothing to show

PAGE_INCHES, COLUMN_INCHES = 7.0, 3.33
PAGE_HEIGHT_INCHES = 9.0
NOTE_POINTS = 7

RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same bytes on any machine
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.1,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "pdf.fonttype": 42,  # text stays text; journals refuse Type 3 fonts
    "savefig.dpi": 200,
}


@dataclass(frozen=True)
class LineStyle:
    """How one line is drawn."""

    colour: str
    marker: str
    line: Any = SOLID


# Of four lightnesses, with the parameters', so that grey prints keep them apart.
SOURCE_STYLES = {
    "model": LineStyle("#0072B2", "o", SOLID),
    "random-init": LineStyle("#E69F00", "s", DASHED),
    "token-shuffled": LineStyle("#000000", "^", DOTTED),
}
PARAMETERS_STYLE = LineStyle("#009E73", "D", DASH_DOTTED)


def nth_style(place: int) -> LineStyle:
    """Return the style of the line at a place, from 0: colour, marker and line of its own."""
    return LineStyle(
        COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)], LINES[place % len(LINES)]
    )


def style_of(
    method: str, fraction: float | None, methods: list[str], fractions: list[float]
) -> LineStyle:
    """Return the style of a line among all methods and fractions of a figure."""
    share = 0 if fraction is None else fractions.index(fraction)
    if len(methods) <= len(COLOURS):
        style = nth_style(methods.index(method))
    else:
        kinds = list(dict.fromkeys(_kind_of(name) for name in methods))
        place = kinds.index(_kind_of(method))
        style = nth_style(place)
        share += (
            method.startswith("lora") + 2 * method.endswith(RANDOM) + 3 * (place >= len(COLOURS))
        )
    return LineStyle(style.colour, style.marker, LINES[share % len(LINES)])


def _kind_of(method: str) -> str:
    """Return what full fine-tuning, LoRA and their controls with random neurons share."""
    return method.removesuffix(RANDOM).removeprefix("lora").removeprefix("sft")
