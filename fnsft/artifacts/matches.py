"""Which networks of two sets are the same: JSON lines, one pair a line."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

from fnsft.artifacts.rows import numbered_rows, typed_row
from fnsft.artifacts.storage import write_jsonl


@dataclasses.dataclass(frozen=True)
class Match:
    """Networks ``first`` and ``second``, matched one to one.

    ``iou`` = |A ∩ B| / |A ∪ B| of their neurons; ``correlation`` is of their signed loadings,
    None where a file has none. ``iou_chance`` and ``correlation_chance`` are the means after
    the neurons of every layer were permuted and the networks matched anew.
    """

    first: int
    second: int
    iou: float
    iou_chance: float
    correlation: float | None
    correlation_chance: float | None


def write_matches(path: Path, matches: Iterable[Match]) -> None:
    """Write matches, one a line."""
    write_jsonl(path, [dataclasses.asdict(match) for match in matches])


def read_matches(path: Path) -> list[Match]:
    """Read matches; a line that holds none is named."""
    return [typed_row(Match, row, f"{path} line {number}") for number, row in numbered_rows(path)]
