"""Published numbers beside ours, on the terminal: in no table of ours do they stand."""

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from fnsft.errors import InputError
from fnsft.reporting.labels import benchmark_label, label_of, run_label, style_of
from fnsft.reporting.text_table import WIDTH, CsvRow

UNITS = {"%": 0.01, "share": 1.0, "": 1.0}  # of a published number, in the metric's own
HEADS = ("model", "method", "benchmark", "published", "ours", "difference")
Key = tuple[str, str, str, str]  # model, method and fraction, benchmark, metric


@dataclass(frozen=True)
class Ours:
    """A number of ours; ``where`` says which of several that have the same key."""

    key: Key
    where: str
    value: float
    uncertainty: float | None


def published_text(published: Sequence[CsvRow], table: Sequence[CsvRow] = ()) -> str:
    """Set published numbers beside those of a table's CSV, and list the others.

    Numbers belong together when model, method, fraction, benchmark and metric agree, all as they
    are written in tables. What is published states no error, so that ± is ours alone.

    Raises
    ------
    InputError
        When a fraction or a number that is compared is none, or has an unknown unit.
    """
    ours: dict[Key, list[Ours]] = {}
    for found in ours_of(table):
        ours.setdefault(found.key, []).append(found)
    beside = [(row, found) for row in published for found in ours.get(_key_of(row), ())]
    others = [row for row in published if _key_of(row) not in ours]
    parts = [_beside_text(beside)] if beside else []
    return "\n\n".join([*parts, *([_listed("not measured here", others)] if others else [])])


def ours_of(rows: Iterable[CsvRow]) -> Iterator[Ours]:
    """Yield the numbers of a table's CSV, of either form."""
    for row in rows:
        if not row["value"]:
            continue
        if "section" in row:
            names = row["model"], row["row"], benchmark_label(row["group"])
            where = row["column"]
        else:
            run = run_label(row["method"], _fraction(row))
            names = row["model"], run, benchmark_label(row["benchmark"], row["metric"])
            where = row["fraction_rule"] if row["fraction_rule"] != "chosen" else ""
        error = float(row["uncertainty"]) if row["uncertainty"] else None
        yield Ours(_key(*names, row["metric"]), where, float(row["value"]), error)


def _key_of(row: CsvRow) -> Key:
    run = run_label(row["method"], _fraction(row))
    return _key(row["model"], run, benchmark_label(row["benchmark"], row["metric"]), row["metric"])


def _key(*names: str) -> Key:
    model, run, benchmark, metric = (name.casefold() for name in names)
    return model, run, benchmark, metric


def _fraction(row: CsvRow) -> float | None:
    try:
        return float(row["fraction"]) if row["fraction"] else None
    except ValueError:
        raise InputError(f"fraction: expected a number, found {row['fraction']!r}") from None


def _beside_text(beside: Sequence[tuple[CsvRow, Ours]]) -> str:
    lines = [HEADS, *(_compared(row, found) for row, found in beside)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = [
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    head = "Published beside ours; difference: ours minus published, ± ours alone:"
    sources = list({id(row): row for row, _ in beside}.values())
    return "\n".join([head, *table, "", _listed("set beside ours", sources)])


def _compared(row: CsvRow, found: Ours) -> tuple[str, ...]:
    """Return a line of the comparison, in the unit that tables print."""
    style = style_of(row["metric"])
    # What prints in percent is published in percent or as a share: without a unit it is neither.
    units = [unit for unit in UNITS if unit or style.scale == 1]
    if row["unit"] not in units:
        known = ", ".join(unit or "none" for unit in units)
        raise InputError(f"unit: expected one of {known}, found {row['unit']!r}")
    try:
        value = float(row["value"]) * UNITS[row["unit"]]
    except ValueError:
        raise InputError(f"value: expected a number, found {row['value']!r}") from None
    error = "" if found.uncertainty is None else f"±{style.printed(found.uncertainty, found.value)}"
    difference = found.value - value
    sign = "+" if float(style.printed(difference)) > 0 else ""
    unit = f", {style.unit}" if style.unit else ""
    benchmark = benchmark_label(row["benchmark"], row["metric"]) + unit
    return (
        row["model"],
        run_label(row["method"], _fraction(row)),
        f"{benchmark} ({found.where})" if found.where else benchmark,
        style.printed(value),
        style.printed(found.value) + error,
        f"{sign}{style.printed(difference)}{error}",
    )


def _listed(which: str, rows: Sequence[CsvRow]) -> str:
    """List published numbers under a heading of their own, each with its source."""
    lines = [f"Published numbers ({which}):"]
    for row in rows:
        kind = ", ".join(filter(None, (row["model"], label_of(row["method"]), row["fraction"])))
        number = f"{row['value']}{f' {unit}' if (unit := row['unit']) else ''} {row['metric']}"
        text = f"{kind}: {number}, {row['benchmark']} ({row['note']})"
        source = f"{row['paper']}, {row['table']}, {row['source']}"
        lines += textwrap.wrap(f"- {text}; {source}", WIDTH, subsequent_indent="  ")
    return "\n".join(lines)
