"""Masks that are drawn once before the first step, and kept for runs that resume.

Child-Tuning-D's are drawn by all processes together, since gradients are sharded as the model is;
LIFT's by one, of the whole matrices, before that.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import PreTrainedModel, TrainingArguments

from fnsft.architectures import MLPMatrix, neuron_matrices
from fnsft.artifacts.tensors import Header, read_tensors, write_tensors
from fnsft.config.stages import TrainSettings
from fnsft.data.tokens import Encoded
from fnsft.masks.fisher import summed_squares
from fnsft.masks.low_rank import low_rank_magnitudes
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


def draw_low_rank(
    model: PreTrainedModel, folder: Path, settings: TrainSettings, arguments: TrainingArguments
) -> None:
    """Have the main process write LIFT's masks: the largest entries of rank ``lift_rank``.

    The published runs draw them anew every 400 steps (with one small model every 10), which is more
    than the papers' runs have here; once is ours.
    """
    assert settings.fraction is not None
    with arguments.main_process_first(local=False):
        if arguments.process_index == 0 and not (folder / FILE_NAME).exists():
            model.to(arguments.device)
            matrices, masks = neuron_matrices(model, settings.neurons), []
            for matrix in tqdm(matrices, desc="low rank", unit="matrix", disable=None):
                score = low_rank_magnitudes(matrix.view(matrix.parameter), settings.lift_rank)
                at = MatrixStep(matrix.layer, matrix.neuron_axis, matrix.index, 0)
                masks.append(PackedMask.of(at.top(score, settings.fraction, settings.seed).mask))
            write_masks(folder, matrices, masks, main=True)


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
