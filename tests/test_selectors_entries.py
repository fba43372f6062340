"""Selectors of single entries: every mask against its formula, written out slowly."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from matrices import Matrix, mlp_matrices
from runs import train, weights
from torch.nn import Parameter

from fnsft.config.stages import TrainSettings
from fnsft.errors import InputError
from fnsft.masks.low_rank import low_rank_magnitudes
from fnsft.masks.masker import GradientMasker
from fnsft.masks.optimizer import MaskedAdamW
from fnsft.masks.policies import Highest, MatrixStep, Momentum, Policy, SmallWeights

NEURONS, WIDTH, FRACTION = 24, 10, 0.3


def holders_of(matrices: list[Matrix]) -> list[Parameter]:
    """The parameters, each once: a fused one holds two matrices."""
    return list(dict.fromkeys(matrix.parameter for matrix in matrices))


def gradients_of(step: int, parameters: list[Parameter]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    # Of changing sign and size, so that a moment and a gradient rank entries differently.
    return [torch.randn(p.shape, generator=generator) * (1 + step % 3) for p in parameters]


def steps_of(policy: Policy, n_steps: int, **options: object) -> tuple[list, list, MaskedAdamW]:
    """Take masked steps; return the weights before and after each of them, by matrix."""
    matrices = mlp_matrices(NEURONS, WIDTH)
    parameters = holders_of(matrices)
    optimizer = MaskedAdamW(parameters, lr=0.1, betas=(0.8, 0.95), weight_decay=0.1, **options)
    masker = GradientMasker(matrices, policy)
    states = [[m.view(m.parameter).detach().clone() for m in matrices]]
    for step in range(n_steps):
        for parameter, gradient in zip(parameters, gradients_of(step, parameters), strict=True):
            parameter.grad = gradient
        optimizer.masks = masker.masks_at(step, optimizer.state)
        optimizer.step()
        states.append([m.view(m.parameter).detach().clone() for m in matrices])
    return matrices, states, optimizer


def largest(scores: torch.Tensor) -> torch.Tensor:
    """The round(p·n) largest of scores without ties, one after the other."""
    order = sorted(range(scores.numel()), key=lambda i: -float(scores.flatten()[i]))
    mask = torch.zeros(scores.numel(), dtype=torch.bool)
    mask[order[: round(FRACTION * scores.numel())]] = True
    return mask.view(scores.shape)


def test_mofo_moves_the_entries_of_largest_momentum_and_no_other():
    matrices, states, optimizer = steps_of(Momentum(FRACTION, seed=0, beta1=0.8), 6)
    parameters = holders_of(matrices)
    moments = [torch.zeros_like(parameter, dtype=torch.float64) for parameter in parameters]
    differ = 0
    for step in range(6):
        of_step = gradients_of(step, parameters)
        moments = [0.8 * m + 0.2 * g.double() for m, g in zip(moments, of_step, strict=True)]
        by_holder = dict(zip(parameters, zip(moments, of_step, strict=True), strict=True))
        for number, matrix in enumerate(matrices):
            moment, gradient = (matrix.view(tensor) for tensor in by_holder[matrix.parameter])
            moved = states[step][number] != states[step + 1][number]
            assert torch.equal(moved, largest(moment.abs())), (step, matrix.name)
            differ += int((moved != largest(gradient.abs())).sum())
    assert differ > 100, "the momentum ranks as the gradient does: the test shows nothing"
    for parameter, moment in zip(parameters, moments, strict=True):
        torch.testing.assert_close(optimizer.state[parameter]["exp_avg"].double(), moment)


def test_mofo_without_momentum_is_highest_on_the_update():
    _, mofo, _ = steps_of(Momentum(FRACTION, seed=0, beta1=0.0), 3)
    _, highest, _ = steps_of(Highest(FRACTION, seed=0), 3)
    for one, other in zip(mofo, highest, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_small_weights_moves_the_entries_of_smallest_weight_before_the_step():
    _, states, _ = steps_of(SmallWeights(FRACTION, seed=0), 4)
    for before, after in pairwise(states):
        for old, new in zip(before, after, strict=True):
            assert torch.equal(old != new, largest(-old.abs()))
    first, last = (largest(-state[0].abs()) for state in (states[0], states[3]))
    assert not torch.equal(first, last), "the mask follows the weights"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_smallest_weights_are_told_apart_to_the_last_bit(dtype):
    """A difference to the largest would round all of these to one score."""
    sizes = torch.tensor([[7, 3, 11, 2], [5, 12, 1, 9], [4, 10, 8, 6]]) * 1e-30
    weights = (sizes * torch.tensor([1, -1, 1, -1])).to(dtype)
    weights[1, 1], weights[1, 2] = 1e30, 0.0
    at = MatrixStep(0, 0, 0, 0, weights=weights)
    found = SmallWeights(0.25, seed=0).select(torch.zeros_like(weights), at).mask
    assert found.nonzero().tolist() == [[0, 1], [0, 3], [1, 2]]


@pytest.mark.parametrize("shape", [(20, 33), (33, 20)])
@pytest.mark.parametrize("rank", [1, 5, 19, 20, 400])
def test_low_rank_magnitudes_are_those_of_the_truncated_svd(shape, rank):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, s, v = np.linalg.svd(weight.double().numpy(), full_matrices=False)
    expected = abs((u[:, :rank] * s[:rank]) @ v[:rank])
    np.testing.assert_allclose(low_rank_magnitudes(weight, rank), expected, atol=2e-5)


def test_lift_moves_the_largest_entries_of_the_low_rank_part_in_all_steps(
    tiny_model_dir, data, tmp_path
):
    settings = {"method": "lift", "fraction": FRACTION, "lift_rank": 3, "epochs": 3}
    assert train(tiny_model_dir, data, tmp_path / "run", weight_decay=0.1, **settings) == 0
    before, after = weights(tiny_model_dir), weights(tmp_path / "run")
    names = [name for name in before if ".mlp." in name and before[name].ndim == 2]
    assert len(names) == 6
    for name in names:
        moved = before[name] != after[name]
        assert int(moved.sum()) == round(FRACTION * moved.numel())
        u, s, v = np.linalg.svd(before[name].double().numpy(), full_matrices=False)
        part = torch.from_numpy(abs((u[:, :3] * s[:3]) @ v[:3]))
        # Rounding may swap entries at the threshold.
        assert int((moved ^ largest(part)).sum()) <= 2
        assert int((moved ^ largest(before[name].abs())).sum()) > 20, "no plain magnitude"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "mofo", "applies_to": "gradient"}, "applies_to: method 'mofo' leaves"),
        ({"method": "small-weights", "applies_to": "gradient"}, "'small-weights' leaves entries"),
        ({"method": "mofo", "moments": "masked"}, "moments: mofo ranks .* found 'masked'"),
    ],
)
def test_a_selector_refuses_what_it_cannot_be(given, message):
    with pytest.raises(InputError, match=message):
        TrainSettings(**given)


def test_mofo_s_mask_is_of_the_update():
    assert TrainSettings(method="mofo").applies_to == "update"
