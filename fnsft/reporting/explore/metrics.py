"""What the page says of methods: every metric record over seeds, and learned against kept."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fnsft.artifacts.records import Record
from fnsft.config.stages import FigureSettings
from fnsft.errors import InputError
from fnsft.reporting.cells import Cell, bounded, cell_of
from fnsft.reporting.grid import deviation_of
from fnsft.reporting.labels import label_of, run_label, style_of
from fnsft.reporting.scores import scores_of, sequence_of
from fnsft.reporting.trade_off import means_of, outcomes_of, pareto_front
from fnsft.reporting.transfer import BENCHMARK, DRIFT

PER_RUN = ("seed", "value", "stderr", "protocol", "data_sha256", "versions", "n")


@dataclass(frozen=True)
class MetricRow:
    """One metric of one run over its seeds.

    ``value`` is in the unit of ``unit``; ``shown`` and ``error`` are as tables print them, beside
    shares of no and of all items a bound. ``error_of`` is what the error is over, as
    :class:`fnsft.reporting.cells.Cell` has it, or "bound".
    """

    model: str
    method: str
    after: str
    stage: int
    benchmark: str
    metric: str
    subset: str
    value: float
    shown: str
    error: str
    error_of: str
    unit: str
    seeds: int
    items: int | None
    run: str


@dataclass(frozen=True)
class TradeOffPoint:
    """One method's mean over seeds, in the units of the axes; ``spread`` is the seeds' s. d."""

    method: str
    learned: float
    learned_spread: float | None
    kept: float
    kept_spread: float | None
    seeds: int
    front: bool


def metric_rows(records: Mapping[str, Sequence[Record]]) -> list[MetricRow]:
    """Join every metric of every run over its seeds; metrics of subsets come last.

    Parameters
    ----------
    records
        By run: where its records lie, without the seed.

    Raises
    ------
    InputError
        When a run has a metric of one seed twice, or over different numbers of items.
    """
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for run, found in records.items():
        for record in found:
            fields = dataclasses.asdict(record)
            key = (run, *(value for name, value in fields.items() if name not in PER_RUN))
            groups.setdefault(key, []).append(record)
    rows = [_row(key[0], group) for key, group in groups.items()]
    return sorted(rows, key=lambda row: (row.subset != "", row.benchmark, row.metric, row.after))


def _row(run: str, records: Sequence[Record]) -> MetricRow:
    first = records[0]
    if len({record.seed for record in records}) < len(records):
        raise InputError(
            f"{run}: {first.benchmark} {first.metric}: expected every seed once, found one twice; "
            "remove the records that are not of this experiment"
        )
    sizes = {record.n for record in records}
    # Cells are of one number of items; where seeds differ, the page shows none.
    alike = [dataclasses.replace(record, n=first.n) for record in records]
    cell, style = cell_of(alike, [], run), style_of(first.metric)
    cell = bounded(cell) if style.is_share and len(sizes) == 1 else cell
    masked = f", mask {first.forward_mask}" if first.forward_mask else ""
    return MetricRow(
        model=first.model,
        method=run_label(first.method, first.fraction) + masked,
        after=sequence_of(first) if first.stage else "",
        stage=first.stage,
        benchmark=first.benchmark,
        metric=first.metric,
        subset=first.subset or "",
        value=cell.value * style.scale,
        shown=style.printed(cell.value),
        error=_error(cell, first.metric),
        error_of="bound" if cell.bound else cell.kind,
        unit=style.unit,
        seeds=len(records),
        items=first.n if len(sizes) == 1 and style.of_items else None,
        run=run,
    )


def _error(cell: Cell, metric: str) -> str:
    style = style_of(metric)
    if cell.bound:
        return f"{cell.bound[0]} {style.printed(cell.bound[1])}"
    return "" if cell.uncertainty is None else style.printed(cell.uncertainty, beside=cell.value)


def own_records(records: Iterable[Record]) -> list[Record]:
    """Return what ``fnsft transfer`` and ``fnsft drift`` measured; the rest it passed on."""
    return [record for record in records if record.benchmark in (BENCHMARK, DRIFT)]


def trade_offs(sequence: str, records: Sequence[Record]) -> list[dict[str, Any]]:
    """Return learned against kept for every model of one sequence's records.

    Raises
    ------
    InputError
        As :func:`fnsft.reporting.scores.scores_of` and
        :func:`fnsft.reporting.trade_off.outcomes_of`.
    """
    outcomes = outcomes_of(scores_of(records, FigureSettings(kind="trade-off")))
    means, sign = means_of(outcomes), outcomes.sign
    found = []
    for model in dict.fromkeys(key[0] for key in means):
        keys = [key for key in means if key[0] == model]
        drawn = [k for k in keys if math.isfinite(means[k].learned + means[k].kept)]
        places = [(sign * means[key].learned, sign * means[key].kept) for key in drawn]
        front = {drawn[place] for place in pareto_front(places)}
        points = []
        for key in keys:
            runs = outcomes.runs[key].values()
            learned = [outcomes.shown(run.learned) for run in runs]
            kept = [outcomes.shown(run.kept) for run in runs]
            points.append(
                TradeOffPoint(
                    method=run_label(key[1], key[2]),
                    learned=outcomes.shown(means[key].learned),
                    learned_spread=deviation_of(learned),
                    kept=outcomes.shown(means[key].kept),
                    kept_spread=deviation_of(kept),
                    seeds=len(runs),
                    front=key in front,
                )
            )
        labels = {"learned": outcomes.learned, "kept": outcomes.kept}
        found.append({"model": model, "sequence": sequence, "points": points} | labels)
    return found


def methods_of(records: Iterable[Record]) -> list[str]:
    """Return the written names of the methods of records, each once."""
    return list(dict.fromkeys(label_of(record.method) for record in records))
