"""Principal components by chunks: against the whole matrix, for any chunks, and awkward data."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fnsft.errors import InputError
from fnsft.neurons.decomposition import principal
from fnsft.neurons.decomposition.activations import Activations
from fnsft.neurons.decomposition.principal import Principal, principal_components
from fnsft.neurons.decomposition.standardised import standardised

CPU = torch.device("cpu")
WIDTHS = (70, 50, 120)


def slow_decay(n_tokens: int = 600, seed: int = 0) -> np.ndarray:
    """A float16 matrix whose spectrum falls as i^−0.7, channels of any mean and deviation."""
    rng = np.random.default_rng(seed)
    rank = min(n_tokens, sum(WIDTHS))
    left = np.linalg.qr(rng.standard_normal((n_tokens, rank)))[0]
    right = np.linalg.qr(rng.standard_normal((sum(WIDTHS), rank)))[0]
    values = 40 * np.arange(1, rank + 1) ** -0.7
    matrix = (left * values) @ right.T * rng.uniform(0.1, 3, sum(WIDTHS))
    return (matrix + rng.uniform(-9, 9, sum(WIDTHS))).astype(np.float16)


def in_blocks(matrix: np.ndarray, *options: Any, **named: Any) -> Activations:
    widths = WIDTHS if matrix.shape[1] == sum(WIDTHS) else (matrix.shape[1],)
    return Activations(np.split(matrix, np.cumsum(widths)[:-1], axis=1), *options, **named)


def dense(matrix: np.ndarray, standardise: bool) -> np.ndarray:
    """What is decomposed, whole and in float64."""
    centred = matrix.astype(np.float64) - matrix.astype(np.float64).mean(axis=0)
    deviations = centred.std(axis=0)
    return centred / np.where(deviations > 0, deviations, 1) if standardise else centred


def components(matrix: np.ndarray, k: int = 10, **options: Any) -> Principal:
    options = {"standardise": True, "seed": 0, "chunk_rows": 64, "threads": 1} | options
    data = in_blocks(matrix, options.pop("chunk_rows"), options.pop("threads"))
    return principal_components(data, k, device=CPU, **options)


def sine(first: np.ndarray, second: np.ndarray) -> float:
    """Of the largest angle between the spans of orthonormal columns."""
    return float(np.linalg.norm(second - first @ (first.T @ second), 2))


@pytest.mark.parametrize("standardise", [False, True])
def test_components_are_those_of_a_singular_value_decomposition(
    tmp_path: Path, standardise: bool
) -> None:
    matrix = slow_decay()
    paths = [tmp_path / f"{layer}.npy" for layer in range(3)]
    for path, block in zip(paths, np.split(matrix, np.cumsum(WIDTHS)[:-1], axis=1), strict=True):
        np.save(path, block)
    data = Activations([np.load(path, mmap_mode="r") for path in paths], 64)
    found = principal_components(data, 10, standardise, 0, CPU)
    whole = dense(matrix, standardise)
    left, values, right = np.linalg.svd(whole, full_matrices=False)
    basis, scores = found.components, found.scores
    assert found.converged
    assert sine(right[:10].T, basis) < 2 * principal.TOLERANCE
    assert sine(left[:, :10], scores / np.linalg.norm(scores, axis=0)) < 2 * principal.TOLERANCE
    np.testing.assert_allclose(np.sqrt(found.eigenvalues), values[:10], rtol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(scores, axis=0), values[:10], rtol=1e-4)
    np.testing.assert_allclose(basis.T @ basis, np.eye(10), atol=1e-5)
    np.testing.assert_allclose(scores, whole @ basis, atol=1e-4 * values[0])
    assert found.data.sum_of_squares == pytest.approx((values**2).sum(), rel=1e-5)
    assert scores.dtype == basis.dtype == np.float32


def test_chunks_of_any_size_give_the_same_components() -> None:
    matrix = slow_decay()
    reference = components(matrix, chunk_rows=len(matrix))
    for rows in (1, 7, 599, 5_000, None):
        found = components(matrix, chunk_rows=rows)
        assert found.passes == reference.passes
        np.testing.assert_allclose(found.eigenvalues, reference.eigenvalues, rtol=1e-5)
        np.testing.assert_allclose(
            np.abs((found.components * reference.components).sum(axis=0)), 1, atol=1e-5
        )


def test_threads_share_the_tokens_and_change_rounding_alone() -> None:
    matrix = slow_decay()
    reference = components(matrix, threads=1)
    data = in_blocks(matrix, 64, threads=3)
    parts = data.each_part(lambda tokens: (tokens, torch.get_num_threads()), CPU)
    assert parts == [(range(0, 200), 1), (range(200, 400), 1), (range(400, 600), 1)]
    assert data.each_part(len, torch.device("meta")) == [600]
    assert in_blocks(matrix, 300, threads=3).each_part(len, CPU) == [300, 300]
    for threads in (2, 3, 50):
        found, again = (components(matrix, threads=threads) for _ in range(2))
        assert found.scores.tobytes() == again.scores.tobytes()
        np.testing.assert_allclose(found.eigenvalues, reference.eigenvalues, rtol=1e-5)


def test_no_more_than_one_chunk_is_in_memory() -> None:
    data = in_blocks(slow_decay(), 64)
    chunks = list(data.chunks(torch.zeros(sum(WIDTHS)), range(10, 600)))
    assert len({chunk.data_ptr() for _, chunk in chunks}) == 1
    assert [len(chunk) for _, chunk in chunks] == [64] * 9 + [14]
    assert [tokens.start for tokens, _ in chunks] == list(range(10, 600, 64))


def test_moments_and_sketch_are_exact_far_from_zero_and_with_an_outlier_first() -> None:
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((500, 240)).astype(np.float32) + 3_000
    matrix[0] = -30_000
    matrix[:, 17] = 0.1  # not a float16, and 500 of them do not sum to 50
    directions = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
    directions -= directions.mean(dim=0)
    found, sketch = standardised(in_blocks(matrix), True, directions, CPU)
    whole = matrix.astype(np.float64)
    deviations = np.delete(whole.std(axis=0), 17)
    distances = np.delete(found.mean.numpy() - whole.mean(axis=0), 17)
    assert np.abs(distances / deviations).max() < 1e-5
    assert found.scale[17] == 0
    np.testing.assert_allclose(np.delete(found.scale.numpy(), 17), 1 / deviations, rtol=1e-5)
    assert found.sum_of_squares == pytest.approx(239 * 500, rel=1e-5)
    expected = dense(matrix, True).T @ directions.numpy()
    np.testing.assert_allclose(
        np.delete(sketch.numpy(), 17, 0), np.delete(expected, 17, 0), atol=0.02
    )
    assert not sketch[17].any()


@pytest.mark.parametrize("standardise", [False, True])
def test_constant_channels_take_no_part(standardise: bool) -> None:
    matrix = slow_decay()
    matrix[:, [3, 71, 239]] = (0, 7, -0.1)
    found = components(matrix, standardise=standardise)
    assert np.flatnonzero(found.data.scale == 0).tolist() == [3, 71, 239]
    assert np.abs(found.components[[3, 71, 239]]).max() < 1e-7
    kept = np.delete(matrix, [3, 71, 239], axis=1)
    values = np.linalg.svd(dense(kept, standardise), compute_uv=False)
    np.testing.assert_allclose(np.sqrt(found.eigenvalues), values[:10], rtol=1e-4)


@pytest.mark.parametrize("passes", [1, 2])
def test_the_residual_is_what_it_says_before_convergence_too(
    monkeypatch: pytest.MonkeyPatch, passes: int
) -> None:
    monkeypatch.setattr(principal, "MAX_PASSES", passes)
    matrix = slow_decay()
    found = components(matrix)
    whole = dense(matrix, True)
    basis, values = found.components.astype(np.float64), found.eigenvalues
    errors = np.linalg.norm(whole.T @ (whole @ basis) - basis * values, axis=0) / values
    assert found.passes == passes
    assert not found.converged
    assert found.residual == pytest.approx(errors.max(), rel=1e-3)


def test_a_krylov_space_needs_fewer_passes_than_repeated_multiplication(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Subspace iteration keeps its newest block alone."""
    monkeypatch.setattr(principal, "TOLERANCE", 1e-4)
    matrix = slow_decay()
    found = components(matrix)
    whole = dense(matrix, True)
    exact = np.linalg.svd(whole, full_matrices=False)[2][:10].T
    block = np.random.default_rng(0).standard_normal((240, 32))
    for _ in range(found.passes):
        block = np.linalg.qr(whole.T @ (whole @ block))[0]
    right = np.linalg.svd(whole @ block, full_matrices=False)[2][:10].T
    assert sine(exact, block @ right) > 10 * sine(exact, found.components)


