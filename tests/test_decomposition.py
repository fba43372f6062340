"""Networks of activations: planted ones recovered, and each part against a slow reference."""

import itertools
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from threadpoolctl import threadpool_info, threadpool_limits

from fnsft.errors import InputError
from fnsft.neurons.decomposition import (
    Activations,
    Decomposition,
    NetworksDidNotConverge,
    decompose,
)
from fnsft.neurons.decomposition.independent import FastIca, Run, White, resampled_runs, whitened
from fnsft.neurons.decomposition.networks import _signs
from fnsft.neurons.decomposition.principal import principal_components
from fnsft.neurons.decomposition.stability import stability
from fnsft.neurons.decomposition.thresholds import network_members

CPU = torch.device("cpu")
BASIC: dict[str, Any] = {
    "n_components": 4,
    "independent": "tokens",
    "standardise": False,
    "restarts": 3,
    "max_iterations": 400,
    "tolerance": 1e-4,
    "threshold": "percentile",
    "percentile": 90.0,
    "z": 1.96,
    "seed": 0,
}


class Planted(NamedTuple):
    """Activity [T, K], loadings [K, F], and their product with noise, float16 [T, F]."""

    activity: np.ndarray
    loadings: np.ndarray
    values: np.ndarray


def planted(
    n_tokens: int = 3_000, overlap: int = 0, seed: int = 0, absent: int | None = None
) -> Planted:
    """Four networks of 40 of 200 channels; ``overlap`` of each are the next network's, too."""
    rng = np.random.default_rng((seed, overlap))
    loadings = np.zeros((4, 200))
    for network in range(4):
        first = network * (40 - overlap)
        # The same in every data set.
        strengths = np.random.default_rng(network).uniform(0.7, 1.3, 40)
        loadings[network, first : first + 40] = strengths * (1.6 - 0.2 * network)
    activity = rng.laplace(size=(n_tokens, 4))
    if absent is not None:
        activity[:, absent] = 0
    noise = 0.3 * rng.standard_normal((n_tokens, 200))
    offsets = rng.uniform(-5, 5, 200)
    return Planted(activity, loadings, (activity @ loadings + noise + offsets).astype(np.float16))


def sparse(overlap: int = 0) -> Planted:
    """Gaussian activity, which ICA over tokens cannot tell apart; loadings that are sparse."""
    rng = np.random.default_rng(3)
    activity = rng.standard_normal((400, 4))
    loadings = rng.laplace(size=(4, 2_000)) * (rng.random((4, 2_000)) < 0.3)
    loadings[1:, :overlap] = loadings[0, :overlap]
    values = activity @ loadings + 0.1 * rng.standard_normal((400, 2_000)) + 2
    return Planted(activity, loadings, values.astype(np.float16))


def blocks(values: np.ndarray) -> Activations:
    return Activations(np.split(values, [70, 130], axis=1), 256)


def run(*matrices: np.ndarray, **settings: Any) -> Decomposition:
    return decompose([blocks(matrix) for matrix in matrices], **BASIC | settings)


