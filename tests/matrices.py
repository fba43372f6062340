"""Matrices with seeded gradients and every policy, for tests of masks."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn import Parameter

from fnsft.masks.affinity import Affinity, cluster_affinity, dense_affinity, knn_affinity
from fnsft.masks.diffusion import DiffusionAffinity
from fnsft.masks.policies import (
    Collab,
    Columns,
    Fixed,
    HalfFineTuning,
    Highest,
    Momentum,
    Network,
    PackedMask,
    Policy,
    Random,
    SmallWeights,
    draw_matrices,
)
from fnsft.masks.selection import top_fraction


@dataclass
class Matrix:
    """``d_mlp`` neurons from ``offset`` on of a parameter, as a fused gate_up has two.

    A bias is a matrix of one column; a parameter of experts has a matrix of each.
    """

    name: str
    role: str
    layer: int
    index: int
    neuron_axis: int
    d_mlp: int
    offset: int
    parameter: Parameter
    expert: int | None = None

    def view(self, tensor: torch.Tensor) -> torch.Tensor:
        whole = tensor if self.expert is None else tensor[self.expert]
        whole = whole[:, None] if whole.ndim == 1 else whole
        return whole.narrow(self.neuron_axis, self.offset, self.d_mlp)


def mlp_matrices(
    neurons: int, width: int, dtype: torch.dtype = torch.float32, ties: bool = False
) -> list[Matrix]:
    """Two layers, each of a fused gate_up [2N, d] and a down [d, N], with gradients.

    With ``ties`` a third of the entries are zero and the others have few values.
    """
    generator = torch.Generator().manual_seed(0)

    def parameter(*shape: int) -> Parameter:
        made = Parameter(torch.randn(shape, generator=generator).to(dtype))
        gradient = torch.randn(shape, generator=generator)
        if ties:
            gradient = (2 * gradient).round() / 2
        made.grad = gradient.to(dtype)
        return made

    matrices: list[Matrix] = []
    for layer in range(2):
        gate_up, down = parameter(2 * neurons, width), parameter(width, neurons)
        for role, axis, holder, offset in (
            ("gate", 0, gate_up, 0),
            ("up", 0, gate_up, neurons),
            ("down", 1, down, 0),
        ):
            name, index = f"layers.{layer}.{role}", len(matrices)
            matrices.append(Matrix(name, role, layer, index, axis, neurons, offset, holder))
    return matrices


def of_experts(matrices: list[Matrix]) -> list[Matrix]:
    """The same matrices, but of two experts in one layer: in parameters [2, rows, columns]."""
    stacked: dict[str, Parameter] = {}
    for role in ("gate", "down"):
        holders = [matrix.parameter for matrix in matrices if matrix.role == role]
        stacked[role] = Parameter(torch.stack([holder.detach() for holder in holders]))
        stacked[role].grad = torch.stack([holder.grad for holder in holders])
    stacked["up"] = stacked["gate"]
    return [replace(m, parameter=stacked[m.role], expert=m.layer) for m in matrices]


def with_biases(matrices: list[Matrix]) -> list[Matrix]:
    """The matrices, and behind them the biases of gate and up, with gradients."""
    found = list(matrices)
    of_layer: dict[int, Parameter] = {}
    for matrix in matrices:
        if matrix.role == "down":
            continue
        if matrix.layer not in of_layer:
            bias = of_layer[matrix.layer] = Parameter(matrix.parameter.detach()[:, 0].clone())
            bias.grad = matrix.parameter.grad[:, 0].clone()
        name, holder = f"{matrix.name}.bias", of_layer[matrix.layer]
        found.append(replace(matrix, name=name, index=len(found), parameter=holder))
    return found


def two_neighbours(seed: int, neurons: int) -> Affinity:
    """Every neuron listens to two others."""
    rng = np.random.default_rng(seed)
    others = [
        rng.choice(np.delete(np.arange(neurons), i), 2, replace=False) for i in range(neurons)
    ]
    indptr = np.arange(0, 2 * neurons + 1, 2)
    weights = np.tile(np.float32([3, 1]), neurons)
    return knn_affinity(indptr, np.concatenate(others).astype(np.int32), weights, k=2, k_max=2)


def a_walk(seed: int, neurons: int) -> Affinity:
    return DiffusionAffinity(two_neighbours(seed, neurons), damping=0.85, steps=3)


def three_clusters(seed: int, neurons: int) -> Affinity:
    return cluster_affinity(np.random.default_rng(seed).integers(-1, 3, neurons))


def every_other(seed: int, neurons: int) -> Affinity:
    weights = np.random.default_rng(seed).random((neurons, neurons), dtype=np.float32)
    np.fill_diagonal(weights, 0)
    return dense_affinity(weights)


def fractional_policies(neurons: int, fraction: float = 0.3) -> dict[str, Policy]:
    """Policies that keep round(p·n) entries of every matrix."""

    def collab(affinity_of: Callable[[int, int], Affinity]) -> Collab:
        affinities = [affinity_of(layer, neurons) for layer in range(2)]
        return Collab(fraction, seed=1, lam=0.5, affinities=affinities)

    return {
        "random": Random(fraction, seed=1),
        "highest": Highest(fraction, seed=1),
        "mofo": Momentum(fraction, seed=1, beta1=0.9),
        "small-weights": SmallWeights(fraction, seed=1),
        "collab": collab(two_neighbours),
        "collab-diffusion": collab(a_walk),
        "collab-cluster": collab(three_clusters),
        "collab-dense": collab(every_other),
    }


def fixed_masks(matrices: list[Matrix], fraction: float = 0.3) -> Fixed:
    """Masks of whole matrices that are drawn once."""
    masks = [top_fraction(m.view(m.parameter.grad).square(), fraction) for m in matrices]
    return Fixed([PackedMask.of(mask) for mask in masks])


def whole_policies(neurons: int, width: int) -> dict[str, Policy]:
    """Policies that decide over matrices, neurons or columns as a whole.

    Of the columns those of the second layer lie as in matrices that are [in, out].
    """
    rng = np.random.default_rng(3)
    trained = [torch.from_numpy(rng.random(neurons) < 0.4) for _ in range(2)]
    inputs = (width, width, neurons, neurons, neurons, width)
    columns = [torch.from_numpy(rng.random(n) < 0.4) for n in inputs]
    return {
        "columns": Columns(columns, axes=(1, 1, 1, 0, 0, 0)),
        "hft": HalfFineTuning(draw_matrices([0, 0, 0, 1, 1, 1], 0.5, seed=1)),
        "network": Network(trained),
    }
