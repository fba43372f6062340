"""Methods by what they learned and what they kept, with their forward mask on and off.

A block is one model. A method without a mask on its forward pass is the same model on or off.
"""

from collections.abc import Iterable, Mapping, Sequence

from fnsft.artifacts.records import Record
from fnsft.artifacts.training import TrainingRecord
from fnsft.config.stages import TableSettings
from fnsft.errors import InputError
from fnsft.reporting.cells import Cell, Key, by_cell, keys_of, learning_rate_of, name_of, task_of
from fnsft.reporting.grid import DASH, Column, Grid, Row, cell_over_seeds, mark_best
from fnsft.reporting.labels import counted, in_order, run_label
from fnsft.reporting.notes import titled, told_by_method

Cells = dict[Column, Cell | None]
MASK = ("mask on", "mask off")
KNOWN, HELD_OUT = ("cloze", "accuracy"), ("perplexity", "perplexity")


def selective_grid(
    records: Iterable[Record], trainings: Iterable[TrainingRecord], settings: TableSettings
) -> Grid:
    """Fill the table of methods by what they learned and kept.

    Raises
    ------
    InputError
        When there is no record of the task's metric, and when one cell would mix tasks,
        stages or settings.
    """
    learned, controls = (settings.benchmark, settings.metric), settings.controls
    found = [record for record in records if record.subset is None]
    models = settings.models or tuple(dict.fromkeys(record.model for record in found))
    methods = settings.methods or tuple(
        m for m in in_order(record.method for record in found) if m not in controls
    )
    found = [r for r in found if r.model in models and r.method in (*methods, *controls)]
    measured = dict.fromkeys((record.benchmark, record.metric) for record in found)
    if learned not in measured:
        raise InputError(
            f"expected records of {' '.join(learned)} for the table's models and methods, found "
            "none; see fnsft evaluate"
        )
    wanted = [learned, *(m for m in (KNOWN, HELD_OUT) if m in measured and m != learned)]
    columns = tuple(_column(metric, name) for metric in wanted for name in MASK)
    found = [record for record in found if (record.benchmark, record.metric) in wanted]
    cells = _cells(found)
    twice = {record.method for record in found if record.forward_mask is not None}
    blocks = {}
    quantities = [columns[place : place + len(MASK)] for place in range(0, len(columns), len(MASK))]
    for model in models:
        blocks[model] = [
            Row("controls" if key[1] in controls else "", run_label(*key[1:]), row)
            for key in keys_of(cells, model, (*methods, *controls))
            for row in [_row(cells.get(key, {}), columns, key[1] in twice)]
        ]
        mark_best([row.cells for row in blocks[model] if not row.section], quantities)
    trained = by_cell(t for t in trainings if (t.run.model, t.run.method, t.run.fraction) in cells)
    caption = titled(settings.title, f"accuracy and perplexity, task {task_of(found)}.")
    return Grid(columns, blocks, caption, (*_notes(wanted, bool(controls)), *_costs(trained)))


def _column(metric: tuple[str, str], name: str) -> Column:
    benchmark, metric_name = metric
    group = benchmark if metric_name in (benchmark, "accuracy") else f"{benchmark} {metric_name}"
    return Column(group, name, metric_name)


def _cells(records: Sequence[Record]) -> dict[Key, Cells]:
    """Return every run's cells over seeds; ``mask off`` for forward masks alone."""
    groups: dict[Column, list[Record]] = {}
    for record in records:
        name = MASK[record.forward_mask == "off"]
        column = _column((record.benchmark, record.metric), name)
        groups.setdefault(column, []).append(record)
    cells: dict[Key, Cells] = {}
    for column, members in groups.items():
        for key, runs in by_cell(members).items():
            cells.setdefault(key, {})[column] = cell_over_seeds(runs)
    return cells


def _row(found: Cells, columns: Sequence[Column], twice: bool) -> Cells:
    """Return a row's cells, None where one is expected; those without a mask have none off."""
    return {column: found.get(column) for column in columns if twice or column.name == MASK[0]}


def _notes(wanted: Sequence[tuple[str, str]], controls: bool) -> list[str]:
    """Say what the columns are, and what the marks."""
    known = f"{KNOWN[0]}: facts known before the fine-tuning; " if KNOWN in wanted[1:] else ""
    held_out = "perplexity: on the task's test set. " if HELD_OUT in wanted else ""
    words = (
        f"{known}{held_out}Mask on: scored as it was trained; off: the same weights without the "
        f"mask on the forward pass ({DASH}: it has none)."
    )
    apart = "; controls do not compete" if controls else ""
    marks = f"Bold: best of its block, on or off; underlined: second{apart}."
    return [words[0].upper() + words[1:], marks]


def _costs(trained: Mapping[Key, Sequence[TrainingRecord]]) -> list[str]:
    """State learning rates and optimizer steps by method, where training records were given."""
    rates: dict[str, set[float]] = {}
    steps: dict[str, list[int]] = {}
    for key, runs in trained.items():
        if rate := learning_rate_of(runs, name_of(key)):
            rates.setdefault(key[1], set()).add(rate)
        steps.setdefault(key[1], []).extend(run.optimizer_steps for run in runs)
    in_words = {
        m: " and ".join(f"{rate:g}" for rate in sorted(found)) for m, found in rates.items()
    }
    counts = {method: counted(found) for method, found in steps.items()}
    return [*told_by_method("Learning rate", in_words), *told_by_method("Optimizer steps", counts)]
