"""A table in GitHub's Markdown: one form for every kind, which reads well as plain text too.

A table of methods by models stands turned, a row a method and fraction, for in Markdown no cell
can span several.
"""

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from fnsft.reporting.cells import Cell
from fnsft.reporting.grid import DASH, Column, Grid, Row, measured_in_words, parts_of
from fnsft.reporting.labels import MetricStyle, run_label, style_of
from fnsft.reporting.notes import caption_of, notes_of
from fnsft.reporting.table import Table

FORMS = {"best": "**{}**", "second": "<ins>{}</ins>"}  # GitHub takes <u> out
MARKS = {"beyond": " †", "differs": " ‡"}


def grid_markdown(grid: Grid) -> str:
    """Write a grid: caption, cells (columns that do not fit below the others), and notes."""
    return _written(grid, [*grid.notes, *measured_in_words(grid)])


def markdown(table: Table) -> str:
    """Write a table of methods by models, methods as rows."""
    return _written(grid_of_methods(table), notes_of(table))


def grid_of_methods(table: Table) -> Grid:
    """Turn a table: a row a method and fraction, a column a model, then their average."""
    columns = {model: Column(model, "", table.settings.metric) for model in table.models}
    average = Column("Average", "", table.settings.metric)
    rows = []
    for method in table.columns:
        for fraction in table.fractions_of(method):
            found = {c: table.cells.get((m, method, fraction)) for m, c in columns.items()}
            if len(columns) > 1:
                found[average] = table.averages.get(("validation", method))
            cells = {c: _marked_choice(cell, table) for c, cell in found.items()}
            section = "controls" if method in table.controls else ""
            rows.append(Row(section, run_label(method, fraction), cells))
    every = (*columns.values(), *([average] if len(columns) > 1 else []))
    return Grid(every, {"": rows}, caption_of(table))


def _marked_choice(cell: Cell | None, table: Table) -> Cell | None:
    """Leave the dagger away where there was one fraction to choose."""
    return cell and replace(cell, chosen=cell.chosen and len(table.fractions) > 1)


def _written(grid: Grid, notes: Iterable[str]) -> str:
    parts = ["\n".join(_aligned(_lines(grid, columns))) for columns in parts_of(grid)]
    listed = "\n".join(f"- {escaped(note)}" for note in notes)
    return "\n\n".join([f"**{escaped(grid.caption)}**", *parts, listed]) + "\n"


def _lines(grid: Grid, columns: Sequence[Column]) -> list[list[str]]:
    """Return the head and the rows of some columns."""
    heads = [": ".join(filter(None, (c.heading, c.name))) for c in columns]
    lines = [["", *map(escaped, heads)]]
    for model, rows in grid.blocks.items():
        lines += [_spanning(f"**{escaped(model)}**", len(heads))] if model else []
        for section, members in itertools.groupby(rows, key=lambda row: row.section):
            lines += [_spanning(f"*{escaped(section)}*", len(heads))] if section else []
            for row in members:
                cells = [_cell(style_of(c.metric), row.cells.get(c)) for c in columns]
                lines.append([escaped(row.name), *cells])
    return lines


def _cell(style: MetricStyle, cell: Cell | None) -> str:
    if cell is None:
        return DASH
    text = FORMS.get(cell.mark, "{}").format(style.printed(cell.value))
    if cell.uncertainty is not None:
        text += f" ± {style.printed(cell.uncertainty, cell.value)}"
    if cell.interval:
        text += f" [{', '.join(map(style.printed, cell.interval))}]"
    if cell.bound:
        text += f" ({cell.bound[0]} {style.printed(cell.bound[1])})"
    return text + (" †" if cell.chosen else MARKS.get(cell.mark, ""))


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Pad the cells of every column to one width, names to the left and numbers to the right."""
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    head, *body = [
        [first.ljust(widths[0]), *(c.rjust(w) for c, w in zip(rest, widths[1:], strict=True))]
        for first, *rest in lines
    ]
    return [f"| {' | '.join(cells)} |" for cells in (head, rule, *body)]


def _spanning(text: str, n: int) -> list[str]:
    return [text, *[""] * n]


def escaped(text: str) -> str:
    """Return text in which nothing means anything to Markdown, on one line."""
    return re.sub(r"([\\`*_<>|\[\]~$])", r"\\\1", " ".join(text.split()))
