"""Tables whose rows are conditions and whose columns are measured quantities, a block a model.

A row lacks the columns that do not apply to it; where one applies and was not measured, its
cell is None. Both print as a dash.
"""

import itertools
import math
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from fnsft.reporting.cells import BOUND_IN_WORDS, Cell, bounded
from fnsft.reporting.labels import counted, style_of
from fnsft.reporting.table import marks_of

DASH = "–"
PLACES = 10  # columns of value ± error that a page holds
SHARE = "share"  # a metric that counts neurons or draws, and has no items
SHARE_OF_CONNECTIONS = "share_of_connections"  # whose connections are not independent


@dataclass(frozen=True)
class Column:
    """A quantity; ``group`` heads neighbouring columns together, ``metric`` is how it prints."""

    group: str
    name: str
    metric: str

    @property
    def heading(self) -> str:
        """The group, with the unit of its numbers."""
        unit = style_of(self.metric).unit
        return f"{self.group}, {unit}" if unit else self.group


@dataclass(frozen=True)
class Row:
    """A condition; rows of one ``section`` stand together below its name."""

    section: str
    name: str
    cells: dict[Column, Cell | None]


@dataclass(frozen=True)
class Grid:
    """A table's content: rows by model, and what it says of itself, in plain text."""

    columns: tuple[Column, ...]
    blocks: Mapping[str, Sequence[Row]]
    caption: str = ""
    notes: tuple[str, ...] = ()

    @property
    def cells(self) -> list[tuple[Column, Cell | None]]:
        """The cells of all rows, with their columns."""
        rows = [row for rows in self.blocks.values() for row in rows]
        return [(c, row.cells[c]) for row in rows for c in self.columns if c in row.cells]

    @property
    def missing(self) -> int:
        """Cells that apply and were not measured."""
        return sum(cell is None for _, cell in self.cells)


class Measured(Protocol):
    """One run's number over ``n`` items."""

    @property
    def value(self) -> float: ...  # noqa: D102

    @property
    def stderr(self) -> float | None: ...  # noqa: D102

    @property
    def n(self) -> int: ...  # noqa: D102


def parts_of(grid: Grid) -> list[list[Column]]:
    """Break the columns between groups into parts as wide as a page; intervals take two places."""
    wide = {column for column, cell in grid.cells if cell is not None and cell.interval}
    parts: list[list[Column]] = []
    for _, members in itertools.groupby(grid.columns, key=lambda column: column.heading):
        group = list(members)
        together = [*parts[-1], *group] if parts else group
        if parts and len(together) + len(wide.intersection(together)) <= PLACES:
            parts[-1] = together
        else:
            parts.append(group)
    return parts


def cell_over_seeds(measured: Collection[Measured]) -> Cell | None:
    """Return mean ± standard deviation over seeds; of one seed its ± over items.

    None without any.
    """
    if not measured:
        return None
    values, items = [found.value for found in measured], {found.n for found in measured}
    several = len(values) > 1
    return Cell(
        value=statistics.fmean(values),
        uncertainty=deviation_of(values) if several else next(iter(measured)).stderr,
        kind="seeds, sd" if several else "items",
        n_items=items.pop() if len(items) == 1 else None,
        n_seeds=len(values),
    )


def mark_best(
    rows: Sequence[dict[Column, Cell | None]], quantities: Iterable[Sequence[Column]]
) -> None:
    """Mark the best and second number of every quantity, over all of its columns."""
    for columns in quantities:
        found = [
            (row, c, cell) for row in rows for c in columns if (cell := row.get(c)) is not None
        ]
        marks = marks_of([cell for _, _, cell in found], style_of(columns[0].metric))
        for (row, column, _), cell in zip(found, marks, strict=True):
            row[column] = cell


def with_bounds(grid: Grid) -> Grid:
    """Return the grid with a bound beside every share of no or of all independent items."""
    others = (SHARE, SHARE_OF_CONNECTIONS)
    shares = {c for c in grid.columns if c.metric not in others and style_of(c.metric).is_share}

    def row_of(row: Row) -> Row:
        cells = {c: bounded(x) if x and c in shares else x for c, x in row.cells.items()}
        return replace(row, cells=cells)

    return replace(grid, blocks={m: [row_of(row) for row in b] for m, b in grid.blocks.items()})


def deviation_of(values: Sequence[float]) -> float | None:
    """Return the standard deviation; None of fewer than two values, or of infinite ones."""
    finite = len(values) > 1 and all(map(math.isfinite, values))
    return statistics.stdev(values) if finite else None


def measured_in_words(grid: Grid) -> list[str]:
    """Say what ± and dashes are, and how many items, seeds and draws: all from the cells."""
    measured = [(column, cell) for column, cell in grid.cells if cell is not None]
    items: dict[str, set[int | None]] = {}
    for column, cell in measured:
        if column.metric != SHARE and style_of(column.metric).of_items:
            items.setdefault(column.group, set()).add(cell.n_items)
    listed = "; ".join(f"{group} {_number(found)}" for group, found in items.items())
    spreads = _spreads([cell for _, cell in measured if cell.uncertainty is not None])
    words = [f"Items: {listed}."] if listed else []
    words += [f"±: {'; '.join(spreads)}."] if spreads else []
    if any(cell.bound for _, cell in measured):
        words.append(f"≤, ≥: {BOUND_IN_WORDS}.")
    if seeds := {cell.n_seeds or 0 for _, cell in measured if cell.kind == "paired"}:
        runs = "one seed" if seeds == {1} else f"{counted(seeds)} seeds"
        words.append(f"Brackets: 95 % interval over items, {runs}.")
    if len(measured) < len(grid.columns) * sum(map(len, grid.blocks.values())):
        unmeasured = f", or not measured (cells: {grid.missing})" if grid.missing else ""
        words.append(f"{DASH}: does not apply{unmeasured}.")
    return words


def _number(found: Collection[int | None]) -> str:
    known = [number for number in found if number is not None]
    return counted(known) if len(known) == len(found) else "other ones by seed"


def _spreads(cells: Iterable[Cell]) -> list[str]:
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        found.setdefault(cell.kind, []).append(cell)
    words = []
    if several := found.get("seeds, sd"):
        words.append(f"standard deviation over {counted(c.n_seeds or 0 for c in several)} seeds")
    if draws := found.get("draws, sd"):
        numbers = counted(cell.n_draws or 0 for cell in draws)
        words.append(f"of random sets the standard deviation over {numbers} draws")
        if (seeds := counted(cell.n_seeds or 0 for cell in draws)) != "1":
            words[-1] += f" of {seeds} seeds together"
    if "items" in found:
        words.append("of one run the standard error over items")
    return words