def partners(found: np.ndarray, expected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """|corr| of each expected row with its partner among those found, and the partners."""
    n = len(found)
    table = np.abs(np.corrcoef(found, expected)[:n, n:])
    rows, columns = linear_sum_assignment(table, maximize=True)
    order = np.argsort(columns)
    return table[rows, columns][order], rows[order]


@pytest.mark.parametrize("standardise", [False, True])
@pytest.mark.parametrize("overlap", [0, 15])
def test_planted_networks_over_tokens_are_recovered(overlap: int, standardise: bool) -> None:
    data = planted(overlap=overlap)
    found = run(data.values, standardise=standardise)
    deviations = data.values.astype(np.float64).std(axis=0) if standardise else 1
    likeness, partner = partners(found.loadings, data.loadings / deviations)
    assert likeness.min() > 0.99
    assert found.converged.all()
    assert found.stability.min() > 0.95
    np.testing.assert_array_equal(found.members.sum(axis=1), 20)
    for network, number in enumerate(partner):
        assert (data.loadings[network, found.members[number]] > 0).all()
    if overlap == 0:
        likeness, same = partners(found.time_courses.T, data.activity.T)
        assert likeness.min() > 0.99
        assert same.tolist() == partner.tolist()


@pytest.mark.parametrize("overlap", [0, 15])
def test_planted_networks_over_neurons_are_recovered(overlap: int) -> None:
    data = sparse(overlap)
    found = decompose([Activations([data.values])], **BASIC | {"independent": "neurons"})
    assert partners(found.loadings, data.loadings)[0].min() > 0.99
    assert found.stability.min() > 0.9
    np.testing.assert_allclose(found.loadings.std(axis=1), 1, rtol=1e-4)


def test_loadings_over_tokens_are_covariances_with_sources_of_unit_variance() -> None:
    """X projected on the found loadings gives the sources; each entry by its definition."""
    data = planted()
    found = run(data.values)
    centred = data.values.astype(np.float64) - data.values.astype(np.float64).mean(axis=0)
    loadings = found.loadings.astype(np.float64)
    sources = centred @ loadings.T @ np.linalg.inv(loadings @ loadings.T)
    np.testing.assert_allclose(np.cov(sources.T, ddof=0), np.eye(4), atol=1e-3)
    np.testing.assert_allclose(sources.T @ centred / len(centred), loadings, atol=1e-3)


@pytest.mark.parametrize("independent", ["tokens", "neurons"])
def test_the_shares_of_variance_are_those_of_each_networks_own_part(independent: str) -> None:
    data = planted(overlap=15)
    single = run(data.values, independent=independent, n_components=1)
    found = run(data.values, independent=independent)
    centred = data.values.astype(np.float64) - data.values.astype(np.float64).mean(axis=0)
    loadings = found.loadings.astype(np.float64)
    activity = centred @ np.linalg.pinv(loadings)
    expected = [
        (np.outer(activity[:, k], loadings[k]) ** 2).sum() / (centred**2).sum() for k in range(4)
    ]
    np.testing.assert_allclose(found.variance_share, expected, rtol=1e-3)
    assert (np.diff(found.variance_share) <= 0).all()
    values = np.linalg.svd(centred, compute_uv=False) ** 2
    assert single.variance_share == pytest.approx(values[:1] / values.sum(), rel=1e-4)
    if independent == "tokens":
        assert found.variance_share.sum() == pytest.approx(values[:4].sum() / values.sum())


def test_a_network_that_a_data_set_lacks_is_found_and_less_reproducible() -> None:
    parts = [planted(seed=1), planted(2_000, seed=2), planted(seed=3, absent=2)]
    found = run(*(part.values for part in parts))
    likeness, partner = partners(found.loadings, parts[0].loadings)
    assert likeness.min() > 0.99
    assert found.reproducibility is not None
    shared = found.reproducibility[np.delete(partner, 2)]
    assert shared.min() > 0.97
    assert found.reproducibility[partner[2]] == pytest.approx(2 / 3, abs=0.03)
    assert found.time_courses.shape == (8_000, 4)
    activity = np.concatenate([part.activity for part in parts])
    assert partners(found.time_courses.T, activity.T)[0].min() > 0.99


@pytest.mark.filterwarnings("ignore::fnsft.neurons.decomposition.NetworksDidNotConverge")
@pytest.mark.parametrize("independent", ["tokens", "neurons"])
def test_reproducibility_is_the_share_of_loadings_within_the_data_sets_components(
    independent: str,
) -> None:
    parts = [planted(seed=1, overlap=15).values, planted(seed=3, absent=2, overlap=15).values]
    found = run(*parts, independent=independent)
    loadings = found.loadings.astype(np.float64)
    loadings /= np.linalg.norm(loadings, axis=1, keepdims=True)
    shares = []
    for part in parts:
        basis = principal_components(blocks(part), 4, False, 0, CPU).components
        shares.append(((loadings @ basis) ** 2).sum(axis=1))
    assert found.reproducibility is not None
    np.testing.assert_allclose(found.reproducibility, np.mean(shares, axis=0), atol=1e-4)


def test_a_data_set_twice_has_the_networks_that_it_has_once() -> None:
    data = planted(overlap=15)
    once, twice = run(data.values), run(data.values, data.values)
    assert once.reproducibility is None
    np.testing.assert_allclose(twice.reproducibility, 1, atol=1e-5)
    np.testing.assert_allclose(twice.loadings, once.loadings, atol=1e-2)
    np.testing.assert_allclose(twice.variance_share, once.variance_share, rtol=1e-2)
    np.testing.assert_allclose(twice.time_courses, np.tile(once.time_courses, (2, 1)), atol=1e-2)


def test_each_data_set_is_centred_by_itself() -> None:
    """Data sets far apart: their distance is no network."""
    first, second = planted(seed=1), planted(seed=2)
    moved = second.values + np.random.default_rng(0).uniform(0, 50, 200).astype(np.float16)
    found = run(first.values, moved, standardise=True)
    assert found.reproducibility is not None
    assert found.reproducibility.min() > 0.97


def test_a_channel_is_constant_when_it_is_in_every_data_set() -> None:
    first, second = planted(seed=1).values, planted(seed=2).values
    first[:, [4, 5]] = 0.1
    second[:, [5, 6]] = 7
    for settings in ({}, {"independent": "neurons"}, {"threshold": "z", "z": 1e-3}):
        found = run(first, second, standardise=True, **settings)
        assert found.constant == 1
        assert np.flatnonzero(~found.loadings.any(axis=0)).tolist() == [5]
        assert not found.members[:, 5].any()


def test_constant_channels_change_no_others_loadings() -> None:
    for data, independent in ((planted(), "tokens"), (sparse(), "neurons")):
        n_tokens, n_channels = data.values.shape
        padded = np.full((n_tokens, 2 * n_channels), 0.1, dtype=np.float16)
        varying = np.random.default_rng(0).permutation(2 * n_channels)[:n_channels]
        padded[:, varying] = data.values
        settings = BASIC | {"independent": independent, "tolerance": 1e-8}
        plain = decompose([Activations([data.values])], **settings)
        found = decompose([Activations([padded])], **settings)
        assert (plain.constant, found.constant) == (0, n_channels)
        np.testing.assert_allclose(found.loadings[:, varying], plain.loadings, atol=0.01)


def test_networks_that_are_noise_are_told_from_others_of_the_same_data() -> None:
    rng = np.random.default_rng(1)
    activity = rng.standard_normal((3_000, 8))
    activity[:, ::2] = rng.laplace(size=(3_000, 4)) / np.sqrt(2)
    loadings = np.linalg.qr(rng.standard_normal((200, 8)))[0].T * np.linspace(20, 10, 8)[:, None]
    values = activity @ loadings + 0.3 * rng.standard_normal((3_000, 200))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NetworksDidNotConverge)
        found = run(values.astype(np.float16), n_components=8, restarts=6)
    likeness, partner = partners(found.loadings, loadings)
    assert likeness[::2].min() > 0.99
    real = partner[::2]
    assert real.tolist() != list(range(4))
    assert found.stability[real].min() > 0.9
    assert np.delete(found.stability, real).max() < 0.75


