"""Validation perplexity over epochs: one panel a model, one line a method and fraction."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from fnsft.artifacts.training import read_training
from fnsft.config.stages import FigureSettings
from fnsft.reporting.curves import Curve, Panel, panels_of
from fnsft.reporting.figures.canvas import Drawing, sheet, title
from fnsft.reporting.labels import ModelLabels, counted, run_label
from fnsft.reporting.style import NOTE_POINTS, PAGE_INCHES, LineStyle, style_of

PANEL_INCHES = (2.9, 3.2)
LEGEND_INCHES = 1.6


def drawing(paths: Sequence[Path], settings: FigureSettings) -> Drawing:
    """Read training records, group and draw them."""
    labels = ModelLabels.of(settings)
    trainings = [labels.training(read_training(path)) for path in paths]
    panels = panels_of(trainings, labels.settings(settings))
    curves = sum(len(panel.curves) for panel in panels)
    return Drawing(draw(panels), f"{len(panels)} models, {curves} curves")


def draw(panels: Sequence[Panel]) -> Figure:
    """Draw the panels side by side with one legend outside.

    The x axis counts epochs: a GMT run makes fewer optimizer steps from the same samples.
    Perplexity is on a logarithmic axis, where equal distances are equal ratios of it.
    """
    curves = [curve for panel in panels for curve in panel.curves]
    methods = list(dict.fromkeys(curve.method for curve in curves))
    fractions = sorted({curve.fraction for curve in curves if curve.fraction is not None})
    width, height = PANEL_INCHES
    page = min(PAGE_INCHES, width * len(panels) + LEGEND_INCHES)
    figure, axes = sheet(1, len(panels), page, height)
    handles = {}
    for panel, ax in zip(panels, axes[0], strict=True):
        for curve in panel.curves:
            style = style_of(curve.method, curve.fraction, methods, fractions)
            name = run_label(curve.method, curve.fraction)
            handles[name] = _draw_curve(ax, curve, style)
        _finish(ax, panel)
    axes[0, 0].set_ylabel("validation perplexity (log scale)")
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside right center",
        handlelength=3,
        title=_legend_title(curves),
        alignment="left",
    )
    return figure


def _draw_curve(ax: Axes, curve: Curve, style: LineStyle) -> Line2D:
    """Draw the mean with markers at best epochs, and the range of the seeds as a band."""
    if curve.n_seeds > 1:
        ax.fill_between(
            curve.epochs, curve.low, curve.high, color=style.colour, alpha=0.08, linewidth=0
        )
    (line,) = ax.plot(
        curve.epochs,
        curve.mean,
        color=style.colour,
        linestyle=style.line,
        marker=style.marker,
        markerfacecolor="white",
        markevery=list(curve.best),
    )
    return line


def _finish(ax: Axes, panel: Panel) -> None:
    title(ax, panel.model)
    ax.set_xlabel("epochs")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(MaxNLocator(6))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.margins(x=0.02)
    _zoom(ax, panel)


def _zoom(ax: Axes, panel: Panel) -> None:
    """Leave the first fall, which would flatten all else, above the axis, and say from where."""
    shown_from = min(1.0, max(curve.epochs[-1] for curve in panel.curves) / 3)
    seen = [
        value
        for curve in panel.curves
        for epoch, *values in zip(curve.epochs, curve.low, curve.high, strict=True)
        if epoch >= shown_from
        for value in values
    ]
    starts = [curve.mean[0] for curve in panel.curves if curve.epochs[0] == 0]
    if not seen or not starts or max(starts) <= max(seen):
        return
    margin = (max(seen) / min(seen)) ** 0.05
    ax.set_ylim(min(seen) / margin, max(seen) * margin)
    before = sorted({f"{start:.3g}" for start in starts}, key=float)
    at_start = " to ".join(before if len(before) < 2 else (before[0], before[-1]))
    # The lower left is free: every curve comes down from above.
    ax.text(
        0.03, 0.03, f"\u2191 epoch 0:\n{at_start}", transform=ax.transAxes, fontsize=NOTE_POINTS
    )


def _legend_title(curves: Sequence[Curve]) -> str:
    seeds = sorted({curve.n_seeds for curve in curves})
    if seeds == [1]:
        return "one seed; mark: best epoch"
    return f"line: mean of {counted(seeds)} seeds\nband: lowest to highest\nmark: best epoch"