@pytest.mark.parametrize(("n_tokens", "k"), [(6, 5), (6, 1), (41, 40), (241, 240)])
def test_a_space_that_is_exhausted_is_exact(n_tokens: int, k: int) -> None:
    matrix = slow_decay(n_tokens)
    found = components(matrix, k)
    values = np.linalg.svd(dense(matrix, True), compute_uv=False)
    np.testing.assert_allclose(np.sqrt(found.eigenvalues), values[:k], rtol=1e-3)
    assert found.residual < principal.TOLERANCE


@pytest.mark.parametrize("strongest", [1, 1_000])
def test_the_whole_space_is_exact_after_as_many_passes_as_it_has_blocks(
    monkeypatch: pytest.MonkeyPatch, strongest: int
) -> None:
    """14 blocks of 16 and one of 10: bases that are not orthogonal would find values twice."""
    monkeypatch.setattr(principal, "TOLERANCE", -1.0)
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.standard_normal((n, 235)))[0] for n in (235, 240))
    scale = np.arange(1, 236) ** -0.7
    scale[0] = strongest
    matrix = ((left * scale) @ right.T).astype(np.float32)
    found = components(matrix, 8, standardise=False)
    values = np.linalg.svd(dense(matrix, False), compute_uv=False)[:8]
    assert (found.passes, found.residual) == (15, 0)
    np.testing.assert_allclose(np.sqrt(found.eigenvalues), values, rtol=1e-4)
    np.testing.assert_allclose(found.components.T @ found.components, np.eye(8), atol=1e-5)


