"""A table for the terminal: models by methods, one row a fraction p, at most 100 columns.

Grids (conditions by quantities) have a line above every model and section.
"""

import itertools
import textwrap
from collections.abc import Sequence
from pathlib import Path

from fnsft.reporting.cells import BOUND_IN_WORDS
from fnsft.reporting.csv_table import FIELDS, GRID_FIELDS, grid_of, read_csv
from fnsft.reporting.grid import Column as GridColumn
from fnsft.reporting.grid import Grid, Row, measured_in_words
from fnsft.reporting.labels import label_of, style_of
from fnsft.reporting.table import RULES

WIDTH = 100
CsvRow = dict[str, str]
Column = list[str]  # two lines of head, then one text a row; all of one width
Place = tuple[str, str]  # a row: model and p


def any_text(path: Path) -> str:
    """Lay out a table's CSV file, whose header tells its form."""
    rows = read_csv(path, ("model",))
    if "section" in rows[0]:
        return grid_text(grid_of(read_csv(path, GRID_FIELDS)))
    return table_text(read_csv(path, FIELDS))


def table_text(rows: Sequence[CsvRow]) -> str:
    """Lay out a table's CSV rows; averages by other rules than the main one are left out.

    Controls stand behind a bar or, where the lines would get too long, below.
    """
    shown = [row for row in rows if row["fraction_rule"] not in (RULES["mean"], RULES["test"])]
    if len({row["fraction"] for row in shown} - {""}) < 2:  # nothing was chosen
        shown = [row | {"fraction_rule": ""} for row in shown]
    places = _places(shown)
    roles = {row["method"]: row["role"] for row in shown}
    methods, controls = (
        [_method_column(shown, places, m) for m, r in roles.items() if r == role]
        for role in ("method", "control")
    )
    names = _aligned(["", "", *_once([model for model, _ in places])], left=True)
    shares = _aligned(["", "p", *(fraction for _, fraction in places)])
    bar = [["|"] * len(names)] if controls else []
    pages = [[names, shares, *methods, *bar, *controls]]
    if _width(pages[0]) > WIDTH:
        pages = [
            [names, shares, *part]
            for columns in (methods, controls)
            for part in _parts(columns, _width([names, shares]))
        ]
    return "\n\n".join(["\n".join(textwrap.wrap(_head(shown), WIDTH)), *map(_joined, pages)])


def grid_text(grid: Grid) -> str:
    """Lay out a grid; columns that do not fit stand below."""
    lines: list[tuple[str, Row | None]] = []
    for model, rows in grid.blocks.items():
        lines.append((model, None))
        for section, members in itertools.groupby(rows, key=lambda row: row.section):
            lines += [(f" {section}:", None)] if section else []
            lines += [(f"  {row.name}", row) for row in members]
    width = max(len(name) for name, row in lines if row is not None)
    names = [text.ljust(width) for text in ("", "", *(name for name, _ in lines))]
    groups = [
        _group(list(members), [row for _, row in lines])
        for _, members in itertools.groupby(grid.columns, key=lambda column: column.heading)
    ]
    pages = [[names, *part] for part in _parts(groups, width)]
    marks = {
        "best": "* best of its block",
        "beyond": "† worse than all its random sets",
        "differs": "‡ p < .05 after Holm's correction",
    }
    found = {cell.mark for _, cell in grid.cells if cell is not None}
    head = [
        *measured_in_words(grid),
        *(f"{words}." for mark, words in marks.items() if mark in found),
    ]
    return "\n\n".join(["\n".join(textwrap.wrap(" ".join(head), WIDTH)), *map(_joined, pages)])


def _group(columns: Sequence[GridColumn], rows: Sequence[Row | None]) -> Column:
    """Join the columns of a group below its heading."""
    parts = [_aligned([c.name, *(_grid_cell(c, row) for row in rows)]) for c in columns]
    return _aligned([columns[0].heading, *map(" ".join, zip(*parts, strict=True))])