def test_gaussian_data_are_less_stable_than_planted_networks() -> None:
    """Starts alone all find the same 8 components of this noise: the resamples tell."""
    noise = np.random.default_rng(0).standard_normal((3_000, 200)).astype(np.float16)
    settings = {"restarts": 6, "n_components": 8}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NetworksDidNotConverge)
        chance = run(noise, **settings)
    rng = np.random.default_rng(1)
    mixed = rng.laplace(size=(3_000, 8)) @ rng.standard_normal((8, 200)) + 0.3 * noise
    real = run(mixed.astype(np.float16), **settings)
    assert real.stability.min() > 0.9
    assert chance.stability.max() < 0.7


def test_the_stability_index_by_its_definition() -> None:
    rng = np.random.default_rng(5)
    runs = np.linalg.qr(rng.standard_normal((4, 3, 3)))[0]
    found = stability(runs, np.array([True, False, True, True]))

    def match(first: int, second: int) -> tuple[float, tuple[int, ...]]:
        table = np.abs(runs[first] @ runs[second].T)
        return max(
            (sum(table[k, order[k]] for k in range(3)), order)
            for order in itertools.permutations(range(3))
        )

    totals = [sum(match(run, other)[0] for other in range(4)) for run in (0, 2, 3)]
    assert found.reference == (0, 2, 3)[int(np.argmax(totals))]
    clusters = [
        [(run, match(found.reference, run)[1][network]) for run in range(4)] for network in range(3)
    ]
    for network, members in enumerate(clusters):
        others = [m for other in clusters if other is not members for m in other]
        inside = [abs(runs[a] @ runs[b]) for a in members for b in members if a != b]
        outside = [abs(runs[a] @ runs[b]) for a in members for b in others]
        assert found.index[network] == pytest.approx(np.mean(inside) - np.mean(outside))


