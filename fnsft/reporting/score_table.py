"""Methods by benchmarks, a block a model: after their own stage and after the last, or the last.

The base model stands first. Beside every benchmark, where its items are given, stands the paired
difference from one method after the last stage.
"""

from collections.abc import Mapping, Sequence

from fnsft.artifacts.records import Record
from fnsft.config.stages import TableSettings
from fnsft.reporting.cells import Cell, Key, by_cell, keys_of
from fnsft.reporting.grid import Column, Grid, Row, cell_over_seeds, mark_best
from fnsft.reporting.labels import counted, label_of, run_label
from fnsft.reporting.notes import titled
from fnsft.reporting.paired import RESAMPLES
from fnsft.reporting.run_items import (
    ItemFile,
    ItemRuns,
    difference_cells,
    items_by_metric,
    require_shown,
)
from fnsft.reporting.scores import BASE, PERPLEXITY, Metric, Scores, scores_of

Cells = dict[Column, Cell | None]
CONTROLS = "controls"


def score_grid(
    records: Sequence[Record], files: Sequence[ItemFile], settings: TableSettings
) -> Grid:
    """Fill the table of the kind continual (own stage and last) or benchmarks (last alone).

    Raises
    ------
    InputError
        As :func:`~fnsft.reporting.scores.scores_of`; when one cell would mix settings, and when
        runs that are compared answered different items.
    """
    scores = scores_of(records, settings)
    metrics = scores.metrics(settings.benchmarks, plus=True)
    items = items_by_metric(files, ">".join(scores.tasks))
    require_shown(items, scores.last)
    methods = (*scores.methods, *settings.controls)
    cells: dict[Key, Cells] = {}
    columns: list[Column] = []
    compared: list[Column] = []
    for metric in metrics:
        stages = _stages(scores, metric) if settings.kind == "continual" else []
        for stage in (*stages, len(scores.tasks)):
            columns.append(_column(scores, metric, stage))
            _fill(cells, columns[-1], _cells(scores, metric, stage))
        found = difference_cells(
            items,
            metric,
            settings.reference,
            lambda key: key[0] in scores.models and key[1] in methods,
        )
        if found:
            compared.append(_difference_column(scores, metric, settings.reference))
            columns.append(compared[-1])
            _fill(cells, compared[-1], found)
    blocks = {}
    for model in scores.models:
        own = {key: cells.get(key, {}) for key in keys_of(cells, model, methods)}
        rows = _rows(own, columns, compared, settings)
        blocks[model] = [*_base_row(scores, model, metrics), *rows]
    of = f"models fine-tuned on {scores.trained_on}" if scores.tasks else "base models"
    tested = (
        _comparisons(blocks, compared) if compared else _untested(settings.reference, files, items)
    )
    notes = (
        *_notes(scores, settings),
        *earlier_stages(scores),
        *(tested if scores.tasks else ()),
        *_protocols(scores, metrics),
    )
    return Grid(tuple(columns), blocks, titled(settings.title, f"scores of {of}."), notes)


def _stages(scores: Scores, metric: Metric) -> list[int]:
    """Return the stage that trained on what a benchmark shows, where it is not the last."""
    measures = {r.measures for r in scores.last if (r.benchmark, r.metric) == metric}
    return [place for place, task in enumerate(scores.tasks[:-1], start=1) if task in measures][:1]


def _column(scores: Scores, metric: Metric, stage: int) -> Column:
    when = f"after {scores.task(scores.tasks[stage - 1])}" if stage else ""
    return Column(scores.label(*metric), when, metric[1])


def _difference_column(scores: Scores, metric: Metric, reference: str) -> Column:
    sign, kind = ("/", "ratio") if metric[1] == PERPLEXITY else ("−", "difference")
    return Column(scores.label(*metric), f"{sign} {label_of(reference)}", kind)


def _cells(scores: Scores, metric: Metric, stage: int) -> dict[Key, Cell | None]:
    runs = by_cell(
        r for r in scores.tuned if r.stage == stage and (r.benchmark, r.metric) == metric
    )
    return {key: cell_over_seeds(found) for key, found in runs.items()}


def _fill(cells: dict[Key, Cells], column: Column, found: Mapping[Key, Cell | None]) -> None:
    for key, cell in found.items():
        cells.setdefault(key, {})[column] = cell


