"""A table as CSV, one row a cell, and back, for the terminal."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fnsft.artifacts.storage import existing
from fnsft.errors import InputError
from fnsft.reporting.cells import Cell
from fnsft.reporting.grid import Column, Grid, Row
from fnsft.reporting.table import RULES, Table

AVERAGE = "Average"
FIELDS = (
    "benchmark",
    "metric",
    "model",
    "method",
    "role",
    "fraction",
    "fraction_rule",
    "value",
    "uncertainty",
    "uncertainty_kind",
    "low",
    "high",
    "n_items",
    "n_seeds",
    "mark",
    "validation_perplexity",
    "learning_rate",
    "optimizer_steps",
)
GRID_FIELDS = (
    "model",
    "section",
    "row",
    "group",
    "column",
    "metric",
    "applies",
    "value",
    "uncertainty",
    "uncertainty_kind",
    "low",
    "high",
    "n_items",
    "n_seeds",
    "n_draws",
    "mark",
)
COUNTS = ("n_items", "n_seeds", "n_draws")
PUBLISHED_FIELDS = (
    "paper",
    "source",
    "table",
    "model",
    "method",
    "fraction",
    "benchmark",
    "metric",
    "value",
    "unit",
    "note",
)


def csv_text(table: Table) -> str:
    """Write the table's cells in its order; a cell that was not measured has no value.

    Values are in the metric's own unit (shares in [0, 1]). ``fraction_rule`` is ``chosen``
    for the p that validation chose, and names the rule of an average.
    """
    what = {"benchmark": table.settings.benchmark, "metric": table.settings.metric}
    return _written(FIELDS, (what | identity | _numbers(cell) for identity, cell in _cells(table)))


def grid_csv(grid: Grid) -> str:
    """Write a grid's cells in its order, also those that do not apply to their row."""
    return _written(
        GRID_FIELDS,
        (
            {"model": model, "section": row.section, "row": row.name}
            | {"group": column.group, "column": column.name, "metric": column.metric}
            | {"applies": "yes" if column in row.cells else "no"}
            | _numbers(row.cells.get(column))
            for model, rows in grid.blocks.items()
            for row in rows
            for column in grid.columns
        ),
    )


def grid_of(rows: Sequence[dict[str, str]]) -> Grid:
    """Return the grid that :func:`grid_csv` wrote, without its caption and notes."""
    blocks: dict[str, dict[tuple[str, str], dict[Column, Cell | None]]] = {}
    columns = [Column(row["group"], row["column"], row["metric"]) for row in rows]
    for column, row in zip(columns, rows, strict=True):
        cells = blocks.setdefault(row["model"], {}).setdefault((row["section"], row["row"]), {})
        if row["applies"] == "yes":
            cells[column] = _cell_of(row)
    return Grid(
        columns=tuple(dict.fromkeys(columns)),
        blocks={
            model: [Row(*key, cells) for key, cells in block.items()]
            for model, block in blocks.items()
        },
    )


def _written(fields: Sequence[str], rows: Iterable[dict[str, Any]]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fields, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _cells(table: Table) -> Iterator[tuple[dict[str, str], Cell | None]]:
    for model in table.models:
        for method in table.columns:
            for fraction in table.fractions_of(method):
                cell = table.cells.get((model, method, fraction))
                share = "" if fraction is None else f"{fraction:g}"
                rule = "chosen" if cell is not None and cell.chosen else ""
                yield _identity(table, model, method, share, rule), cell
    for rule, words in RULES.items():
        for method in table.columns:
            if rule == "validation" or method in table.masked:
                words_of = words if method in table.masked else ""
                identity = _identity(table, AVERAGE, method, "", words_of)
                yield identity, table.averages.get((rule, method))


def _identity(table: Table, model: str, method: str, share: str, rule: str) -> dict[str, str]:
    role = "control" if method in table.controls else "method"
    return dict(model=model, method=method, role=role, fraction=share, fraction_rule=rule)


def _numbers(cell: Cell | None) -> dict[str, str | int | None]:
    if cell is None:
        return {}

    def short(number: float | None) -> str:
        return "" if number is None else f"{number:.6g}"

    return {
        "value": short(cell.value),
        "uncertainty": short(cell.uncertainty),
        "uncertainty_kind": cell.kind,
        "low": short(cell.low),
        "high": short(cell.high),
        "n_items": cell.n_items,
        "n_seeds": cell.n_seeds,
        "n_draws": cell.n_draws,
        "mark": cell.mark,
        "validation_perplexity": short(cell.validation_perplexity),
        "learning_rate": short(cell.learning_rate),
        "optimizer_steps": short(cell.optimizer_steps),
    }


def _cell_of(row: dict[str, str]) -> Cell | None:
    if not row["value"]:
        return None
    numbers = {name: int(row[name]) if row[name] else None for name in COUNTS}
    names = ("value", "uncertainty", "low", "high")
    found = {name: float(row[name]) if row[name] else None for name in names}
    return Cell(**found, **numbers, kind=row["uncertainty_kind"], mark=row["mark"])  # type: ignore[arg-type]


def read_csv(path: Path, fields: tuple[str, ...]) -> list[dict[str, str]]:
    """Read a CSV file whose header has these fields."""
    with existing(path).open(newline="") as stream:
        reader = csv.DictReader(stream)
        missing = [name for name in fields if name not in (reader.fieldnames or ())]
        if missing:
            raise InputError(
                f"{path}: expected a table's CSV, with the columns {', '.join(fields)}; "
                f"{missing[0]!r} is missing"
            )
        rows = list(reader)
    if not rows:
        raise InputError(f"{path}: expected at least one row, found none")
    for number, row in enumerate(rows, start=1):
        if None in row.values():
            n_cells = sum(cell is not None for cell in row.values())
            raise InputError(
                f"{path}: row {number}: expected {len(row)} cells, found {n_cells}; complete it"
            )
    return rows
