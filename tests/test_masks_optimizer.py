"""MaskedAdamW against torch's AdamW and against Adam written out entry by entry."""

import copy
import math

import pytest
import torch
from torch.nn import Parameter

from fnsft.masks.optimizer import MaskedAdamW

SHAPE = (13, 11)
OPTIONS = {"lr": 1e-2, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().view({4: torch.int32, 2: torch.int16}[tensor.element_size()])


def made(cls: type, dtype: torch.dtype = torch.float32, n: int = 1, **options: object):
    """Return ``n`` seeded parameters and their optimizer, in small chunks."""
    generator = torch.Generator().manual_seed(0)
    parameters = [Parameter(torch.randn(SHAPE, generator=generator).to(dtype)) for _ in range(n)]
    optimizer = cls(parameters, **(OPTIONS | options))
    if cls is MaskedAdamW:
        optimizer.chunk_entries = 64
    return parameters, optimizer


def gradient(step: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(100 + step)
    return torch.randn(SHAPE, generator=generator).to(dtype)


def mask(step: int) -> torch.Tensor:
    return torch.rand(SHAPE, generator=torch.Generator().manual_seed(200 + step)) < 0.4


def by_entry(moments: str, steps: int) -> list[list[float]]:
    """Adam with decoupled decay in float64, one entry at a time: weight, m, v."""
    (weights,), _ = made(MaskedAdamW)
    lr, (b1, b2), eps, decay = (OPTIONS[k] for k in ("lr", "betas", "eps", "weight_decay"))
    results = []
    for entry in range(weights.numel()):
        w, m, v = float(weights.detach().flatten()[entry]), 0.0, 0.0
        for t in range(1, steps + 1):
            g, kept = float(gradient(t).flatten()[entry]), bool(mask(t).flatten()[entry])
            if moments == "masked" and not kept:
                g = 0.0
            if moments != "frozen" or kept:
                m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
            if kept:
                m_hat, v_hat = m / (1 - b1**t), v / (1 - b2**t)
                w = w * (1 - lr * decay) - lr * m_hat / (math.sqrt(v_hat) + eps)
        results.append([w, m, v])
    return results


@pytest.mark.parametrize("moments", ["full", "masked", "frozen"])
def test_every_moments_mode_follows_adam_written_out_entry_by_entry(moments):
    (weights,), optimizer = made(MaskedAdamW, moments=moments)
    for step in range(1, 7):
        weights.grad = gradient(step)
        optimizer.masks = {weights: mask(step)}
        optimizer.step()
    state = optimizer.state[weights]
    found = torch.stack([weights.detach(), state["exp_avg"], state["exp_avg_sq"]], -1)
    expected = torch.tensor(by_entry(moments, 6), dtype=torch.float64).view(*SHAPE, 3)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("moments", ["full", "masked", "frozen"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_entries_outside_the_mask_are_bit_identical_after_20_steps(moments, dtype):
    (weights,), optimizer = made(MaskedAdamW, dtype, moments=moments)
    weights.grad = gradient(0, dtype)
    optimizer.step()  # momentum everywhere, before anything is held back
    start, held = weights.detach().clone(), ~mask(0)
    optimizer.masks = {weights: mask(0)}
    for step in range(1, 21):
        weights.grad = gradient(step, dtype)
        optimizer.step()
    assert torch.equal(bits(weights)[held], bits(start)[held])
    assert (weights != start)[~held].float().mean() > 0.9


@pytest.mark.parametrize("moments", ["full", "masked", "frozen"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_mask_of_ones_and_no_mask_are_bitwise_fused_adamw(moments, dtype):
    theirs, reference = made(torch.optim.AdamW, dtype, n=3, fused=True)
    ours, optimizer = made(MaskedAdamW, dtype, n=3, moments=moments)
    optimizer.masks = {ours[0]: torch.ones(SHAPE, dtype=torch.bool)}
    for step in range(10):
        for i in range(2):  # the third never has a gradient
            theirs[i].grad, ours[i].grad = (gradient(10 * i + step, dtype) for _ in range(2))
        reference.step()
        optimizer.step()
    for one, other in zip(theirs, ours, strict=True):
        assert torch.equal(bits(one), bits(other))
        for name, value in reference.state[one].items():
            assert torch.equal(value, optimizer.state[other][name])
    assert not optimizer.state[ours[2]]


@pytest.mark.parametrize("fused", [True, None])
def test_state_dictionaries_pass_between_it_and_adamw_both_ways(fused):
    (theirs,), reference = made(torch.optim.AdamW, fused=fused)
    (ours,), optimizer = made(MaskedAdamW)
    for step in range(3):
        theirs.grad = gradient(step)
        reference.step()
    ours.data.copy_(theirs.data)
    optimizer.load_state_dict(copy.deepcopy(reference.state_dict()))
    back_parameter = Parameter(theirs.detach().clone())
    back = torch.optim.AdamW([back_parameter], lr=1.0)
    back.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for parameter, stepping in ((ours, optimizer), (back_parameter, back), (theirs, reference)):
        parameter.grad = gradient(3)
        stepping.step()
    assert torch.equal(bits(ours), bits(back_parameter))
    torch.testing.assert_close(ours, theirs)
    assert optimizer.param_groups[0]["fused"] is True
    assert set(optimizer.state[ours]) == set(reference.state[theirs])


def test_the_result_does_not_depend_on_the_chunk_size():
    results = []
    for chunk in (64, 1 << 18):
        (weights,), optimizer = made(MaskedAdamW, moments="frozen")
        optimizer.chunk_entries = chunk
        for step in range(5):
            weights.grad, optimizer.masks[weights] = gradient(step), mask(step)
            optimizer.step()
        results.append(weights)
    assert torch.equal(bits(results[0]), bits(results[1]))


def test_learning_rate_schedules_and_parameter_groups_reach_masked_parameters():
    def trained(cls: type) -> list[Parameter]:
        parameters, _ = made(cls, n=2)
        groups = [
            {"params": parameters[:1], "weight_decay": 0.5},
            {"params": parameters[1:], "lr": 1e-3},
        ]
        optimizer = cls(groups, lr=0.1, fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        if cls is MaskedAdamW:
            optimizer.masks = {p: torch.ones(SHAPE, dtype=torch.bool) for p in parameters}
        for step in range(4):
            for parameter in parameters:
                parameter.grad = gradient(step)
            optimizer.step()
            schedule.step()
        return parameters

    for one, other in zip(trained(torch.optim.AdamW), trained(MaskedAdamW), strict=True):
        assert torch.equal(bits(one), bits(other))


def test_a_closure_is_run_once_with_gradients_and_its_loss_returned():
    (weights,), optimizer = made(MaskedAdamW)
    optimizer.masks = {weights: torch.zeros(SHAPE, dtype=torch.bool)}
    calls = []

    def closure() -> torch.Tensor:
        calls.append(1)
        loss = weights.square().sum()
        loss.backward()
        return loss

    loss = optimizer.step(closure).detach()
    assert torch.equal(loss, weights.detach().square().sum())
    assert len(calls) == 1


def test_a_strided_gradient_steps_as_its_contiguous_copy_and_is_not_changed():
    results = []
    for strided in (True, False):
        (weights,), optimizer = made(MaskedAdamW, moments="masked")
        weights.grad = gradient(1).t().contiguous().t() if strided else gradient(1)
        optimizer.masks = {weights: mask(1)}
        optimizer.step()
        assert torch.equal(weights.grad, gradient(1))
        results.append(weights)
    assert torch.equal(bits(results[0]), bits(results[1]))


def test_a_mask_of_another_shape_is_refused_before_anything_moves():
    (one, two), optimizer = made(MaskedAdamW, n=2)
    one.grad, two.grad, start = gradient(0), gradient(1), one.detach().clone()
    optimizer.masks = {two: torch.ones(3, dtype=torch.bool)}
    with pytest.raises(ValueError, match=r"shape \(13, 11\), found torch.bool of shape \(3,\)"):
        optimizer.step()
    assert torch.equal(one, start)


def test_amsgrad_is_refused():
    with pytest.raises(ValueError, match="amsgrad"):
        MaskedAdamW([Parameter(torch.zeros(2))], amsgrad=True)
