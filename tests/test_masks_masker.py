"""Policies, and the masker that applies them to the gradients of a model's matrices."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch.nn import Parameter

from fnsft.errors import InputError
from fnsft.masks.affinity import Affinity, knn_affinity
from fnsft.masks.masker import GradientMasker
from fnsft.masks.optimizer import MaskedAdamW
from fnsft.masks.policies import Collab, Highest, MatrixStep, Policy, Random
from fnsft.masks.score import score
from fnsft.masks.selection import top_fraction

NEURONS, WIDTH = 24, 10


@dataclass
class Matrix:
    """Rows ``start`` to ``stop`` of a parameter, as a fused gate_up has two."""

    name: str
    layer: int
    index: int
    neuron_axis: int
    parameter: Parameter
    rows: slice
    role: str = "up"
    d_mlp: int = NEURONS

    @property
    def offset(self) -> int:
        return self.rows.start or 0

    def view(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor[self.rows]


def affinity(seed: int) -> Affinity:
    """Every neuron listens to two others."""
    rng = np.random.default_rng(seed)
    others = [
        rng.choice(np.delete(np.arange(NEURONS), i), 2, replace=False) for i in range(NEURONS)
    ]
    indptr = np.arange(0, 2 * NEURONS + 1, 2)
    weights = np.tile(np.float32([3, 1]), NEURONS)
    return knn_affinity(indptr, np.concatenate(others).astype(np.int32), weights, k=2, k_max=2)


def mlp_matrices(dtype: torch.dtype = torch.float32) -> list[Matrix]:
    """Two layers, each of a fused gate_up [2N, d] and a down [d, N], with gradients."""
    torch.manual_seed(0)
    matrices: list[Matrix] = []
    for layer in range(2):
        gate_up = Parameter(torch.randn(2 * NEURONS, WIDTH).to(dtype))
        down = Parameter(torch.randn(WIDTH, NEURONS).to(dtype))
        for parameter in (gate_up, down):
            parameter.grad = torch.randn_like(parameter)
        for name, axis, parameter, rows in (
            ("gate", 0, gate_up, slice(0, NEURONS)),
            ("up", 0, gate_up, slice(NEURONS, None)),
            ("down", 1, down, slice(None)),
        ):
            matrices.append(
                Matrix(f"layers.{layer}.{name}", layer, len(matrices), axis, parameter, rows)
            )
    return matrices


def policies(fraction: float = 0.3) -> list[Policy]:
    return [
        Random(fraction, seed=1),
        Highest(fraction, seed=1),
        Collab(fraction, seed=1, lam=0.5, affinities=[affinity(0), affinity(1)]),
    ]


@pytest.mark.parametrize("policy", policies(), ids=lambda policy: type(policy).__name__)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_policy_keeps_the_contract_of_a_binary_mask_with_an_exact_count(policy, dtype):
    for matrix in mlp_matrices(dtype):
        gradient = matrix.view(matrix.parameter.grad)
        for step in range(3):
            at = MatrixStep(matrix.layer, matrix.neuron_axis, matrix.index, step)
            mask = policy.select(gradient, at).mask
            assert (mask.dtype, mask.shape, mask.device) == (
                torch.bool,
                gradient.shape,
                gradient.device,
            )
            assert int(mask.sum()) == round(0.3 * gradient.numel())
            assert torch.equal(mask, policy.select(gradient, at).mask)


@pytest.mark.parametrize("policy", policies(), ids=lambda policy: type(policy).__name__)
def test_steps_matrices_and_seeds_break_ties_differently(policy):
    zeros = torch.zeros(NEURONS, WIDTH)
    places = [MatrixStep(0, 0, index, step) for index in range(3) for step in range(3)]
    masks = {policy.select(zeros, at).mask.numpy().tobytes() for at in places}
    assert len(masks) == 9
    other_run = type(policy)(**{**vars(policy), "seed": 2})
    assert other_run.select(zeros, places[0]).mask.numpy().tobytes() not in masks


def test_collab_ranks_the_score_with_the_affinity_of_the_matrix_s_layer_and_axis():
    _, _, policy = policies()
    for matrix in mlp_matrices():
        gradient = matrix.view(matrix.parameter.grad)
        at = MatrixStep(matrix.layer, matrix.neuron_axis, matrix.index, 5)
        scores = score(gradient, affinity(matrix.layer), 0.5, matrix.neuron_axis)
        assert torch.equal(policy.select(gradient, at).mask, top_fraction(scores, 0.3, seed=at.seed(1)))


def test_without_neighbours_collab_is_highest():
    _, highest, collab = policies()
    alone = Collab(0.3, seed=1, lam=0.0, affinities=collab.affinities)
    at = MatrixStep(1, 1, 2, 3)
    gradient = torch.randn(WIDTH, NEURONS).round(decimals=1)
    assert torch.equal(alone.select(gradient, at).mask, highest.select(gradient, at).mask)


@pytest.mark.parametrize("rescale", [None, 0.3])
@pytest.mark.parametrize("policy", policies(), ids=lambda policy: type(policy).__name__)
def test_gradients_are_multiplied_by_the_mask_of_the_unmasked_gradient(policy, rescale):
    matrices, untouched = mlp_matrices(), mlp_matrices()
    GradientMasker(matrices, policy, rescale).apply_to_gradients(step=7)
    for matrix, before in zip(matrices, untouched, strict=True):
        gradient = before.view(before.parameter.grad)
        mask = policy.select(gradient, MatrixStep(matrix.layer, matrix.neuron_axis, matrix.index, 7)).mask
        expected = gradient * mask / (rescale or 1)
        assert torch.equal(matrix.view(matrix.parameter.grad), expected)


def test_filled_masks_are_those_of_the_gradients_and_drive_the_optimizer():
    matrices, policy = mlp_matrices(), policies()[2]
    parameters = list({id(m.parameter): m.parameter for m in matrices}.values())
    other = Parameter(torch.zeros(3))
    other.grad = torch.ones(3)
    optimizer = MaskedAdamW([*parameters, other], lr=0.1)
    masker = GradientMasker(matrices, policy)
    masks = []
    for m in matrices:
        at = MatrixStep(m.layer, m.neuron_axis, m.index, 0)
        masks.append((m, policy.select(m.view(m.parameter.grad), at).mask))
    optimizer.masks = masker.masks_at(0)
    start = {m.name: m.view(m.parameter).detach().clone() for m in matrices}
    optimizer.step()
    for matrix, mask in masks:
        moved = matrix.view(matrix.parameter) != start[matrix.name]
        assert torch.equal(moved, mask)
    assert optimizer.masks.get(other) is None
    assert bool((other != 0).all())


def test_entries_outside_all_matrices_are_not_masked():
    parameter = Parameter(torch.randn(30, WIDTH))
    parameter.grad = torch.randn(30, WIDTH)
    matrix = Matrix("block", 0, 0, 0, parameter, slice(0, NEURONS))
    mask = GradientMasker([matrix], Highest(0.5, seed=0)).masks_at(0).get(parameter)
    assert int(mask[:NEURONS].sum()) == NEURONS * WIDTH // 2
    assert bool(mask[NEURONS:].all())


def test_a_missing_or_broken_gradient_is_named_and_nothing_has_changed():
    for damage, error, message in (
        (None, ValueError, r"layers\.1\.down: expected a gradient, found none"),
        (float("nan"), InputError, r"layers\.1\.down: .* found 1 of 240 entries NaN or infinite"),
        (float("-inf"), InputError, r"layers\.1\.down: .* lower the learning rate"),
    ):
        matrices = mlp_matrices()
        if damage is None:
            matrices[-1].parameter.grad = None
        else:
            matrices[-1].parameter.grad[3, 4] = damage
        before = matrices[0].parameter.grad.clone()
        with pytest.raises(error, match=message):
            GradientMasker(matrices, Highest(0.5, seed=0)).require_finite()
        assert torch.equal(matrices[0].parameter.grad, before)


def test_rescaling_an_update_is_refused():
    with pytest.raises(ValueError, match="rescale"):
        GradientMasker(mlp_matrices(), Random(0.5, seed=0), rescale=0.5).masks_at(0)
