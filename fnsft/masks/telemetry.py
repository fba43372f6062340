"""What the masks of a run do, looked at on a fixed sample of their entries.

A sample of one entry in 1,024 needs neither a second selection nor a stored mask. Which entry
of 1,024 it is, a hash says, so that the sample is the same however a matrix is sharded. A
share (a pass rate, an overlap) of m sampled entries has a standard error of at most
0.5 / √m: 0.017 for the 864 of a matrix of 1536 × 576.

How often each neuron may change is not sampled but counted, in the recorded steps alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from fnsft.architectures import MLPMatrix
from fnsft.artifacts.telemetry import MaskRecord, read_masks, write_masks
from fnsft.artifacts.tensors import Header, read_tensors, write_tensors
from fnsft.masks.hashing import hash_of_indices, mixed_seed
from fnsft.masks.selection import Selection
from fnsft.masks.shards import Shard, local

BLOCK = 1024
SAMPLE_SEED = 0  # not the run's, so that runs are looked at in the same places
STATE_FILE_NAME = "telemetry.safetensors"
KIND, SCHEMA = "telemetry", 1


@dataclass(frozen=True)
class Sample:
    """Where the sampled entries lie in this process's rows of a matrix, int32 [n] each."""

    rows: torch.Tensor
    columns: torch.Tensor

    @classmethod
    def of(cls, shard: Shard, index: int, device: torch.device) -> "Sample":
        """Draw one entry of every BLOCK in row-major order, and take those that lie here.

        ``index`` is the matrix's. The last block may be shorter.
        """
        n_entries, width = math.prod(shard.shape), shard.shape[1]
        starts = torch.arange(0, n_entries, BLOCK)
        hashes = hash_of_indices(mixed_seed(SAMPLE_SEED, 0, index), starts // BLOCK)
        drawn = starts + hashes % (n_entries - starts).clamp(max=BLOCK)
        rows, columns = drawn // width, drawn % width
        here = (rows >= shard.rows.start) & (rows < shard.rows.stop)
        places = torch.stack((rows[here] - shard.rows.start, columns[here]))
        return cls(*places.to(device, torch.int32))


class Telemetry:
    """Records of the masks at steps 0, ``every``, 2 · ``every`` and so on.

    Between recorded steps it looks at nothing but the sampled mask of the step before one.
    All processes hold the same records; the counts of neurons are of what each of them holds.

    Parameters
    ----------
    matrices
        The masked ones; ``observe`` knows them by their index.
    shards
        Which rows of each lie in this process.
    every
        Optimizer steps from one record to the next, above 0.
    lam
        Weight λ of the neighbours in the score; None for methods without neighbours.

    Attributes
    ----------
    records
        One of each matrix at each recorded step.
    """

    def __init__(
        self,
        matrices: Sequence[MLPMatrix],
        shards: Sequence[Shard],
        every: int,
        lam: float | None,
    ) -> None:
        self.matrices, self.shards = list(matrices), list(shards)
        self.every, self.lam = every, lam
        self.records: list[MaskRecord] = []
        self._samples = [
            Sample.of(shard, matrix.index, local(matrix.parameter).device)
            for matrix, shard in zip(matrices, shards, strict=True)
        ]
        self._last: dict[int, tuple[int, np.ndarray]] = {}  # step and sampled mask by matrix
        n_layers = 1 + max(matrix.layer for matrix in matrices)
        self._kept = np.zeros((n_layers, matrices[0].d_mlp), np.int64)

    @property
    def recorded_steps(self) -> int:
        """Steps that were recorded."""
        return len(self.records) // len(self.matrices)

    @property
    def pass_rate(self) -> float:
        """Share of all entries that passed in the recorded steps; processes ask together."""
        kept = self._kept_everywhere()
        return float(kept.sum() / (self._offered().sum() * kept.shape[1]))

    def neuron_updates(self) -> np.ndarray:
        """Return the mean share of each neuron's entries that passed, float32 [L, N].

        Over the recorded steps and all masked matrices of a layer; processes ask together.
        """
        return (self._kept_everywhere() / self._offered()).astype(np.float32)

    def observe(self, index: int, step: int, gradient: torch.Tensor, selection: Selection) -> None:
        """Look at the mask of one matrix at one step.

        Called of every matrix at every step, in the same order by all processes, with the
        gradient before it is masked, [r, C], what this process holds of it.
        """
        recorded = step % self.every == 0
        if not recorded and (step + 1) % self.every:
            return
        seen = (selection.mask, gradient, selection.score) if recorded else (selection.mask,)
        passed, *values = self._sampled(index, [part for part in seen if part is not None])
        mask = passed != 0
        if recorded:
            self._count(index, selection.mask)
            self.records.append(self._record(index, step, mask, selection.threshold, *values))
        self._last[index] = (step, mask)

    def save(self, folder: Path) -> None:
        """Write the state into a checkpoint's folder; processes call together, one writes."""
        state = {"kept": self._kept_everywhere()}
        for index, (step, mask) in self._last.items():
            state[f"mask.{index}.{step}"] = mask
        if not dist.is_initialized() or dist.get_rank() == 0:
            write_masks(folder, self.records)
            write_tensors(folder / STATE_FILE_NAME, Header(KIND, SCHEMA, ""), state)

    def load(self, folder: Path) -> None:
        """Go on from the state in a checkpoint's folder, of as many processes as there were."""
        self.records = read_masks(folder)
        _, state = read_tensors(folder / STATE_FILE_NAME, KIND, SCHEMA)
        kept = state.pop("kept")
        # It is a sum over the processes, and will be summed again.
        self._kept = kept if self.shards[0].rank == 0 else np.zeros_like(kept)
        self._last = {}
        for name, mask in state.items():
            _, index, step = name.split(".")
            self._last[int(index)] = (int(step), mask)

    def _sampled(self, index: int, tensors: Sequence[torch.Tensor]) -> np.ndarray:
        """Return the sampled entries of each tensor in all processes, float32 [tensors, n]."""
        sample = self._samples[index]
        # By row and column: a flat view of a tensor that is not contiguous would be a copy.
        here = torch.stack([t[sample.rows, sample.columns].float() for t in tensors], dim=1)
        everywhere = self.shards[index].gathered(here.flatten())
        return everywhere.view(-1, len(tensors)).T.cpu().numpy()

    def _record(
        self,
        index: int,
        step: int,
        mask: np.ndarray,
        threshold: float | None,
        gradient: np.ndarray,
        score: np.ndarray | None = None,
    ) -> MaskRecord:
        matrix, magnitude = self.matrices[index], np.abs(gradient)
        last_step, last = self._last.get(index, (None, mask))
        share = None
        if score is not None and self.lam is not None:
            share = neighbour_share(magnitude[mask], score[mask], self.lam)
        return MaskRecord(
            step=step,
            layer=matrix.layer,
            part=matrix.role,
            pass_rate=float(mask.mean()),
            threshold=threshold,
            jaccard_last=jaccard(mask, last) if last_step == step - 1 else None,
            jaccard_highest=jaccard(mask, highest(magnitude, mask)),
            neighbour_share=share,
            n=mask.size,
        )

    def _count(self, index: int, mask: torch.Tensor) -> None:
        """Add the entries of each neuron that passed here."""
        matrix, along = self.matrices[index], 1 - self.matrices[index].neuron_axis
        if mask.device.type == "cpu":
            # Torch would make an integer copy of the mask first, ten times slower.
            kept = mask.numpy().view(np.uint8).sum(along, dtype=np.int32)
        else:
            kept = mask.sum(along, dtype=torch.int32).cpu().numpy()
        neurons = self.shards[index].rows if matrix.neuron_axis == 0 else slice(None)
        self._kept[matrix.layer, neurons] += kept

    def _kept_everywhere(self) -> np.ndarray:
        """Return the entries of each neuron that passed in the recorded steps, int64 [L, N]."""
        return self.shards[0].sum(self._kept, local(self.matrices[0].parameter).device)

    def _offered(self) -> np.ndarray:
        """Return a neuron's entries times recorded steps, of each layer, int64 [L, 1]."""
        entries = np.zeros((len(self._kept), 1), np.int64)
        for matrix, shard in zip(self.matrices, self.shards, strict=True):
            entries[matrix.layer] += shard.shape[1 - matrix.neuron_axis]
        return entries * max(1, self.recorded_steps)


def jaccard(one: np.ndarray, other: np.ndarray) -> float | None:
    """Return the entries in both masks over those in either; None where there are none."""
    either = int(np.count_nonzero(one | other))
    return int(np.count_nonzero(one & other)) / either if either else None


def highest(magnitude: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the mask of the largest magnitudes, as many as ``mask`` has, all [n].

    Of equal ones those in ``mask`` first: what a hash decides makes no difference.
    """
    order = np.lexsort((~mask, -magnitude))
    found = np.zeros_like(mask)
    found[order[: np.count_nonzero(mask)]] = True
    return found


def neighbour_share(magnitude: np.ndarray, score: np.ndarray, lam: float) -> float | None:
    """Return the share of the score (1 − λ)·|g| + λ·W|g| that is λ·W|g|; None of no score."""
    total = score.sum(dtype=np.float64)
    return float(1 - (1 - lam) * magnitude.sum(dtype=np.float64) / total) if total else None