def _rows(
    found: Mapping[Key, Cells],
    columns: Sequence[Column],
    compared: Sequence[Column],
    settings: TableSettings,
) -> list[Row]:
    """Return a model's rows, the best marked; the reference has no difference from itself."""
    rows = []
    for (_, method, fraction), cells in found.items():
        apart = compared if method == settings.reference else ()
        own = {column: cells.get(column) for column in columns if column not in apart}
        section = CONTROLS if method in settings.controls else ""
        rows.append(Row(section, run_label(method, fraction), own))
    ranked = [[column] for column in columns if column not in compared]
    mark_best([row.cells for row in rows if not row.section], ranked)
    return rows


def _base_row(scores: Scores, model: str, metrics: Sequence[Metric]) -> list[Row]:
    """Return the base model's row, in the columns of the last stage; none without its records."""
    found = {
        _column(scores, (r.benchmark, r.metric), len(scores.tasks)): cell_over_seeds([r])
        for r in scores.base
        if r.model == model and (r.benchmark, r.metric) in metrics
    }
    return [Row("", label_of(BASE), found)] if found else []


def _notes(scores: Scores, settings: TableSettings) -> list[str]:
    """Say what the columns are, and what the marks; of base models alone there are none."""
    if not scores.tasks:
        return []
    shots = {
        word
        for r in scores.base
        for word in (r.protocol or "").split()
        if word.startswith("shots=")
    }
    words = f"Base: before any stage{', asked without shots' if shots == {'shots=0'} else ''}."
    if settings.kind == "continual" and len(scores.tasks) > 1:
        words += (
            " After a stage: scored when it was done; what no stage but the last, or none, trained "
            "on is shown after the last."
        )
    others = "the base model and controls do" if settings.controls else "the base model does"
    return [words, f"Bold: best of its column; underlined: second; {others} not compete."]


def earlier_stages(scores: Scores) -> list[str]:
    """Say which methods did not train all of their stages; of two that is what they are for."""
    if len(scores.tasks) <= 2:
        return []
    groups: dict[str, list[str]] = {}
    for method, words in scores.earlier.items():
        groups.setdefault(words, []).append(label_of(method))
    return [f"{', '.join(methods)}: {words}." for words, methods in groups.items()]


def _untested(reference: str, files: Sequence[ItemFile], items: ItemRuns) -> list[str]:
    """Say why there are no differences."""
    none = "no items"
    if reference in {key[1] for runs in items.values() for key in runs}:
        none += " of other methods on the same benchmarks and seeds"
    elif files:
        none += f" of {label_of(reference)} after the last stage"
    return [f"Differences from {label_of(reference)} were not tested: {none} were given."]


def _comparisons(blocks: Mapping[str, Sequence[Row]], compared: Sequence[Column]) -> list[str]:
    """Say how differences were tested, and how many of them stand in a column."""
    every = [row for rows in blocks.values() for row in rows]
    n = counted(sum(row.cells.get(column) is not None for row in every) for column in compared)
    kinds = {"difference": "− is a difference in points", "ratio": "/ a ratio"}
    found = [words for kind, words in kinds.items() if kind in {c.metric for c in compared}]
    return [
        f"{' and '.join(found)} after the last stage, on the same items and seeds; paired "
        f"bootstrap over both ({RESAMPLES:,} resamples); ‡: p < .05 after Holm's correction for "
        f"the {n} comparisons of a column. Where few seeds differ much it finds too many."
    ]


def _protocols(scores: Scores, metrics: Sequence[Metric]) -> list[str]:
    """Say how every benchmark was asked, where records tell; what ends an answer they tell."""
    asked: dict[tuple[str, str], str] = {}  # benchmark, and whose it is where others differ
    for record in (*scores.last, *scores.base):
        if record.protocol and (record.benchmark, record.metric) in metrics:
            name = record.benchmark
            if asked.setdefault((name, ""), record.protocol) != record.protocol:
                asked[name, f" of {record.model}, {label_of(record.method)}"] = record.protocol
    differ = {name for name, of in asked if of}
    listed = "; ".join(
        f"{scores.label(name)}{of}: {words if name in differ else _shortened(words)}"
        for (name, of), words in asked.items()
    )
    return [f"Protocols (stops and extractors are in the records): {listed}."] if listed else []


def _shortened(protocol: str) -> str:
    return " ".join(w for w in protocol.split() if not w.startswith(("extract=", "stop=")))
