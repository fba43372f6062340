"""The collaborative score of every entry of an MLP matrix (DESIGN §4.5, CollabMask Eq. 2).

    S = (1 − λ)·|g| + λ·A,      A = W·|g| along the neuron axis

g is the gradient of one matrix, W the layer's affinity [N, N], N the neurons. Gate and up
projections are [N, d] in a Linear, the down projection is [d, N] there (A = |g|·Wᵀ), and
Conv1D transposes both: the neuron axis says which it is.
"""

import torch

from fnsft.masks.affinity import Affinity
from fnsft.masks.shards import Shard


def score(
    gradient: torch.Tensor,
    affinity: Affinity,
    lam: float,
    neuron_axis: int,
    shard: Shard | None = None,
) -> torch.Tensor:
    """Return S, float32, of the gradient's shape ([N, d] for axis 0, [d, N] for axis 1).

    The gradient may have any strides and floating dtype. Scratch: two float32 copies of it,
    one of which is returned (transposed in memory for axis 1). Rows of a sharded [N, d]
    (``shard``) are traded for whole columns and back: all processes call it together.
    """
    if neuron_axis == 0 and shard is not None and shard.group is not None:
        return shard.from_columns(score(shard.columns(gradient), affinity, lam, 0))
    neurons = affinity.n_neurons
    if gradient.dim() != 2 or gradient.shape[neuron_axis] != neurons:
        raise ValueError(
            f"expected {neurons} neurons along axis {neuron_axis} of a matrix, found the shape "
            f"{tuple(gradient.shape)}; the graph belongs to another model or layer"
        )
    # A sparse product has no bfloat16 on the CPU.
    magnitude = gradient.detach().float().abs()
    by_neuron = magnitude if neuron_axis == 0 else magnitude.t()
    blended = affinity.blend(by_neuron, lam)
    return blended if neuron_axis == 0 else blended.t()
