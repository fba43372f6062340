"""A table as CSV, one row a cell, and back, for the terminal."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from fnsft.artifacts.storage import existing
from fnsft.errors import InputError
from fnsft.reporting.cells import Cell
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
    "n_items",
    "n_seeds",
    "mark",
    "validation_perplexity",
    "learning_rate",
    "optimizer_steps",
)
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
    "note",
)


def csv_text(table: Table) -> str:
    """Write the table's cells in its order; a cell that was not measured has no value.

    Values are in the metric's own unit (shares in [0, 1]). ``fraction_rule`` is ``chosen``
    for the p that validation chose, and names the rule of an average.
    """
    stream = io.StringIO()
    writer = csv.DictWriter(stream, FIELDS, lineterminator="\n")
    writer.writeheader()
    for identity, cell in _cells(table):
        writer.writerow(
            {"benchmark": table.settings.benchmark, "metric": table.settings.metric}
            | identity
            | _numbers(cell)
        )
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
        "n_items": cell.n_items,
        "n_seeds": cell.n_seeds,
        "mark": cell.mark,
        "validation_perplexity": short(cell.validation_perplexity),
        "learning_rate": short(cell.learning_rate),
        "optimizer_steps": short(cell.optimizer_steps),
    }


def read_csv(path: Path, fields: tuple[str, ...]) -> list[dict[str, str]]:
    """Read a CSV file whose header has these fields."""
    with existing(path).open(newline="") as stream:
        reader = csv.DictReader(stream)
        missing = [name for name in fields if name not in (reader.fieldnames or ())]
        if missing:
            raise InputError(
                f"{path}: expected the columns {', '.join(fields)}; {missing[0]!r} is missing"
            )
        rows = list(reader)
    if not rows:
        raise InputError(f"{path}: expected at least one row, found none")
    return rows
