"""MaskedAdamW against torch's AdamW and against Adam written out entry by entry."""

import copy
import datetime
import math
import os
import shutil
import sysconfig
import weakref
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from ranks import call_in_processes
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.nn import Parameter

from fnsft.errors import InputError
from fnsft.masks.optimizer import MaskedAdamW

HAS_COMPILER = (
    bool(shutil.which(os.environ.get("CXX", "g++")))
    and Path(sysconfig.get_path("include"), "Python.h").exists()
)
needs_compiler = pytest.mark.skipif(not HAS_COMPILER, reason="no C++ compiler for torch.compile")
both_ways = pytest.mark.parametrize(
    "compiled", [False, pytest.param(True, marks=needs_compiler)], ids=["eager", "compiled"]
)
SHAPE = (13, 11)
OPTIONS = {"lr": 1e-2, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().view(
        {8: torch.int64, 4: torch.int32, 2: torch.int16}[tensor.element_size()]
    )


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


@both_ways
@pytest.mark.parametrize("moments", ["full", "masked", "frozen"])
def test_every_moments_mode_follows_adam_written_out_entry_by_entry(moments, compiled):
    (weights,), optimizer = made(MaskedAdamW, moments=moments, compiled=compiled)
    for step in range(1, 7):
        weights.grad = gradient(step)
        optimizer.masks = {weights: mask(step)}
        optimizer.step()
    state = optimizer.state[weights]
    found = torch.stack([weights.detach(), state["exp_avg"], state["exp_avg_sq"]], -1)
    expected = torch.tensor(by_entry(moments, 6), dtype=torch.float64).view(*SHAPE, 3)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


@both_ways
@pytest.mark.parametrize("moments", ["full", "masked", "frozen"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_entries_outside_the_mask_are_bit_identical_after_20_steps(moments, dtype, compiled):
    (weights,), optimizer = made(MaskedAdamW, dtype, moments=moments, compiled=compiled)
    held = ~mask(0)
    with torch.no_grad():  # values that arithmetic would not give back
        weights[held.nonzero()[:3].unbind(1)] = torch.tensor([-0.0, 1e-40, torch.inf]).to(dtype)
    weights.grad = gradient(0, dtype)
    optimizer.step()  # momentum everywhere, before anything is held back
    start = weights.detach().clone()
    optimizer.masks = {weights: mask(0)}
    for step in range(1, 21):
        weights.grad = gradient(step, dtype)
        optimizer.step()
    assert torch.equal(bits(weights)[held], bits(start)[held])
    assert (weights != start)[~held].float().mean() > 0.9


@both_ways
def test_frozen_moments_are_bit_identical_outside_the_mask(compiled):
    (weights,), optimizer = made(MaskedAdamW, moments="frozen", compiled=compiled)
    weights.grad = gradient(0)
    optimizer.step()
    state, held = optimizer.state[weights], ~mask(0)
    start = {name: state[name].clone() for name in ("exp_avg", "exp_avg_sq")}
    weights.grad, optimizer.masks = gradient(1), {weights: mask(0)}
    optimizer.step()
    for name, before in start.items():
        assert torch.equal(bits(state[name])[held], bits(before)[held])
        assert bool((state[name] != before)[~held].all())


@both_ways
def test_a_broken_gradient_outside_the_mask_reaches_nothing_with_masked_moments(compiled):
    (weights,), optimizer = made(MaskedAdamW, moments="masked", compiled=compiled)
    weights.grad, optimizer.masks = gradient(0), {weights: mask(0)}
    weights.grad[~mask(0)] = torch.nan
    optimizer.step()
    state = optimizer.state[weights]
    assert all(bool(t.isfinite().all()) for t in (weights, state["exp_avg"], state["exp_avg_sq"]))


def trained(cls: type, dtype: torch.dtype, steps: int = 10, **options: object):
    """Three parameters after training: masked by ones, without a mask, without a gradient."""
    parameters, optimizer = made(cls, dtype, n=3, **options)
    if cls is MaskedAdamW:
        optimizer.masks = {parameters[0]: torch.ones(SHAPE, dtype=torch.bool)}
    for step in range(steps):
        for i in range(2):
            parameters[i].grad = gradient(10 * i + step, dtype)
        optimizer.step()
    return parameters, optimizer


@pytest.mark.parametrize("moments", ["full", "masked", "frozen"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("maximize", [False, True])
def test_a_mask_of_ones_and_no_mask_are_bitwise_fused_adamw(moments, dtype, maximize):
    theirs, reference = trained(torch.optim.AdamW, dtype, fused=True, maximize=maximize)
    ours, optimizer = trained(MaskedAdamW, dtype, moments=moments, maximize=maximize)
    for one, other in zip(theirs, ours, strict=True):
        assert torch.equal(bits(one), bits(other))
        for name, value in reference.state[one].items():
            assert torch.equal(value, optimizer.state[other][name])
    assert not optimizer.state[ours[2]]


@needs_compiler
@pytest.mark.parametrize("maximize", [False, True])
def test_compiled_a_mask_of_ones_is_close_to_fused_adamw_and_no_mask_is_it(maximize):
    options = {"maximize": maximize, "betas": (0.9, 0.999), "eps": 1e-8}
    theirs, reference = trained(torch.optim.AdamW, torch.float32, fused=True, **options)
    ours, optimizer = trained(MaskedAdamW, torch.float32, compiled=True, **options)
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-6, atol=1e-7)
    for name, value in reference.state[theirs[0]].items():
        torch.testing.assert_close(optimizer.state[ours[0]][name], value, rtol=1e-6, atol=1e-7)
    assert torch.equal(bits(ours[1]), bits(theirs[1]))


@needs_compiler
def test_one_compilation_serves_all_shapes_and_a_schedule():
    shapes = [SHAPE, (64, 32), (300, 70), (7,), (2, 3, 4)]
    parameters = [Parameter(torch.ones(shape)) for shape in shapes]
    groups = [
        {"params": parameters[:2]},
        {"params": parameters[2:], "lr": 0.3, "weight_decay": 0.0, "betas": (0.5, 0.9)},
    ]
    optimizer = MaskedAdamW(groups, lr=0.1, compiled=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step / 5)
    optimizer.masks = {p: torch.arange(p.numel()).view(p.shape) % 2 == 0 for p in parameters}
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    for _ in range(5):
        for parameter in parameters:
            parameter.grad = torch.ones(parameter.shape[::-1]).permute(
                *reversed(range(parameter.dim()))
            )
        optimizer.step()
        schedule.step()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    # Adam's step is the learning rate where every gradient is the same: .1 * (1 + 2 + 3 + 4) / 5
    # and .3 * 2, and decay of 1 %.
    assert float(parameters[3].detach()[2]) == pytest.approx(1 - 0.6, abs=1e-5)
    assert all(bool((p.detach()[~optimizer.masks[p]] == 1).all()) for p in parameters)


@both_ways
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(compiled):
    def run(weights: Parameter, optimizer: MaskedAdamW, steps: range) -> None:
        for step in steps:
            weights.grad, optimizer.masks = gradient(step), {weights: mask(step)}
            optimizer.step()

    (whole,), optimizer = made(MaskedAdamW, moments="masked", compiled=compiled)
    run(whole, optimizer, range(6))
    (weights,), first = made(MaskedAdamW, moments="masked", compiled=compiled)
    run(weights, first, range(3))
    (resumed,), second = made(MaskedAdamW, moments="masked", compiled=compiled, lr=9.0)
    resumed.data.copy_(weights.data)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    run(resumed, second, range(3, 6))
    assert torch.equal(bits(whole), bits(resumed))


@needs_compiler
def test_without_a_compiler_the_error_is_one_line_that_says_what_to_do(monkeypatch):
    (weights,), optimizer = made(MaskedAdamW, compiled=True)
    weights.grad, optimizer.masks, start = gradient(0), {weights: mask(0)}, weights.detach().clone()
    torch._dynamo.reset()
    with (
        torch._inductor.config.patch(
            {"cpp.cxx": (None, "/no/compiler"), "force_disable_caches": 1}
        ),
        pytest.raises(
            InputError, match="No working C.. compiler .*; install .* compiled=False$"
        ) as e,
    ):
        optimizer.step()
    torch._dynamo.reset()
    assert "\n" not in str(e.value)
    assert torch.equal(weights, start)


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


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        (torch.ones(3, dtype=torch.bool), r"torch.bool of shape \(3,\) on cpu"),
        (torch.ones(SHAPE), r"torch.float32 of shape \(13, 11\) on cpu"),
        (torch.ones(SHAPE, dtype=torch.bool, device="meta"), "on meta"),
    ],
    ids=["shape", "dtype", "device"],
)
def test_a_mask_that_does_not_fit_is_refused_before_its_parameter_moves(wrong, found):
    (one, two), optimizer = made(MaskedAdamW, n=2)
    one.grad, two.grad, start = gradient(0), gradient(1), two.detach().clone()
    optimizer.masks = {two: wrong}
    expected = r"expected torch.bool of shape \(13, 11\) on cpu, found .*"
    with pytest.raises(ValueError, match=expected + found):
        optimizer.step()
    assert torch.equal(two, start)
    assert two not in optimizer.state


def test_each_mask_is_asked_for_once_right_before_its_parameter_moves_and_then_dropped():
    class Source:
        """Masks that are made from the gradient, and the state of affairs when they are."""

        def __init__(self) -> None:
            self.asked: list[Parameter] = []
            self.last: weakref.ref[torch.Tensor] | None = None

        def get(self, parameter: Parameter) -> torch.Tensor | None:
            assert self.last is None or self.last() is None, "two masks at once"
            moved = [not torch.equal(p, start[p]) for p in parameters]
            assert moved == [number < len(self.asked) for number in range(len(parameters))]
            self.asked.append(parameter)
            mask = parameter.grad > 0
            self.last = weakref.ref(mask)
            return mask

    parameters, _ = made(MaskedAdamW, n=4)
    start = {p: p.detach().clone() for p in parameters}
    optimizer = MaskedAdamW([{"params": parameters[:1]}, {"params": parameters[1:]}], **OPTIONS)
    optimizer.masks = source = Source()
    for number, parameter in enumerate(parameters):
        parameter.grad = gradient(number)
    idle = Parameter(torch.zeros(2))
    optimizer.add_param_group({"params": [idle]})
    optimizer.step()
    assert [id(p) for p in source.asked] == [id(p) for p in parameters]
    assert source.last() is None
    for parameter in parameters:
        assert torch.equal(parameter != start[parameter], parameter.grad > 0)


@both_ways
def test_an_expanded_mask_is_as_good_as_its_copy_and_an_empty_parameter_is_no_trouble(compiled):
    rows = torch.arange(SHAPE[0])[:, None] % 3 == 0
    results = []
    for wide in (rows.expand(SHAPE), rows.expand(SHAPE).contiguous()):
        (weights,), optimizer = made(MaskedAdamW, compiled=compiled)
        empty = Parameter(torch.zeros(0, 5))
        optimizer.add_param_group({"params": [empty]})
        weights.grad, empty.grad = gradient(0), torch.zeros(0, 5)
        optimizer.masks = {weights: wide, empty: torch.ones(0, 5, dtype=torch.bool)}
        optimizer.step()
        results.append(weights)
    assert torch.equal(bits(results[0]), bits(results[1]))


ROWS = (13, 6, 1)  # over two processes 7 + 6, 3 + 3 and 1 + 0
WIDTH = 64  # whole vectors, so that shards round as the matrix does


def sharded_matrices() -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Weights, gradient and mask of a few matrices; the second has no mask."""
    generator = torch.Generator().manual_seed(0)
    triples = [torch.randn(3, rows, WIDTH, generator=generator) for rows in ROWS]
    return [(weights, gradient, third > 0) for weights, gradient, third in triples]


def step_a_shard(rank: int, folder: str) -> None:
    matrices = sharded_matrices()
    meeting, patience = f"file://{folder}/meeting", datetime.timedelta(seconds=60)
    dist.init_process_group("gloo", meeting, timeout=patience, rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))

    def spread(tensor: torch.Tensor) -> DTensor:
        return distribute_tensor(tensor, mesh, [Shard(0)])

    parameters = [Parameter(spread(weights)) for weights, _, _ in matrices]

    class Masks:
        """Asking is a collective: it hangs or differs if one process does not ask."""

        asked = 0

        def get(self, parameter: Parameter) -> torch.Tensor | None:
            number = next(i for i, p in enumerate(parameters) if p is parameter)
            asked = torch.tensor([number, self.asked])
            dist.all_reduce(asked, dist.ReduceOp.MAX)
            assert asked.tolist() == [number, self.asked]
            self.asked += 1
            return None if number == 1 else spread(matrices[number][2]).to_local()

    optimizer = MaskedAdamW(parameters, moments="frozen", **OPTIONS)
    optimizer.masks = Masks()
    for _ in range(2):
        for parameter, (_, gradient, _) in zip(parameters, matrices, strict=True):
            parameter.grad = spread(gradient)
        optimizer.step()
    state = [optimizer.state[p] for p in parameters]
    assert all(isinstance(s[name], DTensor) for s in state for name in ("exp_avg", "exp_avg_sq"))
    found = [p.detach().full_tensor() for p in parameters]
    found += [s["exp_avg"].full_tensor() for s in state]
    if rank == 0:
        torch.save(found, f"{folder}/found.pt")
    dist.destroy_process_group()


def test_two_processes_with_sharded_parameters_step_bitwise_as_one(tmp_path):
    call_in_processes(2, step_a_shard, str(tmp_path))
    matrices = sharded_matrices()
    parameters = [Parameter(weights) for weights, _, _ in matrices]
    optimizer = MaskedAdamW(parameters, moments="frozen", **OPTIONS)
    optimizer.masks = {parameters[i]: matrices[i][2] for i in (0, 2)}
    for _ in range(2):
        for parameter, (_, gradient, _) in zip(parameters, matrices, strict=True):
            parameter.grad = gradient
        optimizer.step()
    expected = [*parameters, *(optimizer.state[p]["exp_avg"] for p in parameters)]
    for one, other in zip(expected, torch.load(tmp_path / "found.pt"), strict=True):
        assert torch.equal(bits(one), bits(other))


def test_amsgrad_is_refused():
    with pytest.raises(ValueError, match="amsgrad"):
        MaskedAdamW([Parameter(torch.zeros(2))], amsgrad=True)
