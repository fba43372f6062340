"""Item scores: JSON lines, one item of a benchmark a line, for paired comparisons."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

from fnsft.artifacts.rows import numbered_rows, typed_row
from fnsft.artifacts.storage import write_jsonl


@dataclasses.dataclass(frozen=True)
class ItemScore:
    """What one item adds to a metric, which is Σ value / Σ weight.

    Of a share, ``value`` is 1 or 0 and ``weight`` 1. Of a perplexity (the exponential of the
    quotient), ``value`` is the loss in nats and ``weight`` the completion's tokens.
    """

    benchmark: str
    metric: str
    item: str
    value: float
    weight: float = 1.0


def items_path(records: Path) -> Path:
    """Return where the item scores of a file of records lie: beside it."""
    return records.with_name(f"{records.stem}.items.jsonl")


def write_items(path: Path, items: Iterable[ItemScore]) -> None:
    """Write item scores, one a line."""
    write_jsonl(path, [dataclasses.asdict(item) for item in items])


def read_items(path: Path) -> list[ItemScore]:
    """Read item scores; a line that holds none is named."""
    return [typed_row(ItemScore, row, f"{path} line {n}") for n, row in numbered_rows(path)]
