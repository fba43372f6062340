"""Tables as columns of short numbers, which pack far better than a mapping for every row."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np


def columns_of(rows: Sequence[Any], cls: type[Any]) -> dict[str, list[Any]]:
    """Return a list for every field of a dataclass, from its instances."""
    names = [field.name for field in dataclasses.fields(cls)]
    return {name: [short(getattr(row, name)) for row in rows] for name in names}


def short(value: Any, digits: int = 5) -> Any:
    """Return a number at the digits that a page shows; anything else as it is."""
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value


def numbers(values: np.ndarray | Iterable[float], digits: int = 4) -> list[float | None]:
    """Return numbers for JSON, which has no NaN: None in its place."""
    return [None if value != value else short(float(value), digits) for value in values]
