"""What a trainer calls once per optimizer step, with the full accumulated gradient.

Matrices are visited one by one, so that scratch is that of the largest: one float32 copy of
it for a score, and one byte an entry for its mask. No other mask is held meanwhile.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import Parameter

from fnsft.architectures import MLPMatrix
from fnsft.errors import InputError
from fnsft.masks.policies import MatrixStep, Policy
from fnsft.masks.selection import Selection
from fnsft.masks.shards import Shard, local, local_part, shard_of
from fnsft.masks.telemetry import Telemetry

CHUNK_ENTRIES = 1 << 17


class GradientMasker:
    """Masks matrices by a policy; under FSDP2 each process masks the rows that it holds.

    Parameters
    ----------
    matrices
        With their parameters as they are trained, so after a model has been sharded.
    policy
        Decides the masks.
    rescale
        Share p by which the surviving gradient is divided (Child-Tuning-F), or None.
    telemetry
        Looks at gradients and masks of all but biases, and changes neither.
    """

    def __init__(
        self,
        matrices: Sequence[MLPMatrix],
        policy: Policy,
        rescale: float | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        self.matrices = list(matrices)
        self.shards = [shard_of(matrix) for matrix in matrices]
        self.policy = policy
        self.rescale = rescale
        self.telemetry = telemetry

    def require_finite(self) -> None:
        """Check every gradient before the first mask.

        Raises
        ------
        ValueError
            For a matrix without a gradient.
        InputError
            For a gradient that is not finite: the training has diverged.
        """
        gradients = [_gradient(matrix) for matrix in self.matrices]
        # One pass and no scratch; both ends are NaN when one entry is.
        ends = [torch.stack(torch.aminmax(g)) for g in gradients if g.numel()]
        finite = not ends or torch.stack([end.isfinite().all() for end in ends]).all()
        if self._over_processes(np.array([int(not finite)]))[0]:
            counts = [g.numel() - int(g.isfinite().sum()) for g in gradients]
            self._refuse(self._over_processes(np.array(counts)))

    def apply_to_gradients(self, step: int) -> None:
        """Multiply the gradients by their masks, in place, and divide them by ``rescale``."""
        for matrix, shard in zip(self.matrices, self.shards, strict=True):
            gradient = _gradient(matrix)
            _multiply(gradient, self._select(matrix, shard, gradient, step).mask)
            if self.rescale is not None:
                gradient.div_(self.rescale)

    def squared_norm_within(self, step: int) -> float:
        """Return the sum of the squares of the entries of the parameters' gradients that may pass.

        Those of no matrix all do. All processes call it, and have the sum over their shards.
        Telemetry does not see it.
        """
        norms = [
            torch.linalg.vector_norm(gradient * outside, dtype=torch.float32)
            for gradient, outside in self._outside()
        ]
        for matrix, shard in zip(self.matrices, self.shards, strict=True):
            gradient = _gradient(matrix)
            mask = self.policy.select(gradient, self._at(matrix, shard, step)).mask
            norms += [
                torch.linalg.vector_norm(part * kept, dtype=torch.float32)
                for part, kept in _by_rows(gradient, mask)
            ]
        squared = float(torch.stack(norms).square().sum())
        return float(self._over_processes(np.array([squared], np.float32))[0])

    def _outside(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield gradients that hold more than matrices, as of queries beside values, and where."""
        of_parameter = defaultdict(list)
        for matrix, shard in zip(self.matrices, self.shards, strict=True):
            of_parameter[matrix.parameter].append((matrix, math.prod(shard.shape)))
        for parameter, parts in of_parameter.items():
            gradient = parameter.grad
            if gradient is not None and sum(n for _, n in parts) < parameter.numel():
                outside = torch.ones_like(local(parameter), dtype=torch.bool)
                for matrix, _ in parts:
                    local_part(matrix, outside).zero_()
                yield local(gradient), outside

    def masks_at(
        self, step: int, state: Mapping[torch.Tensor, Mapping[str, torch.Tensor]] | None = None
    ) -> "StepMasks":
        """Return the masks of a step for :class:`~.optimizer.MaskedAdamW`, made when asked for.

        ``state`` is the optimizer's, for policies that look at its first moment.
        """
        if self.rescale is not None:
            raise ValueError("rescale: a mask on the update does not change gradients; use None")
        of_parameter = defaultdict(list)
        for matrix, shard in zip(self.matrices, self.shards, strict=True):
            of_parameter[matrix.parameter].append((matrix, shard))
        return StepMasks(self, step, of_parameter, state or {})

    def _select(
        self,
        matrix: MLPMatrix,
        shard: Shard,
        gradient: torch.Tensor,
        step: int,
        moment: torch.Tensor | None = None,
    ) -> Selection:
        selection = self.policy.select(gradient, self._at(matrix, shard, step, moment))
        if self.telemetry is not None and matrix.parameter.ndim > 1:
            self.telemetry.observe(matrix.index, step, gradient, selection)
        return selection

    def _at(
        self, matrix: MLPMatrix, shard: Shard, step: int, moment: torch.Tensor | None = None
    ) -> MatrixStep:
        weights = local_part(matrix, matrix.parameter.detach())
        place = (matrix.layer, matrix.neuron_axis, matrix.index)
        return MatrixStep(*place, step, shard, weights, moment)

    def _over_processes(self, counts: np.ndarray) -> np.ndarray:
        """Sum counts over the shards; all matrices are sharded over the same processes."""
        return self.shards[0].sum(counts, local(self.matrices[0].parameter).device)

    def _refuse(self, n_broken: np.ndarray) -> None:
        number = int(n_broken.argmax())
        rows, columns = self.shards[number].shape
        raise InputError(
            f"{self.matrices[number].name}: expected a finite gradient, found "
            f"{n_broken[number]} of {rows * columns} entries NaN or infinite; the training has "
            "diverged: lower the learning rate"
        )


