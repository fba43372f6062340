"""The look of figures: sizes, texts that can be read, colours that are told apart."""

import itertools
import re
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from figure_inputs import crowded
from matplotlib.axis import Tick
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from fnsft.config.stages import FigureKind, FigureSettings
from fnsft.reporting.figures import drawing_of
from fnsft.reporting.figures.bars import HATCHES, bar_look
from fnsft.reporting.figures.canvas import styled
from fnsft.reporting.figures.captions import CAPTIONS, caption_of
from fnsft.reporting.figures.clusters import COLOURED
from fnsft.reporting.style import (
    COLOURS,
    COLUMN_INCHES,
    PAGE_HEIGHT_INCHES,
    PAGE_INCHES,
    PARAMETERS_STYLE,
    SOURCE_STYLES,
    nth_style,
)

KINDS = get_args(FigureKind)
LARGE = [kind for kind in KINDS if kind not in ("agreement", "networks-clusters")]  # as structure
SMALLEST_POINTS = 6
TOUCHING = 1.0  # pixels at 100 a inch by which boxes of texts, taller than their ink, may meet
LOWEST_PANEL_INCHES = 0.35
# Simulated full colour blindness (Machado, Oliveira and Fernandes 2009), and print in grey:
# what each does to linear RGB.
VISIONS = {
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
    "grey": [[0.2126, 0.7152, 0.0722]] * 3,
}
CLEAR = 15  # distance in CIELAB, where 2.3 is just noticed side by side
CLEAR_OF_FOUR = 10  # in grey, of the sources' four lines, which differ in dashes and marks too


def drawn_texts(figure: Figure) -> list[tuple[Text, Bbox]]:
    """Return the texts that are drawn, with their boxes in pixels."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    of_ticks = {label for tick in figure.findobj(Tick) for label in (tick.label1, tick.label2)}
    hidden: set[Text] = set()
    texts: list[Text] = []
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            if not ax.axison:
                hidden |= set(axis.findobj(Text))
                continue
            # Beyond an axis's ends ticks exist that are not drawn.
            texts += [t.label1 for t in axis._update_ticks() if t.label1.get_visible()]
    texts += [t for t in figure.findobj(Text) if t not in of_ticks | hidden]
    shown = {t: t for t in texts if t.get_visible() and t.get_text().strip()}
    return [(text, text.get_window_extent(renderer)) for text in shown]


def faults_of(figure: Figure) -> list[str]:
    """Return what is wrong with a figure's sizes and texts."""
    with styled():
        FigureCanvasAgg(figure).draw()
    width, height = figure.get_size_inches()
    faults = [] if width in (COLUMN_INCHES, PAGE_INCHES) else [f"{width} inches wide"]
    faults += [f"{height} inches high"] if height > PAGE_HEIGHT_INCHES else []
    page, texts = figure.bbox.padded(TOUCHING), drawn_texts(figure)
    for text, box in texts:
        if text.get_fontsize() < SMALLEST_POINTS:
            faults.append(f"small: {text.get_text()!r}")
        if not (
            page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1
        ):
            faults.append(f"cut off: {text.get_text()!r}")
    for (one, box), (other, there) in itertools.combinations(texts, 2):
        if box.padded(-TOUCHING).overlaps(there.padded(-TOUCHING)):
            faults.append(f"{one.get_text()!r} overlaps {other.get_text()!r}")
    for ax in figure.axes:
        panel = ax.get_window_extent()
        if panel.height < 100 * LOWEST_PANEL_INCHES and len(ax.get_yticklabels()) > 1:
            faults.append(f"a panel of {panel.height / 100:.2f} inches")
        faults += ["a legend over data"] if ax.get_legend() else []
        faults += [
            "a legend over data"
            for legend in figure.legends
            if ax.axison and legend.get_window_extent().overlaps(panel)
        ]
    return faults


