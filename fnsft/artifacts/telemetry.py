"""What the masks of a run did: ``masks.jsonl`` and ``neuron_updates.safetensors``.

Both lie in a fine-tuned model's folder; each reader takes the folder or the file.
L = layers, N = ``d_mlp`` neurons.
"""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from fnsft.artifacts.rows import numbered_rows, typed_row
from fnsft.artifacts.storage import write_jsonl
from fnsft.artifacts.tensors import Header, read_tensors, write_tensors
from fnsft.errors import InputError

MASKS_FILE_NAME = "masks.jsonl"
UPDATES_FILE_NAME = "neuron_updates.safetensors"
KIND, SCHEMA = "neuron-updates", 1


@dataclasses.dataclass(frozen=True)
class MaskRecord:
    """One matrix's mask at one optimizer step, from ``n`` sampled entries.

    ``part`` is gate, up or down; ``pass_rate`` the share of the entries that passed. No score
    of the whole matrix that passed is below ``threshold``, and none left is above.
    ``jaccard_last`` is the overlap with the mask of the step before, ``jaccard_highest`` with
    as many entries of the largest |g|: entries in both over entries in either.
    ``neighbour_share`` is the share of the passed entries' scores that came from neighbours.
    None where there is none: no score, no neighbours, no step before, no entry that passed.
    """

    step: int
    layer: int
    part: str
    pass_rate: float
    threshold: float | None
    jaccard_last: float | None
    jaccard_highest: float | None
    neighbour_share: float | None
    n: int


@dataclasses.dataclass(frozen=True, eq=False)
class NeuronUpdates:
    """How often each neuron could change.

    ``share`` is float32 [L, N] in [0, 1]: of a neuron's entries in the masked matrices, the
    mean share that the mask let pass in ``recorded_steps`` steps.
    """

    share: np.ndarray
    recorded_steps: int


def write_masks(folder: Path, records: Iterable[MaskRecord]) -> None:
    """Write the records of masks into a folder, one a line."""
    write_jsonl(folder / MASKS_FILE_NAME, [dataclasses.asdict(record) for record in records])


def read_masks(path: Path) -> list[MaskRecord]:
    """Read the records of masks; a line that holds none is named."""
    file = _file(path, MASKS_FILE_NAME)
    return [
        typed_row(MaskRecord, row, f"{file} line {number}") for number, row in numbered_rows(file)
    ]


def write_neuron_updates(
    folder: Path, share: np.ndarray, recorded_steps: int, model_identity: str
) -> None:
    """Write neuron updates, ``share`` [L, N], into a fine-tuned model's folder."""
    tensors = {"share": share.astype(np.float32), "recorded_steps": np.array([recorded_steps])}
    write_tensors(folder / UPDATES_FILE_NAME, Header(KIND, SCHEMA, model_identity), tensors)


def read_neuron_updates(path: Path) -> NeuronUpdates:
    """Read neuron updates."""
    file = _file(path, UPDATES_FILE_NAME)
    _, tensors = read_tensors(file, KIND, SCHEMA)
    try:
        return NeuronUpdates(tensors["share"], int(tensors["recorded_steps"][0]))
    except KeyError as error:
        raise InputError(f"{file}: damaged ({error} is missing); train anew") from None


def _file(path: Path, name: str) -> Path:
    return path / name if path.is_dir() else path
