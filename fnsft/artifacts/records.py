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
    ``sequence`` names the tasks of all stages so far (``math>code``), ``measures`` the task whose
    learning the benchmark shows. ``protocol`` says how items were asked and read, ``data_sha256``
    and ``versions`` of what; records of ``fnsft evaluate`` have none of these.
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
    sequence: str | None = None
    measures: str | None = None
    protocol: str | None = None
    data_sha256: str | None = None
    versions: str | None = None

    @classmethod
    def of(
        cls,
        run: Run,
        measurement: Measurement,
        forward_mask: str | None = None,
        **provenance: str | None,
    ) -> "Record":
        """Join a measurement, its run and, of a benchmark, where its items come from."""
        fields = dataclasses.asdict(run) | dataclasses.asdict(measurement) | provenance
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