def _grid_cell(column: GridColumn, row: Row | None) -> str:
    if row is None:
        return ""
    cell = row.cells.get(column)
    if cell is None:
        return "– "
    printed = style_of(column.metric).printed
    error = "" if cell.uncertainty is None else f"±{printed(cell.uncertainty, cell.value)}"
    if cell.interval:
        error = f" [{', '.join(map(printed, cell.interval))}]"
    if cell.bound:
        error = f" ({cell.bound[0]}{printed(cell.bound[1])})"
    mark = {"best": "*", "beyond": "†", "differs": "‡"}.get(cell.mark, " ")
    return printed(cell.value) + error + mark


def _head(rows: Sequence[CsvRow]) -> str:
    unit = style_of(rows[0]["metric"]).unit
    measured = f"{rows[0]['benchmark']} {rows[0]['metric']}" + (f", {unit}" if unit else "")
    items, seeds = (
        "/".join(sorted({row[n] for row in rows if row[n]}, key=int))
        for n in ("n_items", "n_seeds")
    )
    runs = "one seed" if seeds == "1" else f"{seeds} seeds"
    chosen = "; † p chosen on validation" if any(row["fraction_rule"] for row in rows) else ""
    bounds = f"; {BOUND_IN_WORDS}" if any(row["low"] or row["high"] for row in rows) else ""
    errors = f"± standard error{bounds}"
    return f"{measured}; {items} items, {runs}, {errors}; * best of its block{chosen}"


def _places(rows: Sequence[CsvRow]) -> list[Place]:
    """Return the table's rows: each model's fractions, or one row where it has none."""
    fractions: dict[str, list[str]] = {}
    for row in rows:
        found = fractions.setdefault(row["model"], [])
        if row["fraction"] and row["fraction"] not in found:
            found.append(row["fraction"])
    return [(model, p) for model, found in fractions.items() for p in found or [""]]


def _method_column(rows: Sequence[CsvRow], places: Sequence[Place], method: str) -> Column:
    """Return a method's column; a cell that spans its model stands in the model's first row."""
    cells = {(row["model"], row["fraction"]): row for row in rows if row["method"] == method}
    firsts = _once([model for model, _ in places])
    texts = [
        _cell(cells.get((model, p)) or cells.get((first, "")))
        for (model, p), first in zip(places, firsts, strict=True)
    ]
    first, _, second = label_of(method).rpartition(" ")
    return _aligned([first, second, *texts])


def _cell(row: CsvRow | None) -> str:
    if row is None:
        return ""
    if not row["value"]:
        return "–  "
    printed = style_of(row["metric"]).printed
    error = f"±{printed(float(row['uncertainty']))}" if row["uncertainty"] else ""
    for name, sign in (("low", "≥"), ("high", "≤")):
        error = f" ({sign}{printed(float(row[name]))})" if row[name] else error
    best = "*" if row["mark"] == "best" else " "
    chosen = "†" if row["fraction_rule"] == "chosen" else " "
    return printed(float(row["value"])) + error + best + chosen


def _once(names: Sequence[str]) -> list[str]:
    return ["" if i and names[i - 1] == name else name for i, name in enumerate(names)]


def _aligned(texts: Sequence[str], left: bool = False) -> Column:
    width = max(map(len, texts))
    return [text.ljust(width) if left else text.rjust(width) for text in texts]


def _width(columns: Sequence[Column]) -> int:
    return sum(len(column[0]) + 1 for column in columns) - 1


def _parts(columns: Sequence[Column], taken: int) -> list[list[Column]]:
    """Break columns into parts that fit beside ``taken`` columns of keys."""
    parts: list[list[Column]] = []
    for column in columns:
        if parts and taken + 1 + _width([*parts[-1], column]) <= WIDTH:
            parts[-1].append(column)
        else:
            parts.append([column])
    return parts


def _joined(columns: Sequence[Column]) -> str:
    lines = [" ".join(texts).rstrip() for texts in zip(*columns, strict=True)]
    head = [line for line in lines[:2] if line.strip(" |")]
    return "\n".join([*head, "-" * _width(columns), *lines[2:]])
