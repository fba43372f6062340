"""What a trainer calls once per optimizer step, with the full accumulated gradient.

Matrices are visited one by one, so that scratch is that of the largest matrix: a policy's
(about two float32 copies for the collaborative score) and one byte an entry for the mask.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch.nn import Parameter

from fnsft.errors import InputError
from fnsft.masks.policies import MatrixStep, Policy


class MaskedMatrix(Protocol):
    """One MLP matrix [N, d] or [d, N]; a fused gate_up parameter holds two of them."""

    @property
    def name(self) -> str:
        """Name of the matrix, for messages."""

    @property
    def layer(self) -> int:
        """Its decoder block, from 0."""

    @property
    def index(self) -> int:
        """Its number among the run's masked matrices."""

    @property
    def neuron_axis(self) -> int:
        """The axis along which its neurons lie, 0 or 1."""

    @property
    def parameter(self) -> Parameter:
        """The parameter that holds it."""

    def view(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return this matrix's part, a view, of a tensor of the parameter's shape."""


class GradientMasker:
    """Masks the gradients of matrices by a policy and counts what passes.

    ``rescale`` is the share p by which the surviving gradient is divided (Child-Tuning-F),
    or None.
    """

    def __init__(
        self, matrices: Sequence[MaskedMatrix], policy: Policy, rescale: float | None = None
    ) -> None:
        self.matrices = list(matrices)
        self.policy = policy
        self.rescale = rescale
        self._kept_entries = 0
        self._all_entries = 0

    @property
    def pass_rate(self) -> float:
        """Kept entries over all entries, of the steps so far; NaN before the first."""
        return self._kept_entries / self._all_entries if self._all_entries else float("nan")

    def masks(self, step: int) -> Iterator[tuple[MaskedMatrix, torch.Tensor]]:
        """Yield each matrix and its mask at optimizer step ``step``.

        All gradients are checked before the first mask; each is read when its turn comes.

        Raises
        ------
        ValueError
            For a matrix without a gradient.
        InputError
            For a gradient that is not finite: the training has diverged.
        """
        gradients = [_finite_gradient(matrix) for matrix in self.matrices]
        for matrix, gradient in zip(self.matrices, gradients, strict=True):
            at = MatrixStep(matrix.layer, matrix.neuron_axis, matrix.index, step)
            mask = self.policy.mask(gradient, at)
            self._kept_entries += int(mask.count_nonzero())
            self._all_entries += mask.numel()
            yield matrix, mask

    def apply_to_gradients(self, step: int) -> None:
        """Multiply the gradients by their masks, in place, and divide them by ``rescale``."""
        for matrix, mask in self.masks(step):
            assert matrix.parameter.grad is not None  # masks() has refused that
            gradient = matrix.view(matrix.parameter.grad).mul_(mask)
            if self.rescale is not None:
                gradient.div_(self.rescale)

    def fill(self, step: int, masks: dict[Parameter, torch.Tensor]) -> None:
        """Write the masks into ``masks``, that of a :class:`~.optimizer.MaskedAdamW`.

        Tensors that ``masks`` holds already are written over; entries of a parameter that
        belong to none of the matrices are not masked.
        """
        if self.rescale is not None:
            raise ValueError("rescale: a mask on the update does not change gradients; use None")
        for matrix, mask in self.masks(step):
            parameter = matrix.parameter
            if parameter not in masks:
                masks[parameter] = torch.ones_like(parameter, dtype=torch.bool)
            matrix.view(masks[parameter]).copy_(mask)


def _finite_gradient(matrix: MaskedMatrix) -> torch.Tensor:
    """Return the matrix's part of its parameter's gradient, when it is there and finite."""
    if matrix.parameter.grad is None:
        raise ValueError(
            f"{matrix.name}: expected a gradient, found none; is the parameter frozen, "
            "or were the masks asked for before the backward pass?"
        )
    gradient = matrix.view(matrix.parameter.grad)
    # One pass and no scratch; both ends are NaN when one entry is.
    ends = torch.stack(torch.aminmax(gradient))
    if not ends.isfinite().all():
        broken = gradient.numel() - int(gradient.isfinite().sum())
        raise InputError(
            f"{matrix.name}: expected a finite gradient, found {broken} of {gradient.numel()} "
            "entries NaN or infinite; the training has diverged: lower the learning rate"
        )
    return gradient
