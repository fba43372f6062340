"""Whether connected neurons are described alike: long-form JSON lines, one layer and q a line."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from fnsft.artifacts.descriptions import DescriptionSource
from fnsft.artifacts.rows import numbered_rows, typed_row
from fnsft.artifacts.storage import write_jsonl
from fnsft.errors import InputError

SimilaritySource = Literal["model", "random-init", "token-shuffled", "random-neighbours"]


@dataclasses.dataclass(frozen=True)
class Similarity:
    """Of a layer's ``n`` connections those in the top ``q`` percent, 100 being all.

    ``source`` is the model, a control, or as many random neighbours in place of the graph's;
    ``descriptions`` says where the texts are from; ``k``, ``n_random``, ``confidence``,
    ``embedding``, ``embedding_model`` (its folder's name), ``n_components`` and ``draw_seed`` are
    those of the settings, ``seed`` is the run's. ``n_top`` and ``stderr_top`` are of all in the
    top q, ``n_bin`` and ``stderr_bin`` of those that are in no smaller top of the file; errors are
    of the shares in n, clustered by both neurons. ``expected_top`` and ``expected_bin`` are the
    shares of unrelated neurons. ``similarity`` is the mean over connections, ``random_similarity``
    that to the random neurons they are ranked among. ``n_neurons`` have a connection; of all,
    ``n_undescribed`` have no description that scores above 0, for which, or for want of random
    neurons, ``n_left_out`` connections are left out. Of a layer without connections ``n`` is 0, and
    what would be a share or a mean of them is None. All are defined in
    :mod:`fnsft.neurons.similarity`.
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
    embedding: str
    embedding_model: str | None
    n_components: int
    draw_seed: int
    q: float
    n: int
    n_top: int
    stderr_top: float | None
    expected_top: float | None
    n_bin: int
    stderr_bin: float | None
    expected_bin: float | None
    similarity: float | None
    random_similarity: float | None
    n_neurons: int
    n_undescribed: int
    n_left_out: int


def write_similarity(path: Path, rows: Iterable[Similarity]) -> None:
    """Write rows, one a line."""
    write_jsonl(path, [dataclasses.asdict(row) for row in rows])


def read_similarity(paths: Iterable[Path]) -> list[Similarity]:
    """Read the rows of several files; a line that holds none is named."""
    return [
        _row(row, f"{path} line {number}") for path in paths for number, row in numbered_rows(path)
    ]


def _row(row: Any, where: str) -> Similarity:
    found: Similarity = typed_row(Similarity, row, where)
    means = (found.expected_top, found.expected_bin, found.similarity, found.random_similarity)
    if found.n < 0 or (found.n > 0 and None in means):
        raise InputError(
            f"{where}: expected n of at least 0 and numbers of so many connections, found n = "
            f"{found.n}, {means}; run fnsft similarity anew"
        )
    return found
