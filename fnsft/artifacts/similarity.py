"""Whether connected neurons are described alike: long-form JSON lines, one layer and q a line."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from fnsft.artifacts.descriptions import DescriptionSource
from fnsft.artifacts.rows import numbered_rows, typed_row
from fnsft.artifacts.storage import write_jsonl

SimilaritySource = Literal["model", "random-init", "token-shuffled", "random-neighbours"]


@dataclasses.dataclass(frozen=True)
class Similarity:
    """Of a layer's ``n`` connections those in the top ``q`` percent, 100 being all.

    ``source`` is the model, a control, or as many random neighbours in place of the graph's;
    ``descriptions`` says where the texts are from; ``k``, ``n_random`` and ``confidence`` are
    those of the settings. ``n_top`` and ``stderr_top`` are of all in the top q, ``n_bin`` and
    ``stderr_bin`` of those that are in no smaller top of the file; errors are of the shares in
    n, clustered by both neurons. ``expected_top`` and ``expected_bin`` are the shares of unrelated
    neurons. ``similarity`` is the mean over connections, ``random_similarity`` that to the random
    neurons they are ranked among. ``n_neurons`` have a connection; of all, ``n_undescribed`` have
    no description that scores above 0, for which, or for want of random neurons, ``n_left_out``
    connections are left out. All are defined in :mod:`fnsft.neurons.similarity`.
    """

    model: str
    source: SimilaritySource
    task: str
    graph: str
    seed: int
    layer: int
    descriptions: DescriptionSource
    k: int
    n_random: int
    confidence: float
    q: float
    n: int
    n_top: int
    stderr_top: float | None
    expected_top: float
    n_bin: int
    stderr_bin: float | None
    expected_bin: float
    similarity: float
    random_similarity: float
    n_neurons: int
    n_undescribed: int
    n_left_out: int


def write_similarity(path: Path, rows: Iterable[Similarity]) -> None:
    """Write rows, one a line."""
    write_jsonl(path, [dataclasses.asdict(row) for row in rows])


def read_similarity(paths: Iterable[Path]) -> list[Similarity]:
    """Read the rows of several files; a line that holds none is named."""
    return [
        typed_row(Similarity, row, f"{path} line {number}")
        for path in paths
        for number, row in numbered_rows(path)
    ]
