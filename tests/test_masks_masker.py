"""Policies, and the masker that applies them to the gradients of a model's matrices."""

import dataclasses

import numpy as np
import pytest
import torch
from families import model_of
from matrices import (
    Matrix,
    fixed_masks,
    fractional_policies,
    mlp_matrices,
    two_neighbours,
    whole_policies,
    with_biases,
)
from torch.nn import Parameter

from fnsft.architectures import head_matrices
from fnsft.errors import InputError
from fnsft.masks.masker import GradientMasker
from fnsft.masks.optimizer import MaskedAdamW
from fnsft.masks.policies import (
    Columns,
    Highest,
    MatrixStep,
    Network,
    PackedMask,
    Random,
    draw_matrices,
)
from fnsft.masks.score import score
from fnsft.masks.selection import top_fraction
from fnsft.masks.shards import shard_of
from fnsft.masks.telemetry import Telemetry

NEURONS, WIDTH = 24, 10
FRACTIONAL = fractional_policies(NEURONS)
ALL = FRACTIONAL | whole_policies(NEURONS, WIDTH)
EACH_FRACTIONAL = pytest.mark.parametrize(("name", "policy"), FRACTIONAL.items(), ids=FRACTIONAL)
EACH = pytest.mark.parametrize(("name", "policy"), ALL.items(), ids=ALL)


def matrices_with_gradients(dtype: torch.dtype = torch.float32) -> list[Matrix]:
    return mlp_matrices(NEURONS, WIDTH, dtype)


def place(matrix: Matrix, step: int = 0) -> MatrixStep:
    weights = matrix.view(matrix.parameter.detach())
    return MatrixStep(matrix.layer, matrix.neuron_axis, matrix.index, step, weights=weights)


