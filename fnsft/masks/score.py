"""The collaborative score of every entry of an MLP matrix (CollabMask, Eq. 2).

    S = (1 − λ)·|g| + λ·A,      A = W·|g| along the neuron axis

g is the gradient of one matrix, W the layer's affinity [N, N], N the neurons. Gate and up
projections are [N, d] in a Linear, the down projection is [d, N] there (A = |g|·Wᵀ), and
Conv1D transposes both: the neuron axis says which it is.

A panel of columns (entries of d) at a time is blended, so that no second copy of the matrix is
made. On the CPU a column has the same bits whichever other columns are scored beside it, as
:class:`~.affinity.MatrixAffinity` says: so a shard has the scores of the whole. So it is where
Triton's kernel scores a sparse W, with the same bits as on the CPU.
"""

from dataclasses import dataclass

import numpy as np
import torch

from fnsft.masks import kernels
from fnsft.masks.affinity import Affinity, MatrixAffinity
from fnsft.masks.shards import Shard

# 3.7 MB at N = 14,336 (wider ones leave the cache), and launches few enough for other devices.
CPU_PANEL_COLUMNS, PANEL_COLUMNS = 64, 256


@dataclass(frozen=True)
class Scored:
    """S, and how many scores have each exponent, int64 [256], where that was counted on the way.

    The counts are those of the columns that this process has scored: of a sharded matrix they
    are of other entries than ``score`` has, and add up to the whole's all the same.
    """

    score: torch.Tensor
    exponents: torch.Tensor | None = None


def score(
    gradient: torch.Tensor,
    affinity: Affinity,
    lam: float,
    neuron_axis: int,
    shard: Shard | None = None,
) -> torch.Tensor:
    """Return S, float32, of the gradient's shape ([N, d] for axis 0, [d, N] for axis 1).

    It is contiguous; the gradient may have any strides and floating dtype. Scratch besides S:
    two panels, 512 N bytes on the CPU. Rows of a sharded [N, d] (``shard``) are traded for
    whole columns and back: all processes call it together.
    """
    return scored(gradient, affinity, lam, neuron_axis, shard).score


def scored(
    gradient: torch.Tensor,
    affinity: Affinity,
    lam: float,
    neuron_axis: int,
    shard: Shard | None = None,
) -> Scored:
    """Return :func:`score` with what a selection of its largest entries would count first."""
    if neuron_axis == 0 and shard is not None and shard.group is not None:
        found = scored(shard.columns(gradient), affinity, lam, 0)
        return Scored(shard.from_columns(found.score), found.exponents)
    neurons = affinity.n_neurons
    if gradient.dim() != 2 or gradient.shape[neuron_axis] != neurons:
        raise ValueError(
            f"expected {neurons} neurons along axis {neuron_axis} of a matrix, found the shape "
            f"{tuple(gradient.shape)}; the graph belongs to another model or layer"
        )
    by_neuron = gradient.detach() if neuron_axis == 0 else gradient.detach().t()
    result = _new(gradient.shape, gradient.device)
    result_by_neuron = result if neuron_axis == 0 else result.t()
    by_triton = kernels.uses_triton(gradient.device)
    if by_triton and isinstance(affinity, MatrixAffinity) and affinity.is_sparse:
        from fnsft.masks import score_triton

        exponents = score_triton.score(by_neuron, affinity.weights, lam, result_by_neuron)
        return Scored(result, exponents)
    on_cpu = gradient.device.type == "cpu"
    width = CPU_PANEL_COLUMNS if on_cpu else PANEL_COLUMNS
    # The last panel keeps its width: a dense product of another shape rounds in another way.
    panel, blended = torch.zeros(2, neurons, width, device=gradient.device)
    for start in range(0, by_neuron.shape[1], width):
        columns = by_neuron[:, start : start + width]
        n_columns = columns.shape[1]
        panel[:, :n_columns].copy_(columns).abs_()
        affinity.blend(panel, lam, out=blended)
        result_by_neuron[:, start : start + width] = blended[:, :n_columns]
    return Scored(result)


def _new(shape: torch.Size, device: torch.device) -> torch.Tensor:
    if device.type != "cpu":
        return torch.empty(shape, device=device)
    # NumPy asks for huge pages: at 58.7M entries their faults take 20 ms, those of others 100 ms.
    return torch.from_numpy(np.empty(shape, dtype=np.float32))
