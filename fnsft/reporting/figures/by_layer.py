"""Measures by layer, grouped to the lines of panels: what a figure draws, without drawing it.

A panel is one quantity, a line one measure of one source: its mean over seeds (and over
matrices, where a measure has parts) with the range from the lowest to the highest.
"""

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fnsft.artifacts.measures import Measure
from fnsft.errors import InputError
from fnsft.reporting.labels import BASELINE_LABEL, MEASURE_LABELS, SOURCE_LABELS
from fnsft.reporting.style import PARAMETERS_STYLE, SOURCE_STYLES, LineStyle


@dataclass(frozen=True)
class LineSpec:
    """Which measure of which source a line shows, its name in the legend, its look."""

    measure: str
    source: str
    name: str
    style: LineStyle


@dataclass(frozen=True)
class PanelSpec:
    """A panel's quantity, its lines, and where a horizontal reference is drawn.

    ``counts`` that span more than a decade are drawn on a logarithmic axis.
    """

    title: str
    lines: tuple[LineSpec, ...]
    reference: float | None = None
    counts: bool = False


@dataclass(frozen=True)
class Series:
    """One line: by layer the mean, lowest and highest over ``n_seeds`` seeds and ``n_parts``."""

    layers: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    n_seeds: int
    n_parts: int


Column = dict[LineSpec, Series]


def source_panel(
    measure: str,
    reference: float | None = None,
    baseline: str | None = None,
    counts: bool = False,
) -> PanelSpec:
    """Return a panel with a line a source, and with the model's own baseline where one is named."""
    lines = [
        LineSpec(measure, source, SOURCE_LABELS[source], style)
        for source, style in SOURCE_STYLES.items()
    ]
    if baseline:
        lines.append(LineSpec(baseline, "model", BASELINE_LABEL, PARAMETERS_STYLE))
    return PanelSpec(MEASURE_LABELS[measure], tuple(lines), reference, counts)


def columns_of(
    measures: Iterable[Measure], panels: Sequence[PanelSpec], models: Sequence[str] = ()
) -> dict[str, Column]:
    """Group measures by model, task and graph, and to the lines of the panels.

    Raises
    ------
    InputError
        When a number is given twice, or when a model, or all, has none that the panels show.
    """
    wanted = {(line.measure, line.source): line for panel in panels for line in panel.lines}
    found: dict[tuple[str, str, str], dict[LineSpec, list[Measure]]] = {}
    for measure in measures:
        line = wanted.get((measure.measure, measure.source))
        if line and measure.model in (models or [measure.model]):
            key = (measure.model, measure.task, measure.graph)
            found.setdefault(key, defaultdict(list))[line].append(measure)
    missing = [model for model in models if model not in {key[0] for key in found}]
    if missing or not found:
        names = ", ".join(dict.fromkeys(line.measure for line in wanted.values()))
        of = f" of {missing[0]}" if missing else ""
        raise InputError(f"expected measures{of} such as {names}; found none of them")
    keys = sorted(found, key=lambda key: models.index(key[0]) if models else 0)
    # What all columns have in common need not stand above each of them.
    told = [i == 0 or len({key[i] for key in keys}) > 1 for i in range(3)]
    return {
        ", ".join(part for part, tell in zip(key, told, strict=True) if tell): {
            line: series_of(rows) for line, rows in found[key].items()
        }
        for key in keys
    }


def series_of(measures: Iterable[Measure]) -> Series:
    """Average the numbers of one line over seeds and parts, layer by layer."""
    values: dict[int, dict[tuple[int, str | None], float]] = defaultdict(dict)
    for measure in measures:
        place = (measure.seed, measure.part)
        if place in values[measure.layer]:
            raise InputError(
                f"{measure.model}, {measure.source}, seed {measure.seed}, layer {measure.layer}: "
                f"{measure.measure} is given twice; give the files of one setting, each once"
            )
        values[measure.layer][place] = measure.value
    layers = sorted(values)
    at = [list(values[layer].values()) for layer in layers]
    return Series(
        layers=tuple(layers),
        mean=tuple(statistics.fmean(found) for found in at),
        low=tuple(min(found) for found in at),
        high=tuple(max(found) for found in at),
        n_seeds=len({seed for found in values.values() for seed, _ in found}),
        n_parts=len({part for found in values.values() for _, part in found}),
    )
