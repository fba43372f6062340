"""Child-Tuning-D's masks: drawn once before the first step, and kept for runs that resume."""

from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from fnsft.architectures import MLPMatrix
from fnsft.artifacts.tensors import Header, read_tensors, write_tensors
from fnsft.data.tokens import Encoded
from fnsft.masks.fisher import summed_squares
from fnsft.masks.policies import MatrixStep, PackedMask
from fnsft.masks.shards import local, shard_of

KIND, SCHEMA = "drawn-masks", 1
FILE_NAME = "drawn_masks.safetensors"


def draw_masks(
    model: torch.nn.Module,
    matrices: Sequence[MLPMatrix],
    samples: Sequence[Encoded],
    fraction: float,
    seed: int,
) -> list[PackedMask]:
    """Return, of what this process holds, the masks of the largest Fisher information."""
    shown = tqdm(samples, desc="Fisher information", unit="sample", disable=None)
    information = summed_squares(model, matrices, shown)
    masks: list[PackedMask] = []
    while information:
        matrix = matrices[len(masks)]
        at = MatrixStep(matrix.layer, matrix.neuron_axis, matrix.index, 0, shard_of(matrix))
        masks.append(PackedMask.of(at.top(information.pop(0), fraction, seed).mask))
    return masks


def write_masks(
    folder: Path, matrices: Sequence[MLPMatrix], masks: Sequence[PackedMask], main: bool
) -> None:
    """Write whole masks, a bit an entry. All processes call it; the ``main`` one writes."""
    packed = {}
    for matrix, mask in zip(matrices, masks, strict=True):
        whole = shard_of(matrix).gathered(mask.unpacked().view(-1).byte())
        if main:
            packed[str(matrix.index)] = PackedMask.of(whole).bits.cpu().numpy()
    if main:
        write_tensors(folder / FILE_NAME, Header(KIND, SCHEMA, "run"), packed)


def read_masks(folder: Path, matrices: Sequence[MLPMatrix]) -> list[PackedMask]:
    """Read, of what this process holds, the masks of an interrupted run."""
    _, packed = read_tensors(folder / FILE_NAME, KIND, SCHEMA)
    masks = []
    for matrix in matrices:
        shard, bits = shard_of(matrix), torch.from_numpy(packed[str(matrix.index)])
        whole = PackedMask(bits, torch.Size(shard.shape)).unpacked()
        masks.append(PackedMask.of(whole[shard.rows].to(local(matrix.parameter).device)))
    return masks
