"""What the masks of a run did, in a model card's words.

L = layers, N = ``d_mlp`` neurons.
"""

from collections.abc import Iterable
from pathlib import Path
from statistics import fmean

import numpy as np

from fnsft.artifacts.telemetry import (
    MASKS_FILE_NAME,
    UPDATES_FILE_NAME,
    MaskRecord,
    read_masks,
    read_neuron_updates,
)
from fnsft.artifacts.training import TrainingRecord

COLUMNS = {
    "pass_rate": "share that passed",
    "jaccard_last": "overlap with the step before",
    "jaccard_highest": "overlap with the largest gradients",
    "neighbour_share": "share of the score from neighbours",
}


def mask_lines(folder: Path, training: TrainingRecord | None) -> Iterable[str]:
    """Yield the lines of a section on the masks; none for a run without."""
    if training and training.mask_pass_rate is not None:
        rate = training.mask_pass_rate
        yield f"Of the entries of the masked matrices {rate:.2%} passed, over all steps."
    if (folder / UPDATES_FILE_NAME).is_file():
        updates = read_neuron_updates(folder)
        yield neuron_line(updates.share, updates.recorded_steps)
    if (folder / MASKS_FILE_NAME).is_file() and (records := read_masks(folder)):
        yield ""
        yield from part_table(records)


def neuron_line(share: np.ndarray, recorded_steps: int) -> str:
    """Say how widely updates went over the neurons, from the shares [L, N] that could change."""
    n_layers, d_mlp = share.shape
    changed = np.count_nonzero(share) / share.size
    return (
        f"Of {share.size:,} neurons ({n_layers} layers of {d_mlp:,}) {changed:.2%} could change in "
        f"at least one of {recorded_steps:,} recorded steps; a neuron's weights could in "
        f"{share.mean():.2%} of them, on average."
    )


def part_table(records: list[MaskRecord]) -> Iterable[str]:
    """Yield a table of means over steps and layers, a row for each kind of matrix."""
    names = [
        name for name in COLUMNS if any(getattr(record, name) is not None for record in records)
    ]
    yield f"| matrices | {' | '.join(COLUMNS[name] for name in names)} |"
    yield f"|{' --- |' * (len(names) + 1)}"
    for part in dict.fromkeys(record.part for record in records):
        cells = [_mean(getattr(r, name) for r in records if r.part == part) for name in names]
        yield f"| {part} | {' | '.join(cells)} |"


def _mean(values: Iterable[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{fmean(known):.3f}" if known else ""