@dataclass(frozen=True)
class StepMasks:
    """The masks of one step by parameter, like a dict; each is made anew when it is asked for."""

    masker: GradientMasker
    step: int
    of_parameter: dict[Parameter, list[tuple[MLPMatrix, Shard]]]
    state: Mapping[torch.Tensor, Mapping[str, torch.Tensor]]

    def get(self, parameter: Parameter) -> torch.Tensor | None:
        """Return the mask of what this process holds of a parameter, or None for one without.

        Entries of a parameter that belong to none of the matrices are not masked.
        """
        if parameter not in self.of_parameter:
            return None
        moment = self.state.get(parameter, {}).get("exp_avg")
        here, matrices = local(parameter), self.of_parameter[parameter]
        mask: torch.Tensor | None = None
        for matrix, shard in matrices:
            own = None if moment is None else local_part(matrix, moment)
            part = self.masker._select(matrix, shard, _gradient(matrix), self.step, own).mask
            if len(matrices) == 1 and part.shape == here.shape:
                return part
            if mask is None:
                mask = torch.ones_like(here, dtype=torch.bool)
            local_part(matrix, mask).copy_(part)
        return mask


def _multiply(gradient: torch.Tensor, mask: torch.Tensor) -> None:
    """Multiply a gradient [r, C] by a bool mask, in place."""
    for part, kept in _by_rows(gradient, mask):
        part.mul_(kept)


def _by_rows(
    gradient: torch.Tensor, mask: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield some rows at a time of a gradient [r, C] and its bool mask, as bytes to multiply by.

    On the CPU torch widens a mask to the gradient's dtype first, which takes eight times as long
    when the copy leaves the cache; elsewhere all rows come at once.
    """
    entries = CHUNK_ENTRIES if gradient.is_cpu else gradient.numel()
    rows = max(1, entries // max(1, gradient.shape[1]))
    for part, kept in zip(gradient.split(rows), mask.split(rows), strict=True):
        yield part, kept.view(torch.uint8)


def _gradient(matrix: MLPMatrix) -> torch.Tensor:
    """Return what this process holds of the matrix's gradient."""
    if matrix.parameter.grad is None:
        raise ValueError(
            f"{matrix.name}: expected a gradient, found none; is the parameter frozen, "
            "or were the masks asked for before the backward pass?"
        )
    return local_part(matrix, matrix.parameter.grad)
