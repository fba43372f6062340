"""Rows of local files as items of lm-eval's tasks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fnsft.config.stages.evaluation import Benchmark
from fnsft.data.row_files import read_rows
from fnsft.errors import InputError

# What tells the rows of one benchmark from those of another, the most telling first.
FIELDS = {
    "mmlu-pro": ("question", "options", "answer", "category"),
    "mmlu": ("question", "choices", "answer", "subject"),
    "pubmedqa": ("QUESTION", "CONTEXTS", "final_decision"),
    "humaneval": ("task_id", "prompt", "canonical_solution", "entry_point"),
    "gsm8k": ("question", "answer"),
    "cloze": ("prompt", "choices", "answer"),
    "a prepared split": ("prompt", "completion"),
}


@dataclass(frozen=True)
class Item:
    """One row: its place from 0, the part of the benchmark that it is from, lm-eval's document."""

    name: str
    part: str
    document: dict[str, Any]


def items_of(
    path: Path,
    kind: str,
    part: str | None,
    check: Callable[[dict[str, Any]], str | None],
    optional: Sequence[str] = (),
) -> list[Item]:
    """Read the rows of a benchmark's file (.jsonl, .jsonl.gz, …).

    ``part`` is the field that says which part a row belongs to. ``check`` returns what is wrong
    with a row that has all fields, None of a good one. ``optional`` texts are empty where a row
    has none.

    Raises
    ------
    InputError
        For a bad row, with its line; rows of another benchmark are recognised.
    """
    fields = FIELDS[kind]
    found = []
    for place, (number, row) in enumerate(read_rows(path, "test")):
        where = f"{path} row {number}"
        if missing := [name for name in fields if name not in row]:
            raise InputError(f"{where}: {_unlike(kind, missing[0], row)}")
        if wrong := check(row):
            raise InputError(f"{where}: {wrong}")
        document = {name: row[name] for name in fields}
        document |= {name: row.get(name) or "" for name in optional}
        found.append(Item(str(place), str(row[part]) if part else "", document))
    return found


def _unlike(kind: str, missing: str, row: Mapping[str, Any]) -> str:
    other = next((name for name, known in FIELDS.items() if all(k in row for k in known)), None)
    found = f"one of {other}" if other else ", ".join(row) or "an empty one"
    return (
        f"expected a row of {kind} with {', '.join(FIELDS[kind])}, found {found}; {missing!r} is "
        "missing: name another file or kind"
    )


def is_texts(value: Any, at_least: int = 1) -> bool:
    """Tell a list of texts."""
    return (
        isinstance(value, list)
        and len(value) >= at_least
        and all(isinstance(text, str) for text in value)
    )


def spread(items: Sequence[Item], limit: int | None) -> list[Item]:
    """Return ``limit`` items evenly over the parts: the first of each in turn, then the second.

    They stay in the file's order. A part with fewer items leaves its turns to the others.
    """
    turns: dict[str, int] = {}
    ranked = []
    parts = {part: place for place, part in enumerate(sorted({item.part for item in items}))}
    for place, item in enumerate(items):
        turns[item.part] = turn = turns.get(item.part, 0) + 1
        ranked.append((turn, parts[item.part], place))
    chosen = sorted(place for _, _, place in sorted(ranked)[:limit])
    return [items[place] for place in chosen]


def by_part(items: Sequence[Item]) -> dict[str, list[Item]]:
    """Return the items of each part, parts in order."""
    parts = sorted({item.part for item in items})
    return {part: [item for item in items if item.part == part] for part in parts}


def examples_by_part(
    benchmark: Benchmark, read: Callable[[Path], list[Item]], parts: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
    """Return the documents of each part that shots are taken from; none without shots."""
    if benchmark.examples is None:
        return dict.fromkeys(parts, [])
    path = Path(benchmark.examples)
    found = by_part(read(path))
    for part in parts:
        if (n := len(found.get(part, []))) < (benchmark.shots or 0):
            raise InputError(
                f"{path}: expected {benchmark.shots} examples of {part!r}, found {n}; lower shots"
            )
    return {part: [item.document for item in found[part]] for part in parts}
