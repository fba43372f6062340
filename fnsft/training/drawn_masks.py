"""Child-Tuning-D's masks: drawn once before the first step, and kept for runs that resume."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from fnsft.artifacts.tensors import Header, read_tensors, write_tensors
from fnsft.data.tokens import Encoded
from fnsft.masks.fisher import summed_squares
from fnsft.masks.policies import MatrixStep
from fnsft.masks.shards import MaskedMatrix, Shard, local, shard_of

KIND, SCHEMA = "drawn-masks", 1
FILE_NAME = "drawn_masks.safetensors"


def draw_masks(
    model: torch.nn.Module,
    matrices: Sequence[MaskedMatrix],
    samples: Sequence[Encoded],
    fraction: float,
    seed: int,
) -> list[torch.Tensor]:
    """Return, of what this process holds, the masks of the largest Fisher information."""
    shown = tqdm(samples, desc="Fisher information", unit="sample", disable=None)
    information = summed_squares(model, matrices, shown)
    masks: list[torch.Tensor] = []
    while information:
        matrix = matrices[len(masks)]
        at = MatrixStep(matrix.layer, matrix.neuron_axis, matrix.index, 0, shard_of(matrix))
        masks.append(at.top(information.pop(0), fraction, seed).mask)
    return masks


def write_masks(
    folder: Path, matrices: Sequence[MaskedMatrix], masks: Sequence[torch.Tensor], main: bool
) -> None:
    """Write whole masks, a bit an entry. All processes call it; the ``main`` one writes."""
    packed = {}
    for matrix, mask in zip(matrices, masks, strict=True):
        whole = shard_of(matrix).gathered(mask.reshape(-1).to(torch.uint8))
        if main:
            packed[str(matrix.index)] = np.packbits(whole.cpu().numpy())
    if main:
        write_tensors(folder / FILE_NAME, Header(KIND, SCHEMA, "run"), packed)


def read_masks(folder: Path, matrices: Sequence[MaskedMatrix]) -> list[torch.Tensor]:
    """Read, of what this process holds, the masks of an interrupted run."""
    _, packed = read_tensors(folder / FILE_NAME, KIND, SCHEMA)
    return [_unpacked(packed[str(m.index)], shard_of(m), m) for m in matrices]


def _unpacked(packed: np.ndarray, shard: Shard, matrix: MaskedMatrix) -> torch.Tensor:
    rows, columns = shard.shape
    whole = np.unpackbits(packed, count=rows * columns).reshape(rows, columns)
    here = torch.from_numpy(whole[shard.rows].astype(bool))
    return here.to(local(matrix.parameter).device)
