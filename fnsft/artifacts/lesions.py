"""What lesions cost: long-form JSON lines, one metric of one condition a line."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from fnsft.artifacts.rows import numbered_rows, typed_row
from fnsft.artifacts.storage import write_jsonl

Experiment = Literal[
    "intact",  # nothing is masked
    "single",  # one network is removed
    "amplified",  # one network's activations are multiplied by the gain
    "removed",  # the n networks with the largest effect are removed
    "kept",  # they are kept, all other neurons are removed
    "unmasked",  # a share of every layer's neurons is kept, those with the largest |loading|
]
Source = Literal["network", "random"]
Split = Literal["ranking", "evaluation"]


@dataclasses.dataclass(frozen=True)
class Lesion:
    """One metric of one condition.

    ``source`` random has as many neurons in every layer as the networks have, drawn at random,
    and ``draw`` counts the draws (None of a network). ``network`` is the one that is removed
    or amplified alone; ``n_networks`` counts those removed or kept, in order of the effect that
    the ranking split shows; ``share`` is what gradual unmasking keeps. ``n_neurons`` are
    masked (amplified: multiplied), of the ``n_all`` of the layers that the lesions are in.

    Benchmark ``perplexity`` has the metric ``loss``, in nats a token, whose exponential it is
    (which may overflow, and JSON has no infinity); ``cloze`` and ``gsm8k`` have ``accuracy``,
    a share. ``stderr`` is over ``n`` items.
    """

    model: str
    task: str
    networks: str
    seed: int
    experiment: Experiment
    source: Source
    split: Split
    draw: int | None
    network: int | None
    n_networks: int | None
    share: float | None
    n_neurons: int
    n_all: int
    benchmark: str
    metric: str
    value: float
    stderr: float | None
    n: int


def write_lesions(path: Path, lesions: Iterable[Lesion]) -> None:
    """Write lesions, one metric a line."""
    write_jsonl(path, [dataclasses.asdict(lesion) for lesion in lesions])


def read_lesions(paths: Iterable[Path]) -> list[Lesion]:
    """Read the lesions of several files; a line that holds none is named."""
    return [
        typed_row(Lesion, row, f"{path} line {number}")
        for path in paths
        for number, row in numbered_rows(path)
    ]
