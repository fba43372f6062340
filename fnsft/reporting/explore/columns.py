"""Tables as columns of short numbers, which pack far better than a mapping for every row."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np


def columns_of(rows: Sequence[Any], cls: type[Any]) -> dict[str, list[Any]]:
    """Return a list for every field of a dataclass, from its instances."""
    names = [field.name for field in dataclasses.fields(cls)]
    return {name: [short(getattr(row, name)) for row in rows] for name in names}


def short(value: Any, digits: int = 5) -> Any:
    """Return a number at the digits that a page shows; anything else as it is.

    JSON has no infinity and no NaN: None in their place.
    """
    if not isinstance(value, float):
        return value
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None


def numbers(values: np.ndarray | Iterable[float], digits: int = 4) -> list[float | None]:
    """Return numbers for JSON, each as :func:`short` has it."""
    return [short(float(value), digits) for value in values]
