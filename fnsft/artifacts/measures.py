"""Measures of graphs and masks: long-form JSON lines, one number of one layer a line."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from fnsft.artifacts.rows import numbered_rows, typed_row
from fnsft.artifacts.storage import write_jsonl

Source = Literal["model", "random-init", "token-shuffled"]


@dataclasses.dataclass(frozen=True)
class Measure:
    """One number of one layer.

    ``source`` is the model itself or one of the two controls; ``measure`` is named in
    :mod:`fnsft.neurons.measures`; ``stderr`` is over ``n`` items (tokens, neurons, batches),
    None where one item cannot give it; ``part`` tells matrices apart (gate, up, down).
    """

    model: str
    source: Source
    task: str
    graph: str
    seed: int
    layer: int
    measure: str
    value: float
    stderr: float | None
    n: int
    part: str | None = None


def write_measures(path: Path, measures: Iterable[Measure]) -> None:
    """Write measures, one a line."""
    write_jsonl(path, [dataclasses.asdict(measure) for measure in measures])


def read_measures(paths: Iterable[Path]) -> list[Measure]:
    """Read the measures of several files; a line that holds none is named."""
    return [
        typed_row(Measure, row, f"{path} line {number}")
        for path in paths
        for number, row in numbered_rows(path)
    ]
