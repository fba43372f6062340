"""Diagonal Fisher information (Xu et al. 2021), by which Child-Tuning-D draws its mask.

    F(w) = 1/|D| · Σ_{(x, y) in D} (∂ log p(y | x) / ∂w)²

D are the training samples, y a sample's completion; the gradient is that of a sample's
summed log-likelihood at the weights before training. The factor 1/|D| changes no rank.
"""

from collections.abc import Iterable, Sequence

import torch

from fnsft.architectures import MLPMatrix
from fnsft.data.tokens import Encoded
from fnsft.masks.gradients import accumulate_gradients
from fnsft.masks.shards import local_part


def summed_squares(
    model: torch.nn.Module, matrices: Sequence[MLPMatrix], samples: Iterable[Encoded]
) -> list[torch.Tensor]:
    """Return |D|·F, float32, of what this process holds of each matrix.

    One backward pass a sample. All processes take all samples, together. Memory: the
    gradients, and a float32 copy of the matrices.
    """
    was_training = model.training
    model.eval()
    sums = [
        torch.zeros_like(local_part(matrix, matrix.parameter.detach()), dtype=torch.float32)
        for matrix in matrices
    ]
    for sample in samples:
        accumulate_gradients(model, [sample])
        for matrix, total in zip(matrices, sums, strict=True):
            assert matrix.parameter.grad is not None
            gradient = local_part(matrix, matrix.parameter.grad).float()
            total.addcmul_(gradient, gradient)
    model.zero_grad()
    model.train(was_training)
    return sums
