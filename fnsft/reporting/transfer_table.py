"""Methods by what a sequence of stages learned and forgot, a block a model."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from fnsft.artifacts.records import Record
from fnsft.config.stages import PRIMARY_METRICS, TableSettings
from fnsft.errors import InputError
from fnsft.reporting.cells import Cell, Key, by_cell, keys_of
from fnsft.reporting.grid import DASH, Column, Grid, Row, cell_over_seeds, mark_best
from fnsft.reporting.labels import label_of, run_label
from fnsft.reporting.notes import titled
from fnsft.reporting.score_table import CONTROLS, earlier_stages
from fnsft.reporting.scores import PERPLEXITY, Scores, scores_of
from fnsft.reporting.trade_off import NEVER, kept_at_same_learning, outcomes_of
from fnsft.reporting.transfer import BENCHMARK, DRIFT

MEASURES = {
    (BENCHMARK, "average_accuracy"): Column("tasks", "average", "average_accuracy"),
    (BENCHMARK, "backward_transfer"): Column("change", "backward", "backward_transfer"),
    (BENCHMARK, "forward_transfer"): Column("change", "forward", "forward_transfer"),
    (BENCHMARK, "forgetting"): Column("change", "forgetting", "forgetting"),
    (BENCHMARK, "general_retention"): Column("change", "general", "general_retention"),
    (DRIFT, "kl_forward"): Column("KL", "forward", "kl_forward"),
    (DRIFT, "relative_weight_change"): Column("weights", "change", "relative_weight_change"),
}
DISTANCES = [column for (benchmark, _), column in MEASURES.items() if benchmark == DRIFT]
MEANING = {
    "average_accuracy": "average: mean over the tasks after the last stage",
    "backward_transfer": "backward: earlier tasks, after the last stage minus after their own",
    "forward_transfer": "forward: later tasks, before their own stage minus in the base model",
    "forgetting": "forgetting: earlier tasks, best after any earlier stage minus after the last",
    "general_retention": "general: benchmarks that no stage trained on, after the last stage "
    "minus in the base model",
    "kl_forward": "KL: from the model that the last stage began with to the tuned one, a token of "
    "the last task",
    "relative_weight_change": "weights: length of the last stage's change over that of the weights "
    "it began with",
}
KEPT, MIN_CURVE = "kept_at_same_learning", 2


def transfer_grid(records: Sequence[Record], settings: TableSettings) -> Grid:
    """Fill the table of transfer and forgetting.

    Raises
    ------
    InputError
        When there is nothing of ``fnsft transfer`` or ``fnsft drift`` to show, and when one cell
        would mix settings.
    """
    scores = scores_of(records, settings)
    found: dict[Column, Mapping[Key, Cell | None]] = {}
    for metric, column in MEASURES.items():
        found[column] = _cells(r for r in scores.last if (r.benchmark, r.metric) == metric)
    formatted = dict.fromkeys(r.benchmark for r in scores.last if r.metric == "format_ok")
    for benchmark in settings.benchmarks or formatted:
        if benchmark not in formatted:
            continue
        column = Column("format ok", scores.label(benchmark), "format_ok")
        found[column] = _cells(
            r for r in scores.last if (r.benchmark, r.metric) == (benchmark, "format_ok")
        )
    if not any(found[column] for column in MEASURES.values()):
        raise InputError(
            "expected measures of fnsft transfer or fnsft drift, found none; give transfer's files"
        )
    same, kept = _at_same_learning(scores, settings)
    found[same] = kept
    columns = tuple(column for column, cells in found.items() if cells)
    keys = {key: None for cells in found.values() for key in cells}
    blocks = {}
    for model in scores.models:
        rows = []
        for key in keys_of(keys, model, (*scores.methods, *settings.controls)):
            own = {c: found[c].get(key) for c in columns if c != same or key in kept}
            section = CONTROLS if key[1] in settings.controls else ""
            rows.append(Row(section, run_label(*key[1:]), own))
        ranked = [[c] for c in columns if c not in DISTANCES]
        mark_best([row.cells for row in rows if not row.section], ranked)
        blocks[model] = rows
    caption = titled(settings.title, f"transfer and forgetting over the tasks {scores.trained_on}.")
    return Grid(columns, blocks, caption, tuple(_notes(columns, scores, settings)))


def _cells(records: Iterable[Record]) -> dict[Key, Cell | None]:
    return {key: cell_over_seeds(runs) for key, runs in by_cell(records).items()}


def _at_same_learning(
    scores: Scores, settings: TableSettings
) -> tuple[Column, dict[Key, Cell | None]]:
    """Return the last column; it has no cells without two methods of the curve."""
    curve = _curve(scores, settings)
    if len(curve) < MIN_CURVE:
        return Column("", "", KEPT), {}
    outcomes = outcomes_of(scores)
    metric = f"{KEPT}_ratio" if outcomes.metric == PERPLEXITY else KEPT
    column = Column(f"vs {label_of(curve[0])}", "kept", metric)
    kept = kept_at_same_learning(outcomes, curve)
    return column, {
        key: Cell(value, None, "items", None, len(outcomes.runs[key]))
        for key, value in kept.items()
    }


def _curve(scores: Scores, settings: TableSettings) -> list[str]:
    """Return the methods of the curve that were measured."""
    measured = {record.method for record in scores.last}
    return [method for method in settings.curve if method in measured]


def _notes(columns: Sequence[Column], scores: Scores, settings: TableSettings) -> Iterator[str]:
    """Say what every column is, and what the marks."""
    metrics = [column.metric for column in columns]
    listed = "; ".join(words for metric, words in MEANING.items() if metric in metrics)
    yield f"{listed[0].upper()}{listed[1:]}." if listed else "Measured after the last stage."
    if "format_ok" in metrics:
        yield "Format ok: share of the answers in the trained form, after the last stage."
    if any(metric.startswith(KEPT) for metric in metrics):
        first, *_ = rates = [label_of(method) for method in _curve(scores, settings)]
        earlier = ", ".join(map(scores.task, scores.tasks[:-1]))
        last = scores.task(scores.tasks[-1])
        kind = "over" if f"{KEPT}_ratio" in metrics else "minus"
        kept = f"{earlier} after the last stage {kind} after the own stage" if earlier else NEVER
        yield (
            f"Vs {first}: mean of {kept}, {kind} that of {first} where it learns as much of "
            f"{last}, on straight lines through its rates ({'; '.join(rates)}) that no "
            f"other of them reaches in both; means over seeds, not tested; {DASH}: learns less or "
            "more than all of these."
        )
    if changed := ", ".join(_asked_otherwise(scores)):
        yield (
            f"The base model was asked in another way, {changed}: nothing is measured from its "
            "score there."
        )
    yield from earlier_stages(scores)
    if set(columns) <= {*DISTANCES}:
        return
    apart = "; controls do not compete" if settings.controls else ""
    yield f"Bold: best of its column; underlined: second{apart}."


def _asked_otherwise(scores: Scores) -> list[str]:
    """Name the benchmarks whose base score a measure would start from, and cannot."""
    base = {(r.model, r.benchmark): r.protocol for r in scores.base if r.metric in PRIMARY_METRICS}
    changed = [
        record.benchmark
        for record in scores.last
        if record.metric in PRIMARY_METRICS
        and (record.measures not in scores.tasks or record.measures in scores.tasks[1:])
        and base.get((record.model, record.benchmark), record.protocol) != record.protocol
    ]
    return [scores.label(benchmark) for benchmark in dict.fromkeys(changed)]