@EACH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_policy_keeps_the_contract_of_a_binary_mask_with_an_exact_count(name, policy, dtype):
    matrices = matrices_with_gradients(dtype)
    for step in range(3):
        counts = []
        for matrix in matrices:
            gradient = matrix.view(matrix.parameter.grad)
            mask = policy.select(gradient, place(matrix, step)).mask
            assert (mask.dtype, mask.shape, mask.device) == (
                torch.bool,
                gradient.shape,
                gradient.device,
            )
            assert torch.equal(mask, policy.select(gradient, place(matrix, step)).mask)
            counts.append(int(mask.sum()))
        n = NEURONS * WIDTH
        if name in FRACTIONAL:
            assert counts == [round(0.3 * n)] * 6
        elif name == "hft":
            assert sorted(counts) == [0] * 3 + [n] * 3
        elif name == "columns":
            sizes = [n // part.numel() for part in policy.trained]
            assert counts == [int(p.sum()) * s for p, s in zip(policy.trained, sizes, strict=True)]
        else:
            assert counts == [int(policy.trained[m.layer].sum()) * WIDTH for m in matrices]


@EACH_FRACTIONAL
def test_steps_matrices_and_seeds_break_ties_differently(name, policy):
    zeros = torch.zeros(NEURONS, WIDTH)
    places = [
        MatrixStep(0, 0, index, step, weights=zeros) for index in range(3) for step in range(3)
    ]
    masks = {policy.select(zeros, at).mask.numpy().tobytes() for at in places}
    assert len(masks) == 9
    other_run = dataclasses.replace(policy, seed=2)
    assert other_run.select(zeros, places[0]).mask.numpy().tobytes() not in masks


def test_collab_ranks_the_score_with_the_affinity_of_the_matrix_s_layer_and_axis():
    for matrix in matrices_with_gradients():
        gradient, at = matrix.view(matrix.parameter.grad), place(matrix, 5)
        scores = score(gradient, two_neighbours(matrix.layer, NEURONS), 0.5, matrix.neuron_axis)
        expected = top_fraction(scores, 0.3, seed=at.seed(1))
        assert torch.equal(ALL["collab"].select(gradient, at).mask, expected)


def test_without_neighbours_collab_is_highest():
    alone = dataclasses.replace(ALL["collab"], lam=0.0)
    at = MatrixStep(1, 1, 2, 3)
    gradient = torch.randn(WIDTH, NEURONS).round(decimals=1)
    expected = ALL["highest"].select(gradient, at).mask
    assert torch.equal(alone.select(gradient, at).mask, expected)


def test_a_selection_s_threshold_parts_the_scores_that_it_took_from_the_others():
    gradient, at = torch.randn(NEURONS, WIDTH), MatrixStep(0, 0, 0, 0)
    for name in ("highest", "collab"):
        found = ALL[name].select(gradient, at)
        left, taken = found.score[~found.mask].max(), found.score[found.mask].min()
        assert float(left) <= found.threshold <= float(taken)
    assert ALL["random"].select(gradient, at).score is None


@pytest.mark.parametrize("per_layer", [2, 3])
@pytest.mark.parametrize("fraction", [0.2, 0.5, 0.7])
def test_half_fine_tuning_draws_an_exact_number_evenly_over_the_layers(per_layer, fraction):
    layers = [layer for layer in range(10) for _ in range(per_layer)]
    draws = [draw_matrices(layers, fraction, seed) for seed in range(50)]
    for drawn in draws:
        assert len(drawn) == round(fraction * len(layers))
        a_layer = np.bincount([layers[index] for index in drawn], minlength=10)
        assert set(a_layer) <= {int(fraction * per_layer), int(fraction * per_layer) + 1}
    assert len(set(draws)) > 40
    times = np.bincount([index for drawn in draws for index in drawn], minlength=len(layers))
    spread = (50 * fraction * (1 - fraction)) ** 0.5
    assert abs(times - 50 * fraction).max() < 4.5 * spread  # no matrix is favoured


def test_half_fine_tuning_trains_two_matrices_of_half_the_layers_and_one_of_the_others():
    drawn = draw_matrices([layer for layer in range(8) for _ in range(3)], 0.5, seed=0)
    a_layer = np.bincount([index // 3 for index in drawn])
    assert sorted(a_layer) == [1] * 4 + [2] * 4


def test_a_network_s_mask_holds_all_weights_of_its_neurons_and_no_other():
    policy = ALL["network"]
    for matrix in matrices_with_gradients():
        mask = policy.select(matrix.view(matrix.parameter.grad), place(matrix)).mask
        trained = policy.trained[matrix.layer]
        for neuron in range(NEURONS):
            weights = mask[neuron] if matrix.role != "down" else mask[:, neuron]
            assert bool((weights == trained[neuron]).all())


def test_networks_join_at_their_step_and_stay():
    layers = [[torch.rand(NEURONS) < share for _ in range(2)] for share in (0.2, 0.5, 0.8)]
    policy = Network(layers[0], [4, 8], layers[1:])
    for matrix in matrices_with_gradients():
        gradient = matrix.view(matrix.parameter.grad)
        for step in range(12):
            mask = policy.select(gradient, place(matrix, step)).mask
            alone = Network(layers[step // 4]).select(gradient, place(matrix, step)).mask
            assert torch.equal(mask, alone)


@pytest.mark.parametrize("applies_to", ["gradient", "update"])
def test_a_network_s_mask_holds_the_biases_of_its_neurons_and_no_other(applies_to):
    matrices = with_biases(matrices_with_gradients())
    biases = [matrix for matrix in matrices if matrix.parameter.ndim == 1]
    assert len(biases) == 4 and {bias.offset for bias in biases} == {0, NEURONS}
    telemetry = Telemetry(matrices[:6], [shard_of(m) for m in matrices[:6]], 1, None)
    masker = GradientMasker(matrices, ALL["network"], telemetry=telemetry)
    masker.require_finite()
    start = {bias.name: bias.view(bias.parameter).detach().clone() for bias in biases}
    optimizer = MaskedAdamW({matrix.parameter: None for matrix in matrices}, lr=0.1)
    if applies_to == "gradient":
        masker.apply_to_gradients(0)
    else:
        optimizer.masks = masker.masks_at(0)
    optimizer.step()
    assert len(telemetry.records) == 6
    for bias in biases:
        trained = ALL["network"].trained[bias.layer][:, None]
        if applies_to == "gradient":
            assert torch.equal(bias.view(bias.parameter.grad) != 0, trained)
        else:
            assert torch.equal(bias.view(bias.parameter) != start[bias.name], trained)


@pytest.mark.parametrize("rescale", [None, 0.3])
@EACH
def test_gradients_are_multiplied_by_the_mask_of_the_unmasked_gradient(name, policy, rescale):
    matrices, untouched = matrices_with_gradients(), matrices_with_gradients()
    GradientMasker(matrices, policy, rescale).apply_to_gradients(step=7)
    for matrix, before in zip(matrices, untouched, strict=True):
        gradient = before.view(before.parameter.grad)
        mask = policy.select(gradient, place(matrix, 7)).mask
        expected = gradient * mask / (rescale or 1)
        assert torch.equal(matrix.view(matrix.parameter.grad), expected)


@EACH
def test_the_masks_of_an_update_decide_which_entries_move(name, policy):
    matrices = matrices_with_gradients()
    parameters = list({id(m.parameter): m.parameter for m in matrices}.values())
    other = Parameter(torch.zeros(3))
    other.grad = torch.ones(3)
    optimizer = MaskedAdamW([*parameters, other], lr=0.1)
    masks = {m.name: policy.select(m.view(m.parameter.grad), place(m)).mask for m in matrices}
    optimizer.masks = GradientMasker(matrices, policy).masks_at(0)
    start = {m.name: m.view(m.parameter).detach().clone() for m in matrices}
    optimizer.step()
    for matrix in matrices:
        moved = matrix.view(matrix.parameter) != start[matrix.name]
        assert torch.equal(moved, masks[matrix.name])
    assert optimizer.masks.get(other) is None
    assert bool((other != 0).all())


def test_fixed_masks_are_those_of_their_matrices_at_every_step():
    matrices = matrices_with_gradients()
    policy = fixed_masks(matrices)
    for matrix in matrices:
        gradient = matrix.view(matrix.parameter.grad)
        expected = top_fraction(gradient.square(), 0.3)
        for step in (0, 5):
            mask = policy.select(torch.zeros_like(gradient), place(matrix, step)).mask
            assert torch.equal(mask, expected)


@pytest.mark.parametrize("shape", [(0, 5), (1, 1), (3, 8), (7, 9)])
def test_a_packed_mask_takes_an_eighth_of_the_memory_and_is_the_same_unpacked(shape):
    mask = torch.rand(shape) < 0.4
    packed = PackedMask.of(mask)
    assert torch.equal(packed.unpacked(), mask)
    assert (packed.bits.numpy() == np.packbits(mask.numpy())).all()


def test_entries_outside_all_matrices_are_not_masked():
    parameter = Parameter(torch.randn(30, WIDTH))
    parameter.grad = torch.randn(30, WIDTH)
    matrix = Matrix("block", "gate", 0, 0, 0, NEURONS, 0, parameter)
    mask = GradientMasker([matrix], Highest(0.5, seed=0)).masks_at(0).get(parameter)
    assert int(mask[:NEURONS].sum()) == NEURONS * WIDTH // 2
    assert bool(mask[NEURONS:].all())


def test_a_missing_or_broken_gradient_is_named_and_nothing_has_changed():
    for damage, error, message in (
        (None, ValueError, r"layers\.1\.down: expected a gradient, found none"),
        (float("nan"), InputError, r"layers\.1\.down: .* found 1 of 240 entries NaN or infinite"),
        (float("-inf"), InputError, r"layers\.1\.down: .* lower the learning rate"),
    ):
        matrices = matrices_with_gradients()
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
        GradientMasker(matrices_with_gradients(), Random(0.5, seed=0), rescale=0.5).masks_at(0)


@EACH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_norm_inside_of_the_masks_is_that_of_the_masked_gradients(name, policy, dtype):
    masker = GradientMasker(matrices_with_gradients(dtype), policy)
    found = masker.squared_norm_within(5)
    before = [matrix.parameter.grad.clone() for matrix in masker.matrices]
    masker.apply_to_gradients(5)
    holders = dict.fromkeys(matrix.parameter for matrix in masker.matrices)
    expected = sum(p.grad.double().square().sum().item() for p in holders)
    assert found == pytest.approx(expected, rel=1e-5 if dtype == torch.float32 else 0.02)
    whole = sum(g.double().square().sum().item() for g in before)
    assert found < 0.95 * whole


def test_the_norm_counts_queries_and_keys_that_share_a_parameter_with_masked_values():
    model = model_of("GPT2")
    matrices = head_matrices(model)
    shared = {matrix.parameter for matrix in matrices if matrix.role == "value"}
    for matrix in matrices:
        matrix.parameter.grad = torch.randn_like(matrix.parameter)
    columns = [torch.arange(matrix.n_inputs) % 2 == 0 for matrix in matrices]
    policy = Columns(columns, [matrix.input_axis for matrix in matrices])
    masker = GradientMasker(matrices, policy)
    found = masker.squared_norm_within(0)
    masker.apply_to_gradients(0)
    expected = sum(p.grad.square().sum().item() for p in {m.parameter for m in matrices})
    assert found == pytest.approx(expected, rel=1e-5)
    assert sum(p.grad.square().sum().item() for p in shared) > 0.5 * expected  # most of it theirs