@pytest.mark.filterwarnings("error")
def test_runs_that_differ_in_sign_and_order_alone_are_stable() -> None:
    rng = np.random.default_rng(0)
    first = np.linalg.qr(rng.standard_normal((5, 5)))[0]
    runs = np.array([first, -first[[3, 1, 0, 4, 2]], first[::-1]])
    np.testing.assert_allclose(stability(runs, np.ones(3, bool)).index, 1)
    assert np.isnan(stability(runs[:1], np.ones(1, bool)).index).all()
    assert stability(runs[:, :1, :1] / runs[:, :1, :1], np.ones(3, bool)).index == 1


def test_a_run_that_did_not_converge_is_no_reference_unless_none_did() -> None:
    rng = np.random.default_rng(0)
    odd, common = np.linalg.qr(rng.standard_normal((2, 5, 5)))[0]
    runs = np.array([odd, common, common])
    assert stability(runs, np.array([True, False, False])).reference == 0
    assert stability(runs, np.array([False, False, True])).reference == 2
    assert stability(runs, np.zeros(3, bool)).reference == 1


@pytest.mark.parametrize("max_iterations", [400, 2])
def test_both_paths_of_fast_ica_take_the_same_steps(max_iterations: int) -> None:
    white = whitened(planted(overlap=15).activity ** 3).values
    ica = FastIca(max_iterations, 1e-6, CPU)
    for seed in range(3):
        start = np.random.default_rng(seed).standard_normal((4, 4))
        ours, theirs = ica.with_torch(white, start), ica.with_scikit_learn(white, start)
        assert ours.converged == theirs.converged == (max_iterations == 400)
        assert ours.iterations == theirs.iterations
        np.testing.assert_allclose(ours.unmixing, theirs.unmixing, atol=1e-9)


def test_a_device_that_is_not_the_cpu_takes_the_torch_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken = []
    monkeypatch.setattr(FastIca, "with_torch", lambda *_: taken.append("torch"))
    FastIca(2, 1e-6, torch.device("meta")).run(np.eye(2), np.eye(2))
    assert taken == ["torch"]


def test_runs_on_resamples_find_the_sources_of_all_samples() -> None:
    """|w · w'| is the correlation of the sources, also of W that saw other samples."""
    white = whitened(planted().activity).values
    runs = resampled_runs(FastIca(400, 1e-4, CPU), white, 2, seed=0)
    first, second = (white @ run.unmixing.T for run in runs)
    expected = np.corrcoef(first.T, second.T)[:4, 4:]
    np.testing.assert_allclose(runs[0].unmixing @ runs[1].unmixing.T, expected, atol=1e-9)
    assert (np.abs(expected).max(axis=1) > 0.99).all()
    assert not np.allclose(np.abs(expected).max(axis=1), 1, atol=1e-6), "not resampled"
    other = resampled_runs(FastIca(400, 1e-4, CPU), white, 1, seed=1)
    assert not np.array_equal(other[0].unmixing, runs[0].unmixing)


@pytest.mark.filterwarnings("ignore::fnsft.neurons.decomposition.NetworksDidNotConverge")
def test_a_resample_that_lacks_a_direction_is_survived() -> None:
    """A network of one token, which is not in every resample, and hardly more tokens than K."""
    values = np.zeros((40, 200), dtype=np.float32)
    values[7, :5] = 100
    values[:, 5:] = np.random.default_rng(0).laplace(size=(40, 195))
    found = run(values, restarts=8)
    assert np.isfinite(found.stability).all()
    assert found.loadings[0, :5].min() > 10
    few = run(values[:5], n_components=4)
    assert np.isfinite(few.loadings).all()


