"""The share of hits among items, overall and by subset."""

import math
from collections.abc import Sequence

from fnsft.artifacts.records import Measurement


def share(
    benchmark: str, metric: str, hits: Sequence[bool], subset: str | None = None
) -> Measurement:
    """Return the share p of hits with its standard error √(p(1−p)/(n−1)), as lm-eval has it."""
    n = len(hits)
    p = sum(hits) / n
    stderr = math.sqrt(p * (1 - p) / (n - 1)) if n > 1 else None
    return Measurement(benchmark, metric, p, stderr, n, subset)


def shares_by(
    benchmark: str, metric: str, hits: Sequence[bool], key: str, values: Sequence[str | int]
) -> list[Measurement]:
    """Return the share of each value's items, as subset ``key=value``; values in order."""
    return [
        share(
            benchmark,
            metric,
            [hit for hit, value in zip(hits, values, strict=True) if value == wanted],
            f"{key}={wanted}",
        )
        for wanted in sorted(set(values))
    ]