def small(kind: FigureKind, inputs: dict[str, list[str]]) -> tuple[list[Path], FigureSettings]:
    """The smallest inputs of a kind, with the settings that they need."""
    paths = [Path(word) for word in inputs[kind] if Path(word).exists()]
    return paths, FigureSettings(kind=kind, axes=("k",) * 4, values=(5, 5, 20, 20))


@pytest.mark.parametrize("kind", KINDS)
def test_a_small_figure_fits_a_column_or_a_page_and_its_texts_can_be_read(
    kind: FigureKind, inputs: dict[str, list[str]]
) -> None:
    assert faults_of(drawing_of(*small(kind, inputs)).figure) == []


@pytest.mark.parametrize("kind", LARGE)
def test_a_figure_of_the_papers_size_fits_a_column_or_a_page_and_its_texts_can_be_read(
    kind: FigureKind, tmp_path: Path
) -> None:
    assert faults_of(drawing_of(*crowded(kind, tmp_path)).figure) == []


def test_faults_of_a_figure_would_be_found() -> None:
    with styled():
        figure = Figure(figsize=(PAGE_INCHES - 0.1, PAGE_HEIGHT_INCHES + 1), layout="none")
        ax = figure.subplots()
        ax.plot([0, 1], label="line")
        ax.legend()
        for at, words, points in ((0.5, "one", 8), (0.5, "two", 8), (0.99, "beyond", 5)):
            figure.text(at, 0.5, words, fontsize=points)
    faults = faults_of(figure)
    assert "6.9 inches wide" in faults and "10.0 inches high" in faults
    assert "'one' overlaps 'two'" in faults and "a legend over data" in faults
    assert "cut off: 'beyond'" in faults and "small: 'beyond'" in faults


def seen(colour: str, vision: str) -> np.ndarray:
    """Return a colour's place in CIELAB as it is seen."""
    rgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = np.array(to_xyz) @ np.clip(np.array(VISIONS[vision]) @ linear, 0, 1)
    xyz /= (0.9505, 1.0, 1.089)
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def distance(one: str, other: str, vision: str) -> float:
    return float(np.linalg.norm(seen(one, vision) - seen(other, vision)))


@pytest.mark.parametrize("vision", VISIONS)
def test_lines_are_told_apart_by_every_eye_and_in_grey(vision: str) -> None:
    """In grey nine colours have too little room: there lines of one dash alone must differ."""
    styles = [nth_style(place) for place in range(len(COLOURS))]
    for one, other in itertools.combinations(styles, 2):
        assert one.marker != other.marker
        if vision != "grey" or one.line == other.line:
            assert distance(one.colour, other.colour, vision) >= CLEAR, (one, other)


@pytest.mark.parametrize("vision", VISIONS)
def test_the_sources_of_measures_are_told_apart_by_every_eye_and_in_grey(vision: str) -> None:
    styles = [*SOURCE_STYLES.values(), PARAMETERS_STYLE]
    for one, other in itertools.combinations(styles, 2):
        assert one.marker != other.marker and one.line != other.line
        clear = CLEAR_OF_FOUR if vision == "grey" else CLEAR
        assert distance(one.colour, other.colour, vision) >= clear, (one, other)


@pytest.mark.parametrize("n", [*range(1, 41)])
def test_no_two_lines_look_alike(n: int) -> None:
    looks = [nth_style(place) for place in range(n)]
    assert len({(look.colour, look.marker, str(look.line)) for look in looks}) == n


def test_neither_bars_nor_clusters_are_told_apart_by_colour_alone() -> None:
    bars = [bar_look(place) for place in range(len(COLOURS))]
    assert len({bar["hatch"] for bar in bars}) == len(HATCHES) == len(COLOURS)
    assert len({nth_style(place).marker for place in COLOURED}) == len(COLOURED)


def test_every_kind_has_a_caption_of_one_to_three_sentences() -> None:
    assert set(CAPTIONS) == set(KINDS)
    for kind in KINDS:
        caption = caption_of(kind)
        assert caption.endswith(".") and "  " not in caption and len(caption) < 330
        assert 1 <= len(re.findall(r"[.](?: |$)", caption)) <= 3
