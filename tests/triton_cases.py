"""Triton's kernels against numba's, and against Adam written out; run by test_triton_masks.py.

Triton has to know before it is imported that its kernels are to be interpreted, on the CPU and
by NumPy; so these run in a process of their own, or compiled where there is a GPU:

    TRITON_INTERPRET=1 pytest --noconftest tests/triton_cases.py
"""

import copy
import math
import os

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.nn import Parameter

from fnsft.masks import kernels, radix_numba, radix_triton, random_fraction, top_fraction
from fnsft.masks.affinity import Affinity, knn_affinity
from fnsft.masks.hashing import hash_of_indices, signed
from fnsft.masks.optimizer import MaskedAdamW
from fnsft.masks.policies import Collab, Highest, MatrixStep
from fnsft.masks.radix import ANY_HASH, Keys, Threshold
from fnsft.masks.score import scored
from fnsft.masks.selection import _top, select_top
from fnsft.masks.shards import Shard

DEVICE = torch.device("cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda")
KINDS = ["normal", "tied", "zeros", "sparse", "subnormal", "huge", "one bin", "one binade"]
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}

every_width = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


@pytest.fixture
def by_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take Triton's kernels for every device."""
    monkeypatch.setattr(kernels, "uses_triton", lambda device: True)


def scores(kind: str, n: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    normal = torch.randn(n, generator=torch.Generator().manual_seed(len(kind) + n)).abs()
    return {
        "normal": normal,
        "tied": (normal * 2).round(),
        "zeros": torch.zeros(n),
        "sparse": normal * (normal > 1.5),
        "subnormal": normal * 1e-40,
        "huge": normal * 5e37,
        "one bin": 1 + normal.clamp(max=1) * 1e-6,
        "one binade": 1 + normal.clamp(max=0.99),
    }[kind].to(dtype)


def expected(score: torch.Tensor, count: int, seed: int = 0, offset: int = 0) -> torch.Tensor:
    """Return the mask of numba's kernels."""
    return _top(radix_numba, score.cpu(), count, seed, offset, None).mask


def keys_of(score: torch.Tensor, seed: int = 0, offset: int = 0) -> Keys:
    return Keys(score.view(BITS[score.itemsize]), score.numel(), seed, offset, score.device)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [(kind, torch.float32) for kind in KINDS] + [(kind, torch.bfloat16) for kind in KINDS[:4]],
    ids=str,
)
def test_the_mask_is_numbas_bit_for_bit(kind, dtype, by_triton):
    for n, counts in ((35, (0, 1, 18, 35)), (5_001, (1, 1_700, 3_500, 5_000))):
        score = scores(kind, n, dtype)
        for count in counts:
            fraction = max(count, 0.1) / n
            mask = top_fraction(score.to(DEVICE), fraction, seed=3, index_offset=5)
            assert int(mask.sum()) == count
            assert torch.equal(mask.cpu(), expected(score, count, 3, 5)), (n, count)


