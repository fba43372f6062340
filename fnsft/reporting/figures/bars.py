"""Methods by benchmarks as grouped bars, a panel a model; the base model is a line across."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from fnsft.artifacts.records import read_records
from fnsft.config.stages import FigureSettings
from fnsft.errors import InputError
from fnsft.reporting.cells import Cell, Key, by_cell
from fnsft.reporting.figures.canvas import Drawing, legend_above, note_below, sheet, title
from fnsft.reporting.grid import cell_over_seeds
from fnsft.reporting.labels import ModelLabels, counted, run_labels, shared_fraction
from fnsft.reporting.scores import PERPLEXITY, Metric, Scores, scores_of
from fnsft.reporting.style import COLOURS, COLUMN_INCHES, NOTE_POINTS, PAGE_INCHES

PANEL_INCHES, EXTRA_INCHES = 2.3, 0.9
GROUP_WIDTH = 0.84
# With the colours' own lightness, so that bars are told apart in grey too.
HATCHES = ("", "////", "....", "\\\\\\\\", "xxxx", "----", "++++", "oooo", "||||")
BASE_LINE: dict[str, Any] = {"color": "black", "linewidth": 1.2, "linestyle": (0, (2, 1))}


def drawing(paths: Sequence[Path], settings: FigureSettings) -> Drawing:
    """Read scores and draw their bars."""
    labels = ModelLabels.of(settings)
    records = [labels.row(record) for record in read_records(paths)]
    scores = scores_of(records, labels.settings(settings))
    metrics = [m for m in scores.metrics(settings.benchmarks, plus=True) if m[1] != PERPLEXITY]
    if not metrics:
        raise InputError("bars: expected benchmarks with an accuracy or pass@1, found none")
    return draw(scores, metrics)


def draw(scores: Scores, metrics: Sequence[Metric]) -> Drawing:
    """Draw a panel a model, a group a benchmark, a bar a method and fraction."""
    bars = [_bars(scores, metric) for metric in metrics]
    runs = sorted(
        {key[1:] for found in bars for key in found},
        key=lambda run: (scores.methods.index(run[0]), run[1] or 0),
    )
    names = run_labels(runs)
    n = len(scores.models)
    width = COLUMN_INCHES if len(metrics) == 1 else PAGE_INCHES
    figure, axes = sheet(n, 1, width, PANEL_INCHES * n + EXTRA_INCHES, sharey=True)
    handles: dict[str, Any] = {}
    for model, ax in zip(scores.models, axes[:, 0], strict=True):
        for place, (method, fraction) in enumerate(runs):
            cells = {
                group: cell
                for group, found in enumerate(bars)
                if (cell := found.get((model, method, fraction))) is not None
            }
            drawn = _draw_bars(ax, cells, place, len(runs))
            handles.setdefault(names[method, fraction], drawn)
        if _draw_base(ax, scores, model, metrics):
            handles.setdefault("base model", Line2D([], [], **BASE_LINE))
        ax.set_xticks(range(len(metrics)), [scores.label(*metric) for metric in metrics])
        ax.set_xlim(-0.5, len(metrics) - 0.5)
        ax.tick_params(axis="x", length=0)
        ax.set_ylabel("solved, %")
        ax.set_ylim(bottom=0)
        title(ax, model)
    legend_above(figure, handles, handle_letters=2)
    every = [cell for found in bars for cell in found.values()]
    note_below(figure, _note(every, scores) + shared_fraction(runs))
    return Drawing(figure, f"{n} models, {len(metrics)} benchmarks, {len(every)} bars")


def _bars(scores: Scores, metric: Metric) -> dict[Key, Cell]:
    runs = by_cell(
        record
        for record in scores.last
        if (record.benchmark, record.metric) == metric and record.method in scores.methods
    )
    return {key: cell for key, own in runs.items() if (cell := cell_over_seeds(own)) is not None}


def _draw_bars(ax: Axes, cells: dict[int, Cell], place: int, n: int) -> Any:
    """Draw one method's bar in every group, ± where it is known; of nothing solved a 0."""
    width = GROUP_WIDTH / n
    places = [group + (place + 0.5) * width - GROUP_WIDTH / 2 for group in cells]
    for at, cell in zip(places, cells.values(), strict=True):
        if cell.value == 0:
            ax.text(at, 0, "0", ha="center", va="bottom", fontsize=NOTE_POINTS)
    return ax.bar(
        places,
        [100 * cell.value for cell in cells.values()],
        0.92 * width,
        yerr=[100 * (cell.uncertainty or 0) for cell in cells.values()],
        **bar_look(place),
        edgecolor="white",
        linewidth=0,
        error_kw={"elinewidth": 0.8, "capsize": 1.5, "capthick": 0.8},
    )


def bar_look(place: int) -> dict[str, Any]:
    """Return the colour and hatch of the bar at a place, from 0; no two of 81 are alike."""
    turn, colour = divmod(place, len(COLOURS))
    return {
        "color": COLOURS[(colour + 1) % len(COLOURS)],
        "hatch": HATCHES[(colour + turn) % len(HATCHES)],
    }


def _draw_base(ax: Axes, scores: Scores, model: str, metrics: Sequence[Metric]) -> bool:
    found = {
        metrics.index((r.benchmark, r.metric)): 100 * r.value
        for r in scores.base
        if r.model == model and (r.benchmark, r.metric) in metrics
    }
    for group, value in found.items():
        ax.plot([group - GROUP_WIDTH / 2, group + GROUP_WIDTH / 2], [value, value], **BASE_LINE)
    return bool(found)


def _note(cells: Sequence[Cell], scores: Scores) -> str:
    """Say what bars and whiskers are."""
    seeds, items = {cell.n_seeds or 1 for cell in cells}, [c.n_items for c in cells if c.n_items]
    whiskers = {
        "standard deviation over seeds": max(seeds) > 1,
        "standard error over items, of single runs": min(seeds) == 1,
    }
    over = "one seed" if seeds == {1} else f"mean of {counted(seeds)} seeds"
    words = "; ".join(text for text, so in whiskers.items() if so)
    plus = (
        " +: EvalPlus's further tests as well."
        if any(r.metric == "pass_at_1_plus" for r in scores.last)
        else ""
    )
    return (
        f"After {scores.trained_on}. Bar: {over}; whisker: {words}. "
        f"Items a benchmark: {counted(items)}.{plus}"
    )
