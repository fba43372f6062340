"""Metric records: long-form JSON lines, one metric a line, each with its run's identity."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

from fnsft.artifacts.rows import numbered_rows, typed_row
from fnsft.artifacts.storage import write_jsonl
from fnsft.artifacts.training import Run


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One number of one model.

    ``value`` and ``stderr`` are in the metric's own unit (shares lie in [0, 1]); ``stderr`` is
    None where one item cannot give it; ``n`` counts items; ``subset`` is such as ``steps=2``.
    """

    benchmark: str
    metric: str
    value: float
    stderr: float | None
    n: int
    subset: str | None = None


@dataclasses.dataclass(frozen=True)
class Record:
    """A measurement and the run that it belongs to; None where a field does not apply.

    ``forward_mask`` is on or off for a model that was trained with a mask on its forward pass.
    """

    model: str
    method: str
    fraction: float | None
    lam: float | None
    affinity: str | None
    applies_to: str | None
    mask_mode: str | None
    stage: int
    seed: int | None
    task: str
    benchmark: str
    metric: str
    subset: str | None
    value: float
    stderr: float | None
    n: int
    forward_mask: str | None

    @classmethod
    def of(cls, run: Run, measurement: Measurement, forward_mask: str | None = None) -> "Record":
        """Join a measurement and its run."""
        fields = dataclasses.asdict(run) | dataclasses.asdict(measurement)
        del fields["learning_rate"]
        return cls(**fields, forward_mask=forward_mask)


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Write records, one a line."""
    write_jsonl(path, [dataclasses.asdict(record) for record in records])


def read_records(paths: Iterable[Path]) -> list[Record]:
    """Read the records of several files; a line that holds none is named."""
    return [
        typed_row(Record, row, f"{path} line {number}")
        for path in paths
        for number, row in numbered_rows(path)
    ]