def test_the_seed_is_the_sketchs_and_changes_no_component() -> None:
    matrix = slow_decay()
    first, second = components(matrix, seed=0), components(matrix, seed=1)
    assert first.scores.tobytes() != second.scores.tobytes()
    np.testing.assert_allclose(first.eigenvalues, second.eigenvalues, rtol=1e-4)


def of_rank(rank: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    return (rng.standard_normal((300, rank)) @ rng.standard_normal((rank, 240))).astype(np.float32)


@pytest.mark.parametrize("tolerance", [5e-3, -1.0])
@pytest.mark.parametrize("rank", [4, 20])
def test_data_of_low_rank_have_no_ghosts(
    monkeypatch: pytest.MonkeyPatch, rank: int, tolerance: float
) -> None:
    """Columns that are rounding alone are orthogonal too, else a direction is found twice."""
    monkeypatch.setattr(principal, "TOLERANCE", tolerance)
    found = components(of_rank(rank), 4, standardise=False)
    values = np.linalg.svd(dense(of_rank(rank), False), compute_uv=False)[:4]
    np.testing.assert_allclose(np.sqrt(found.eigenvalues), values, rtol=1e-4)
    with pytest.raises(InputError, match=f"n_components: expected at most {rank}, .* found 22;"):
        components(of_rank(rank), 22, standardise=False)


@pytest.mark.parametrize(
    ("value", "column", "block", "channel"),
    [(np.nan, 69, 0, 69), (np.inf, 70, 1, 0), (-np.inf, 239, 2, 119)],
)
def test_a_value_that_is_not_finite_is_found_in_its_block(
    value: float, column: int, block: int, channel: int
) -> None:
    matrix = slow_decay()
    matrix[500, column] = value
    with pytest.raises(InputError, match=f"or infinity in block {block}, channel {channel};"):
        components(matrix)


def test_too_many_components_and_constant_data_are_bad_input() -> None:
    matrix = slow_decay(8)
    with pytest.raises(InputError, match="expected at most 7, .* 8 tokens .* found 8"):
        components(matrix, 8)
    matrix = slow_decay()
    matrix[:, 5:] = 1
    with pytest.raises(InputError, match="expected at most 5, .* 240 channels, found 6"):
        components(matrix, 6)
    with pytest.raises(InputError, match="expected channels that vary, found 240 constant ones"):
        components(np.ones((50, 240), np.float16))
    with pytest.raises(InputError, match=r"expected blocks of as many tokens, found \[4, 5\]"):
        Activations([np.zeros((4, 2)), np.zeros((5, 2))])


@pytest.fixture(autouse=True)
def threads_of_torch() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