def test_white_samples_are_white_and_colour_back_into_the_samples() -> None:
    samples = np.random.default_rng(0).standard_normal((50, 3)) @ np.diag([9, 1, 0.1]) + 4
    white = whitened(samples)
    np.testing.assert_allclose(white.values.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(white.values.T @ white.values / 50, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(white.values @ white.colouring + samples.mean(axis=0), samples)
    samples[:, 1] = 0
    assert np.isfinite(np.linalg.inv(whitened(samples).colouring)).all()


def test_signs_are_those_of_the_third_moment_or_else_of_the_largest_loading() -> None:
    data = planted()
    found = run(data.values)
    assert ((found.loadings.astype(np.float64) ** 3).sum(axis=1) > 0).all()
    flipped = run(-data.values)
    np.testing.assert_allclose(flipped.loadings, found.loadings, atol=1e-3)
    np.testing.assert_allclose(flipped.time_courses, -found.time_courses, atol=1e-2)
    balanced = np.concatenate([data.values[:, :100], -data.values[:, :100]], axis=1)
    for values in (balanced, -balanced):
        loadings = run(values, n_components=2).loadings.astype(np.float64)
        np.testing.assert_allclose(loadings[:, :100], -loadings[:, 100:], atol=1e-5)


def test_a_symmetric_network_has_its_largest_loading_positive() -> None:
    """8 = 2³ channels against one of twice their loading; the cubes leave rounding alone."""
    symmetric = np.array([[2.0, *[-1] * 8], [-2, *[1] * 8]])
    for rounding in (-1e-8, 0, 1e-8):
        assert _signs(symmetric + rounding).tolist() == [1, -1]
    assert _signs(symmetric + 0.1).tolist() == [1, 1]


@pytest.mark.parametrize("independent", ["tokens", "neurons"])
def test_the_same_seed_gives_the_same_bits(independent: str) -> None:
    data = planted(overlap=15).values

    def as_bytes(seed: int) -> bytes:
        found = vars(run(data, data[:2_000], independent=independent, seed=seed))
        return b"".join(np.asarray(part).tobytes() for part in found.values())

    first = as_bytes(0)
    assert as_bytes(0) == first
    assert as_bytes(1) != first


@pytest.mark.parametrize(("n_channels", "percentile"), [(200, 98.0), (333, 97.3), (50, 0.0)])
def test_a_percentile_takes_exactly_its_share(n_channels: int, percentile: float) -> None:
    loadings = np.random.default_rng(0).standard_normal((3, n_channels)).astype(np.float32)
    varying = np.ones(n_channels, bool)
    members = network_members(loadings, varying, "percentile", percentile, 0)
    count = round((1 - percentile / 100) * n_channels)
    assert members.sum(axis=1).tolist() == [count] * 3
    for row, chosen in zip(np.abs(loadings), members, strict=True):
        assert row[chosen].min() > max(row[~chosen], default=0)


def test_of_equal_loadings_the_first_are_members_and_constant_channels_never() -> None:
    loadings = np.array([[1, -2, 2, 2, 0, -2, 1, 0, 0, 0]], dtype=np.float32)
    varying = np.array([1, 0, 1, 1, 1, 1, 1, 1, 1, 1], dtype=bool)
    for percentile, expected in [(90, [2]), (80, [2, 3]), (70, [2, 3, 5]), (60, [0, 2, 3, 5])]:
        members = network_members(loadings, varying, "percentile", percentile, 0)
        assert np.flatnonzero(members[0]).tolist() == expected
    assert network_members(loadings, varying, "percentile", 0, 0).tolist() == [varying.tolist()]
    alike, varying = np.tile([[1, 2]], 150), np.arange(300) >= 100
    members = network_members(alike, varying, "percentile", 90, 0)
    assert np.flatnonzero(members[0]).tolist() == list(range(101, 161, 2)), "a tenth of all 300"


def test_z_is_over_the_channels_that_vary() -> None:
    rng = np.random.default_rng(2)
    loadings = (rng.standard_normal((4, 300)) ** 3 + 5).astype(np.float32)
    varying = rng.random(300) < 0.7
    loadings[:, ~varying] = 0
    members = network_members(loadings, varying, "z", 0, 1.96)
    for row, chosen in zip(loadings, members, strict=True):
        kept = [float(value) for value, varies in zip(row, varying, strict=True) if varies]
        mean = sum(kept) / len(kept)
        deviation = (sum((value - mean) ** 2 for value in kept) / len(kept)) ** 0.5
        far = [abs(value - mean) / deviation > 1.96 for value in row]
        assert chosen.tolist() == [bool(f and v) for f, v in zip(far, varying, strict=True)]
        assert 0 < chosen.sum() < 30


def test_a_threshold_that_no_channel_reaches_leaves_networks_empty() -> None:
    found = run(planted().values, threshold="z", z=50.0)
    assert not found.members.any()
    assert not found.time_courses.any()


@pytest.mark.parametrize("standardise", [False, True])
def test_time_courses_are_signed_means_over_members(standardise: bool) -> None:
    parts = [planted(seed=1, overlap=15).values[:500], planted(seed=2, overlap=15).values[:300]]
    for part in parts:
        part[:, ::2] *= -1
    found = run(*parts, standardise=standardise)
    assert (found.loadings[found.members] < 0).any()
    whole = []
    for part in parts:
        centred = part.astype(np.float64) - part.astype(np.float64).mean(axis=0)
        whole.append(centred / centred.std(axis=0) if standardise else centred)
    activations = np.concatenate(whole)
    for network, members in enumerate(found.members):
        signs = np.sign(found.loadings[network, members])
        expected = (activations[:, members] * signs).mean(axis=1)
        np.testing.assert_allclose(found.time_courses[:, network], expected, atol=1e-4)


def test_runs_that_do_not_converge_are_warned_of_once_and_recorded() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = run(planted().values, max_iterations=2, tolerance=1e-9)
    assert not found.converged.any()
    assert sorted(found.iterations) == [2, 2, 4]
    assert [warning.category for warning in caught] == [NetworksDidNotConverge]
    assert "3 of 3 starts of FastICA did not converge in 2 iterations" in str(caught[0].message)
    assert caught[0].filename == __file__


def test_the_last_run_counts_with_the_start_that_it_goes_on_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs: list[Run] = []

    def spied(ica: FastIca, white: np.ndarray, start: np.ndarray) -> Run:
        run = ica.with_scikit_learn(white, start)
        runs.append(replace(run, converged=len(runs) < 3))
        return runs[-1]

    monkeypatch.setattr(FastIca, "run", spied)
    with pytest.warns(NetworksDidNotConverge, match="1 of 3 starts of FastICA"):
        found = run(planted().values)
    reference = int(np.flatnonzero(~found.converged)[0])
    expected = [run.iterations for run in runs[:3]]
    expected[reference] += runs[3].iterations
    assert found.iterations.tolist() == expected


def test_all_but_the_passes_is_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(2)
    inside = set()

    def spied(samples: np.ndarray) -> White:
        libraries = [one for one in threadpool_info() if one["user_api"] == "blas"]
        inside.update(one["num_threads"] for one in libraries)
        inside.add(torch.get_num_threads())
        return whitened(samples)

    monkeypatch.setattr("fnsft.neurons.decomposition.networks.whitened", spied)
    data = blocks(planted().values)
    assert (data.threads, data.each_part(lambda _: torch.get_num_threads(), CPU)) == (2, [1, 1])
    with threadpool_limits(2, user_api="blas"):
        decompose([data], **BASIC)
        assert torch.get_num_threads() == 2
    assert inside == {1}


def test_principal_components_that_do_not_converge_are_warned_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fnsft.neurons.decomposition.principal.MAX_PASSES", 1)
    noise = np.random.default_rng(0).laplace(size=(900, 200)).astype(np.float16)
    message = r"principal components of 2 of 2 data sets did not converge in 1 passes \(residual"
    with pytest.warns(NetworksDidNotConverge, match=message):
        run(noise, noise[:500])


@pytest.mark.parametrize("n_datasets", [1, 2])
def test_the_passes_are_those_over_the_data(
    monkeypatch: pytest.MonkeyPatch, n_datasets: int
) -> None:
    begun = []
    chunks = Activations.chunks

    def counted(data: Activations, *arguments: Any) -> Iterator[tuple[slice, torch.Tensor]]:
        begun.append(data.n_tokens)
        return chunks(data, *arguments)

    monkeypatch.setattr(Activations, "chunks", counted)
    found = run(*[planted(1_000 + seed, seed=seed).values for seed in range(n_datasets)])
    counts = [begun.count(1_000 + seed) for seed in range(n_datasets)]
    assert found.passes == max(counts)


def test_bad_input_is_refused_for_any_data_set() -> None:
    data = planted().values
    with pytest.raises(InputError, match="n_components: expected at most 3, .* found 4; lower it"):
        run(data, data[:4])
    broken = data.copy()
    broken[9, 133] = np.nan
    with pytest.raises(InputError, match="NaN or infinity in block 2, channel 3;"):
        run(data, broken)
    with pytest.raises(InputError, match="expected channels that vary, found 200 constant ones"):
        run(np.ones_like(data))


@pytest.fixture(autouse=True)
def threads_of_torch() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