@pytest.mark.parametrize(
    ("seed", "offset"),
    [(0, 1), (1, 16), (-7, 1 << 33), (1 << 31, 0), (1 << 63, 7), ((1 << 64) - 1, 1)],
)
def test_ties_are_broken_by_the_hash_of_any_seed_and_of_a_wide_index(seed, offset, by_triton):
    n = 5_000
    score = torch.arange(n).remainder(3).float()
    mask = top_fraction(score.to(DEVICE), 0.5, seed=seed, index_offset=offset)
    assert torch.equal(mask.cpu(), expected(score, n // 2, seed, offset))
    drawn = random_fraction((n,), 0.3, seed=seed, device=DEVICE, index_offset=offset)
    assert torch.equal(drawn.cpu(), expected(torch.zeros(n), round(0.3 * n), seed, offset))


def test_the_last_digits_of_the_hash_decide_where_the_others_agree():
    # Hashes that share 40 bits do not occur by chance: put the boundary at one entry's hash.
    n, seed, offset = 300, -3, 17
    words = hash_of_indices(seed, torch.arange(n) + offset).numpy().view(np.uint64)
    for bits in (torch.zeros(n, dtype=torch.int32, device=DEVICE), None):
        keys = Keys(bits, n, seed, offset, DEVICE)
        for word in map(int, words[:5]):
            above = 0
            for digit in radix_triton._HASH:
                known = (word ^ ANY_HASH) >> 64 - above << 64 - above
                state = torch.tensor([0, signed(known), 0, 0, 0])
                counts = radix_triton._counts(keys, digit, state.to(DEVICE)).cpu()
                agree = [w for w in map(int, words) if (w ^ word) >> (64 - above) == 0]
                of = [(w ^ ANY_HASH) >> digit.shift & (1 << digit.width) - 1 for w in agree]
                assert counts.tolist() == np.bincount(of, minlength=1 << digit.width).tolist()
                above += digit.width
            mask = radix_triton.taken(keys, Threshold(0, word)).cpu()
            assert mask.tolist() == [w <= word for w in map(int, words)]


@every_width
def test_the_threshold_parts_what_is_taken_from_what_is_left(dtype, by_triton):
    score = scores("tied", 3_000, dtype).to(DEVICE)
    for fraction in (0.01, 0.4, 0.9):
        found = select_top(score, fraction, 4, None)
        assert bool((score[found.mask].float() >= found.threshold).all())
        assert bool((score[~found.mask].float() <= found.threshold).all())


@every_width
@pytest.mark.parametrize("value", [math.nan, -math.nan, math.inf, -math.inf, -1.0, -1e-30])
def test_one_entry_that_is_not_finite_and_non_negative_is_refused(value, dtype, by_triton):
    score = scores("normal", 4_100)
    score[4_098] = math.copysign(value, -1) if value != abs(value) else value
    for fraction in (0.5, 1.0, 1e-9):
        with pytest.raises(ValueError, match="finite, non-negative scores, found"):
            top_fraction(score.to(dtype).to(DEVICE), fraction)


def test_what_is_refused_is_counted(by_triton):
    score = torch.rand(10, 10)
    score[0, :3], score[1, 0], score[1, 1] = math.nan, math.inf, -math.inf
    score[2, 2] = -1e-30
    with pytest.raises(ValueError, match="found 3 NaN, 2 infinite and 2 negative"):
        top_fraction(score.to(DEVICE), 0.5)


@every_width
def test_negative_zero_is_zero(dtype, by_triton):
    score = torch.tensor([0.0, -0.0, 1.0] * 50, dtype=dtype, device=DEVICE)
    for fraction in (0.2, 0.5, 1.0):
        mask = top_fraction(score, fraction, seed=1)
        assert torch.equal(mask, top_fraction(score.abs(), fraction, seed=1))


def test_strides_half_precision_and_an_empty_matrix_are_no_trouble(by_triton):
    score = scores("tied", 2_400).view(40, 60)
    for view in (score.t(), score[::2, 1::3], score.half()):
        mask = top_fraction(view.to(DEVICE), 0.4, seed=2)
        assert torch.equal(mask.cpu(), expected(view, round(0.4 * view.numel()), 2))
    assert top_fraction(torch.empty(0, 5, device=DEVICE), 0.5).shape == (0, 5)


N = 37


def uneven(mutual: bool = False) -> Affinity:
    """Between none and nine neighbours a neuron."""
    rng = np.random.default_rng(0)
    degrees = rng.integers(0, 10, N)
    others = [rng.choice(np.delete(np.arange(N), i), k, False) for i, k in enumerate(degrees)]
    weights = [np.sort(rng.lognormal(0, 2, k))[::-1] for k in degrees]
    indptr = np.concatenate([[0], np.cumsum(degrees)])
    edges = np.concatenate(others).astype(np.int32), np.concatenate(weights).astype(np.float32)
    return knn_affinity(indptr, *edges, k=9, k_max=9, mutual=mutual)


def gradient(axis: int, columns: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """[N, columns], or [columns, N] for axis 1; entries span many orders of magnitude."""
    generator = torch.Generator().manual_seed(columns)
    normal, scale = torch.randn(2, N, columns, generator=generator)
    by_neuron = (normal * (3 * scale).exp()).to(dtype)
    return by_neuron if axis == 0 else by_neuron.t().contiguous()


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().cpu().view(BITS[tensor.itemsize])


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(
    ("dtype", "widths"),
    [
        (torch.float32, (1, 64, 530)),  # the last is two panels of a down projection
        (torch.bfloat16, (70,)),
        (torch.float16, (5,)),
        (torch.float64, (5,)),
    ],
    ids=str,
)
def test_the_score_has_numbas_bits_and_its_exponents_are_counted(axis, dtype, widths, monkeypatch):
    for columns in widths:
        for affinity in (uneven(), uneven(mutual=True)) if columns < 100 else (uneven(),):
            g = gradient(axis, columns, dtype)
            by_numba = scored(g, affinity, 0.3, axis)
            assert by_numba.exponents is None
            with monkeypatch.context() as patch:
                patch.setattr(kernels, "uses_triton", lambda device: True)
                found = scored(g.to(DEVICE), affinity.to(DEVICE), 0.3, axis)
            assert found.score.is_contiguous()
            assert found.score.dtype == torch.float32
            assert torch.equal(bits(found.score), bits(by_numba.score)), columns
            patterns = by_numba.score.numpy().view(np.uint32).ravel()
            histogram = np.bincount(patterns >> 23, minlength=256)
            assert found.exponents.tolist() == histogram.tolist()


@pytest.mark.parametrize("axis", [0, 1])
def test_the_score_is_that_of_dense_algebra(axis, by_triton):
    affinity = uneven()
    g, weights = gradient(axis, 70), affinity.weights.to_dense().double()
    magnitude = g.double().abs()
    for lam in (0.0, 0.4, 1.0):
        heard = weights @ magnitude if axis == 0 else magnitude @ weights.T
        found = scored(g.to(DEVICE), affinity.to(DEVICE), lam, axis).score
        reference = ((1 - lam) * magnitude + lam * heard).float()
        torch.testing.assert_close(found.cpu(), reference, rtol=2e-6, atol=0)


@pytest.mark.parametrize("axis", [0, 1])
def test_strides_and_parts_change_no_bit_of_a_score(axis, by_triton):
    affinity, g = uneven().to(DEVICE), gradient(axis, 150).to(DEVICE)
    whole = scored(g, affinity, 0.5, axis).score
    other_layout = g.t().contiguous().t()
    every_second = torch.stack([g, -g], 2).flatten(1)[:, ::2]
    for twin in (other_layout, every_second, -g):
        assert torch.equal(scored(twin, affinity, 0.5, axis).score, whole)
    for part in (torch.arange(5, 70), torch.arange(149, 150), torch.arange(3, 3)):
        part = part.to(DEVICE)
        found = scored(g.index_select(1 - axis, part), affinity, 0.5, axis)
        assert torch.equal(found.score, whole.index_select(1 - axis, part))
        assert int(found.exponents.sum()) == found.score.numel()


@pytest.mark.parametrize("axis", [0, 1])
@every_width
def test_a_collab_step_has_the_mask_of_the_cpu(axis, dtype, monkeypatch):
    affinity, at = uneven(), MatrixStep(0, axis, 3, 7)
    for ties in (False, True):
        g = gradient(axis, 90, dtype)
        g = (g * 2).clamp(-3, 3).round() if ties else g
        for fraction in (0.7,) if ties else (1 / g.numel(), 0.7):
            mask = Collab(fraction, 5, 0.5, [affinity]).select(g, at).mask
            with monkeypatch.context() as patch:
                patch.setattr(kernels, "uses_triton", lambda device: True)
                policy = Collab(fraction, 5, 0.5, [affinity.to(DEVICE)])
                assert torch.equal(policy.select(g.to(DEVICE), at).mask.cpu(), mask)


def test_a_gradient_that_is_not_finite_makes_scores_that_are_refused(by_triton):
    g = gradient(0, 70).to(DEVICE)
    g[3, 4] = math.nan
    with pytest.raises(ValueError, match="finite, non-negative scores"):
        Collab(0.5, 0, 0.5, [uneven().to(DEVICE)]).select(g, MatrixStep(0, 0, 0, 0))


def sharded(shard: Shard, axis: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """The masks of what a shard holds of a matrix whose neurons lie along ``axis``."""
    g = (gradient(axis, 29, dtype) * 2).round()[shard.rows]
    at = MatrixStep(0, axis, 1, 2, shard)
    policies = (Collab(0.4, 3, 0.5, [uneven()]), Highest(0.4, 3))
    return [policy.select(g, at).mask for policy in policies]


# The neurons' axis, which rows lie in which process, the gradients' dtype.
SHARDS = [
    (0, (0, 20, N), torch.bfloat16),
    (0, (0, N, N), torch.float32),
    (1, (0, 11, 29), torch.float32),
    (1, (0, 0, 29), torch.bfloat16),
]


def select_a_shard(rank: int, folder: str) -> None:
    kernels.uses_triton = lambda device: True
    meeting = f"file://{folder}/meeting"
    dist.init_process_group("gloo", meeting, rank=rank, world_size=2)
    found = {}
    for axis, cuts, dtype in SHARDS:
        shard = Shard(tuple(gradient(axis, 29).shape), cuts, rank, dist.group.WORLD)
        found[axis, cuts, dtype] = sharded(shard, axis, dtype)
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.skipif(DEVICE.type != "cpu", reason="one GPU; the interpreter shows it")
def test_shards_have_the_masks_of_the_whole(tmp_path):
    torch.multiprocessing.spawn(select_a_shard, (str(tmp_path),), nprocs=2)
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for axis, cuts, dtype in SHARDS:
        whole = sharded(Shard.whole(tuple(gradient(axis, 29).shape)), axis, dtype)
        for mask, *of_shards in zip(
            whole, *(part[axis, cuts, dtype] for part in parts), strict=True
        ):
            assert torch.equal(torch.cat(of_shards), mask), (axis, cuts, dtype)


SHAPE = (33, 65)  # more than two blocks, and no multiple of one
OPTIONS = {"lr": 1e-2, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}
every_moments = pytest.mark.parametrize("moments", ["full", "masked", "frozen"])


def normal(seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    values = torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))
    return values.to(dtype).to(DEVICE)


def made(dtype: torch.dtype = torch.float32, cls: type = MaskedAdamW, **options: object):
    weights = Parameter(normal(0, dtype))
    if cls is MaskedAdamW:
        options["compiled"] = True
    return weights, cls([weights], **(OPTIONS | options))


def mask(step: int) -> torch.Tensor:
    return normal(200 + step) < -0.2


@every_moments
@pytest.mark.parametrize(
    ("maximize", "betas"), [(False, (0.9, 0.999)), (True, (0.8, 0.95)), (False, (0.0, 0.99))]
)
def test_every_moments_mode_follows_adam_in_double_precision(moments, maximize, betas, by_triton):
    weights, optimizer = made(moments=moments, maximize=maximize, betas=betas)
    w, m, v = weights.detach().double(), *torch.zeros(2, *SHAPE, dtype=torch.double, device=DEVICE)
    for step in range(1, 5):
        g, moves = normal(100 + step), mask(step)
        weights.grad, optimizer.masks = g.clone(), {weights: moves}
        optimizer.step()
        assert torch.equal(weights.grad, g)
        g = -g.double() if maximize else g.double()
        g = torch.where(moves, g, 0) if moments == "masked" else g
        m_next, v_next = betas[0] * m + (1 - betas[0]) * g, betas[1] * v + (1 - betas[1]) * g * g
        change = m_next / (1 - betas[0] ** step)
        change = change / ((v_next / (1 - betas[1] ** step)).sqrt() + OPTIONS["eps"])
        w = torch.where(moves, w * (1 - 1e-3) - 1e-2 * change, w)
        if moments == "frozen":
            m_next, v_next = torch.where(moves, m_next, m), torch.where(moves, v_next, v)
        m, v = m_next, v_next
    state = optimizer.state[weights]
    for found, reference in ((weights, w), (state["exp_avg"], m), (state["exp_avg_sq"], v)):
        torch.testing.assert_close(found.detach().double(), reference, rtol=2e-6, atol=1e-7)


@every_moments
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str
)
def test_entries_outside_the_mask_are_bit_identical(moments, dtype, by_triton):
    weights, optimizer = made(dtype, moments=moments)
    weights.grad = normal(99, dtype)
    optimizer.step()  # moments everywhere, before anything is held back
    held = ~mask(0).cpu()
    with torch.no_grad():  # values that arithmetic or a conversion would not give back
        places = held.nonzero()[:5].unbind(1)
        odd = torch.tensor([-0.0, 1e-40, math.inf, math.nan, 0.0]).to(dtype)
        odd.view(BITS[odd.itemsize])[4] = -3  # a NaN with a payload
        weights[tuple(i.to(DEVICE) for i in places)] = odd.to(DEVICE)
    start = [bits(t).clone() for t in (weights, *tensors_of(optimizer, weights))]
    optimizer.masks = {weights: mask(0)}
    for step in range(3):
        weights.grad = normal(step, dtype)
        optimizer.step()
    end = [bits(t) for t in (weights, *tensors_of(optimizer, weights))]
    pairs = list(zip(start, end, strict=True))
    for before, after in pairs if moments == "frozen" else pairs[:1]:
        assert torch.equal(before[held], after[held])
    assert all((before != after)[~held].float().mean() > 0.9 for before, after in pairs)


def tensors_of(optimizer: MaskedAdamW, weights: Parameter) -> list[torch.Tensor]:
    return [optimizer.state[weights][name] for name in ("exp_avg", "exp_avg_sq")]


def test_a_broken_gradient_outside_the_mask_reaches_nothing_with_masked_moments(by_triton):
    weights, optimizer = made(moments="masked")
    weights.grad, optimizer.masks = normal(0), {weights: mask(0)}
    weights.grad[~mask(0)] = math.nan
    optimizer.step()
    for tensor in (weights, *tensors_of(optimizer, weights)):
        assert bool(tensor.isfinite().all())


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1e-6), (torch.bfloat16, 2**-7)])
def test_a_mask_of_ones_is_torchs_fused_adamw_up_to_rounding(dtype, rtol, by_triton):
    theirs, reference = made(dtype, torch.optim.AdamW, fused=True)
    ours, optimizer = made(dtype)
    optimizer.masks = {ours: torch.ones(SHAPE, dtype=torch.bool, device=DEVICE)}
    for step in range(5):
        theirs.grad, ours.grad = normal(step, dtype), normal(step, dtype)
        # From the same state, so that roundings do not add up.
        ours.data.copy_(theirs.data)
        optimizer.load_state_dict(copy.deepcopy(reference.state_dict()))
        reference.step()
        optimizer.step()
        torch.testing.assert_close(ours, theirs, rtol=rtol, atol=1e-7)
        both = tensors_of(optimizer, ours), tensors_of(reference, theirs)
        for one, other in zip(*both, strict=True):
            torch.testing.assert_close(one, other, rtol=rtol, atol=1e-7)


def test_strides_and_sizes_change_no_bit_of_a_step(by_triton):
    results = []
    for strided in (False, True):
        weights, optimizer = made()
        weights.grad, moves = normal(1), mask(1)
        if strided:
            weights.grad, moves = weights.grad.t().contiguous().t(), moves.t().contiguous().t()
        optimizer.masks = {weights: moves}
        optimizer.step()
        results.append(weights)
    assert torch.equal(bits(results[0]), bits(results[1]))
    for size in (1, 1023, 1024, 0):
        part = Parameter(normal(0).view(-1)[:size].clone())
        optimizer = MaskedAdamW([part], **OPTIONS, compiled=True)
        part.grad = normal(1).view(-1)[:size]
        optimizer.masks = {part: mask(1).view(-1)[:size]}
        optimizer.step()
        assert torch.equal(bits(part), bits(results[0]).view(-1)[:size])
