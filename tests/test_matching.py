"""Networks matched with networks, and compared with clusters: planted, by chance, by definition."""

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fnsft.artifacts.clusters import Clusters, LayerClusters, write_clusters
from fnsft.artifacts.matches import Match, read_matches
from fnsft.artifacts.measures import Measure, read_measures
from fnsft.artifacts.networks import Analysis, Networks, read_networks, write_networks
from fnsft.artifacts.storage import read_json
from fnsft.cli.main import main
from fnsft.errors import InputError
from fnsft.neurons.matching import LayerNetworks, NetworkSet, match_networks, similarity
from fnsft.neurons.network_clusters import best_iou, compare_with_clusters, network_labels

WIDTHS = (50, 40, 60)


def networks_of(
    loadings: np.ndarray, groups: tuple[tuple[int, ...], ...] = ((0, 1, 2),), **fields: Any
) -> Networks:
    """Analyses of the groups of layers with the tenth of largest |loading| as members.

    ``loadings`` [K, Σ widths] are of all layers; each analysis takes its own.
    """
    starts = np.cumsum([0, *WIDTHS])
    analyses = []
    for group in groups:
        columns = np.concatenate([np.arange(starts[x], starts[x + 1]) for x in group])
        own = loadings[:, columns].astype(np.float32)
        k = len(own)
        analyses.append(
            Analysis(
                layers=group,
                loadings=own,
                members=np.abs(own) >= np.quantile(np.abs(own), 0.9, axis=1, keepdims=True),
                time_courses=np.zeros((4, k), np.float32),
                variance_share=np.zeros(k),
                stability=np.ones(k),
                converged=np.ones(1, bool),
                iterations=np.ones(1, np.int64),
            )
        )
    offsets = {"sample_offsets": np.array([0, 4]), "dataset_offsets": np.array([0, 4])}
    return Networks(
        **{"site": "intermediate", "widths": WIDTHS} | offsets | fields, analyses=analyses
    )


def random_loadings(k: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).laplace(size=(k, sum(WIDTHS)))


def sets(*networks: Networks) -> list[NetworkSet]:
    return [NetworkSet.of_networks(one) for one in networks]


def channels(members: np.ndarray) -> set[int]:
    return set(np.flatnonzero(members).tolist())


def test_similarities_are_those_of_their_definitions() -> None:
    loadings = random_loadings(4, 0), random_loadings(3, 1)
    networks = [networks_of(x) for x in loadings]
    found = similarity(*sets(*networks))
    members = [x.analyses[0].members for x in networks]
    for i, j in itertools.product(range(4), range(3)):
        a, b = channels(members[0][i]), channels(members[1][j])
        assert found.iou[i, j] == pytest.approx(len(a & b) / len(a | b))
        correlation = np.corrcoef(loadings[0][i], loadings[1][j])[0, 1]
        assert found.correlation[i, j] == pytest.approx(abs(correlation), abs=1e-6)


def test_analyses_of_other_layers_are_compared_where_both_have_values() -> None:
    """Three networks of layers 0 and 1 and three of layer 2, against three of layers 1 and 2."""
    one, other = random_loadings(3, 2), random_loadings(3, 3)
    first, second = networks_of(one, ((0, 1), (2,))), networks_of(other, ((1, 2),))
    found = similarity(*sets(first, second))
    for i, j in itertools.product(range(3), range(3)):
        for row, columns in ((i, slice(50, 90)), (3 + i, slice(90, 150))):
            expected = abs(np.corrcoef(one[i, columns], other[j, columns])[0, 1])
            assert found.correlation[row, j] == pytest.approx(expected, abs=1e-6)
        # Members in layers that the other does not have count in the union.
        a = channels(first.analyses[0].members[i])
        b = {50 + c for c in channels(second.analyses[0].members[j])}
        assert found.iou[i, j] == pytest.approx(len(a & b) / len(a | b))


def test_networks_without_a_common_layer_have_no_correlation_and_no_overlap() -> None:
    networks = networks_of(random_loadings(2, 4), ((0,), (1, 2)))
    found = similarity(*sets(networks, networks))
    assert np.isnan(found.correlation[:2, 2:]).all()
    assert (found.iou[:2, 2:] == 0).all()
    np.testing.assert_allclose(np.diag(found.correlation), 1, rtol=1e-6)


def test_a_permuted_copy_with_other_signs_is_matched_exactly() -> None:
    loadings = random_loadings(6, 5)
    order = np.array([3, 5, 0, 1, 4, 2])
    signs = np.array([1, -1, -1, 1, -1, 1])[:, None]
    matches = match_networks(
        *sets(networks_of(loadings), networks_of(3 * (signs * loadings)[order])), 9, 0
    )
    assert [match.first for match in matches] == list(range(6))
    assert [order[match.second] for match in matches] == list(range(6))
    for match in matches:
        assert match.iou == 1
        assert match.correlation == pytest.approx(1, rel=1e-6)
        assert match.iou_chance < 0.2
        assert match.correlation_chance is not None and match.correlation_chance < 0.3


def test_independent_sets_are_matched_at_chance() -> None:
    ious, chances, correlations, by_chance = [], [], [], []
    for seed in range(20):
        first, second = (networks_of(random_loadings(5, 2 * seed + n)) for n in range(2))
        for match in match_networks(*sets(first, second), 20, seed):
            ious.append(match.iou)
            chances.append(match.iou_chance)
            correlations.append(match.correlation)
            by_chance.append(match.correlation_chance)
    spread = np.std(ious) / len(ious) ** 0.5
    assert np.mean(chances) == pytest.approx(np.mean(ious), abs=3 * spread)
    spread = np.std(correlations) / len(correlations) ** 0.5
    assert np.mean(by_chance) == pytest.approx(np.mean(correlations), abs=3 * spread)


def test_chance_keeps_how_many_neurons_a_network_has_in_every_layer() -> None:
    """Both have all their members in one layer, where half of the neurons are in: IoU 1/3."""
    loadings = np.zeros((1, sum(WIDTHS)))
    loadings[0, :15] = 1
    networks = networks_of(loadings)
    networks.analyses[0].members[0] = np.arange(sum(WIDTHS)) < 25
    match = match_networks(*sets(networks, networks), 400, 0)[0]
    assert match.iou_chance == pytest.approx(1 / 3, abs=0.01)


def test_the_sum_of_iou_is_the_largest_of_all_assignments() -> None:
    first, second = sets(networks_of(random_loadings(4, 6)), networks_of(random_loadings(3, 7)))
    iou = similarity(first, second).iou
    best = max(
        sum(iou[row, column] for column, row in enumerate(rows))
        for rows in itertools.permutations(range(4), 3)
    )
    matches = match_networks(first, second, 1, 0)
    assert sum(match.iou for match in matches) == pytest.approx(best)
    assert len({match.first for match in matches}) == len({match.second for match in matches}) == 3


def test_which_set_is_named_first_changes_no_number() -> None:
    first, second = sets(networks_of(random_loadings(4, 6)), networks_of(random_loadings(3, 7)))
    one = match_networks(first, second, 5, 0)
    other = match_networks(second, first, 5, 0)
    swapped = [dataclasses.replace(m, first=m.second, second=m.first) for m in other]
    assert sorted(swapped, key=lambda m: m.first) == one


def test_sets_of_other_widths_and_of_outputs_with_neurons_are_refused() -> None:
    networks = networks_of(random_loadings(2, 0))
    first, output = sets(networks, dataclasses.replace(networks, site="output"))
    with pytest.raises(InputError, match="two sets of neurons or two of the MLP's output"):
        match_networks(first, output, 1, 0)
    assert len(match_networks(output, output, 1, 0)) == 2
    shorter = NetworkSet(first.numbers, first.layers[:2], of_output=False)
    with pytest.raises(InputError, match="3 layers of 40 or 50 or 60 and 2 of 40 or 50"):
        match_networks(first, shorter, 1, 0)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Networks of a model, others of another model of its shape, and the first's reversed."""
    loadings = random_loadings(3, 8)
    write_networks(tmp_path / "a.safetensors", networks_of(loadings), "one")
    write_networks(tmp_path / "b.safetensors", networks_of(random_loadings(4, 9)), "two")
    write_networks(tmp_path / "c.safetensors", networks_of(loadings[::-1]), "three")
    return tmp_path


def match_files(folder: Path, first: str, second: str) -> int:
    inputs = ["--first", str(folder / first), "--second", str(folder / second)]
    return main(["match", *inputs, "--output", str(folder / "m.jsonl"), "--permutations", "4"])


@pytest.mark.parametrize(
    ("first", "second", "correlated"),
    [
        ("a.safetensors", "c.safetensors", True),
        ("a.json", "c.safetensors", False),
        ("a.safetensors", "c.json", False),
        ("a.json", "c.json", False),
    ],
)
def test_the_stage_matches_tensors_and_json(
    files: Path, first: str, second: str, correlated: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert match_files(files, first, second) == 0
    matches = read_matches(files / "m.jsonl")
    assert [(m.first, m.second, m.iou) for m in matches] == [(0, 2, 1.0), (1, 1, 1.0), (2, 0, 1.0)]
    for match in matches:
        assert (match.correlation is None) == (match.correlation_chance is None) == (not correlated)
    line = capsys.readouterr().err
    assert "3 pairs of 3 and 3 networks; mean IoU 1.000" in line
    assert ("mean |correlation| 1.000" in line) == correlated
    assert read_json(files / "m.jsonl.manifest.json")["notes"] == {"networks": [3, 3], "matches": 3}


def test_a_set_of_more_networks_leaves_some_without_a_match(files: Path) -> None:
    assert match_files(files, "b.safetensors", "a.safetensors") == 0
    matches: list[Match] = read_matches(files / "m.jsonl")
    assert [match.second for match in sorted(matches, key=lambda m: m.second)] == [0, 1, 2]
    assert {match.first for match in matches} < {0, 1, 2, 3}


def test_files_that_cannot_be_matched_are_refused_in_one_line(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (files / "plain.json").write_text('{"0": [1, 2]}')
    bare = {"layout": {"hidden_size": 50}, "templates": {"0": {"0": [1, 2]}}}
    (files / "bare.json").write_text(json.dumps(bare))
    outputs = networks_of(random_loadings(2, 0), site="output")
    write_networks(files / "out.safetensors", outputs, "one")
    before = sorted(files.iterdir())
    for first, second, message in [
        ("a.safetensors", "missing.json", "missing.json: no such file"),
        ("plain.json", "plain.json", "expected one file that says its model's width"),
        ("a.safetensors", "bare.json", "bare.json: layout: expected a hidden_size of this model"),
        ("a.safetensors", "out.safetensors", "expected 0 layers of none (output)"),
    ]:
        assert match_files(files, first, second) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
        assert sorted(files.iterdir()) == before
    assert match_files(files, "plain.json", "a.safetensors") == 0


def layer_of(members: np.ndarray, z: np.ndarray | None = None) -> LayerNetworks:
    return LayerNetworks(np.arange(len(members)), members, z)


def rows(*sets_of_neurons: set[int], n: int = 10) -> np.ndarray:
    return np.array([[i in neurons for i in range(n)] for neurons in sets_of_neurons])


def test_a_neuron_is_of_the_network_it_is_in_where_its_loading_is_largest() -> None:
    members = rows({0, 1, 2}, {2, 3}, n=5)
    z = np.array([[1, 1, -2, 9, 9], [5, 5, 3, -1, 9]], np.float32)
    assert network_labels(layer_of(members, z)).tolist() == [0, 0, 1, 1, -1]
    assert network_labels(layer_of(members)).tolist() == [0, 0, 0, 1, -1]
    assert network_labels(layer_of(np.zeros((0, 3), bool))).tolist() == [-1] * 3


def test_loadings_are_standardised_over_all_channels_of_their_network() -> None:
    """Network 0 has large loadings everywhere, network 1 has a large one for its kind."""
    loadings = np.stack([10 * random_loadings(1, 0)[0], random_loadings(1, 1)[0]])
    loadings[:, 0] = 40, 20
    networks = networks_of(loadings)
    z = np.concatenate([layer.z for layer in NetworkSet.of_networks(networks).layers], axis=1)
    expected = (loadings - loadings.mean(1, keepdims=True)) / loadings.std(1, keepdims=True)
    np.testing.assert_allclose(z, expected, rtol=1e-5, atol=1e-6)
    assert abs(z[1, 0]) > abs(z[0, 0])


def test_the_best_iou_is_that_of_its_definition() -> None:
    rng = np.random.default_rng(0)
    members = rng.random((6, 40)) < 0.2
    labels = rng.integers(-1, 5, size=40)
    for network, found in zip(members, best_iou(members, labels), strict=True):
        a = channels(network)
        clusters = [channels(labels == c) for c in range(5)]
        assert found == pytest.approx(max(len(a & c) / len(a | c) for c in clusters))


def values(networks: LayerNetworks, labels: np.ndarray, permutations: int = 50) -> dict[str, Any]:
    found = compare_with_clusters(networks, labels, permutations, np.random.default_rng(0))
    return {finding.measure: finding for finding in found}


def test_networks_that_are_clusters_agree_wholly() -> None:
    labels = np.repeat([0, 1, 2, 3, -1], [40, 30, 20, 10, 5])
    members = np.stack([labels == cluster for cluster in (2, 0, 3, 1)])
    found = values(layer_of(members), labels)
    assert found["adjusted_rand_networks_clusters"].value == pytest.approx(1)
    assert found["adjusted_rand_networks_clusters"].n == 100
    assert found["best_iou_networks_clusters"].value == pytest.approx(1)
    assert found["best_iou_networks_clusters"].n == 4
    assert found["best_iou_chance"].value < 0.4


def test_networks_that_know_nothing_of_clusters_agree_as_by_chance() -> None:
    rands, ious, chances = [], [], []
    for seed in range(25):
        rng = np.random.default_rng(seed)
        labels = rng.permutation(np.repeat([0, 1, 2, -1], [100, 60, 60, 20]))
        loadings = rng.laplace(size=(5, 240))
        members = np.abs(loadings) >= np.quantile(np.abs(loadings), 0.9, axis=1, keepdims=True)
        members[:, labels == -1] = False  # neurons that never fire are in neither
        found = values(layer_of(members, loadings), labels, 20)
        rands.append(found["adjusted_rand_networks_clusters"].value)
        ious.append(found["best_iou_networks_clusters"].value)
        chances.append(found["best_iou_chance"].value)
    assert np.mean(rands) == pytest.approx(0, abs=3 * np.std(rands) / 5)
    assert np.mean(chances) == pytest.approx(np.mean(ious), abs=3 * np.std(ious) / 5)


def test_chance_permutes_labels_among_the_clustered_and_says_its_spread() -> None:
    """The network is all neurons that are in a cluster: no permutation changes its IoU."""
    labels = np.array([0, 0, 0, 1, 1, 1, 1, -1, -1, -1])
    found = values(layer_of(rows(set(range(7)))), labels)
    assert found["best_iou_networks_clusters"].value == pytest.approx(4 / 7)
    assert found["best_iou_chance"].value == pytest.approx(4 / 7)
    assert found["best_iou_chance"].stderr == pytest.approx(0, abs=1e-12)
    drawn = np.random.default_rng(0)
    members, by_hand = rows({0, 1, 3, 4, 8}), []
    for _ in range(50):
        permuted = labels.copy()
        permuted[:7] = drawn.permutation(labels[:7])
        by_hand.append(best_iou(members, permuted)[0])
    chance = values(layer_of(members), labels)["best_iou_chance"]
    assert chance.value == pytest.approx(np.mean(by_hand))
    assert chance.stderr == pytest.approx(np.std(by_hand, ddof=1))


def test_what_has_no_value_is_left_out() -> None:
    labels = np.array([0, 0, 0, 1, 1, -1, -1, -1, -1, -1])
    names = {"adjusted_rand_networks_clusters", "best_iou_networks_clusters", "best_iou_chance"}
    assert values(layer_of(rows({0, 3})), labels).keys() == names
    # Networks of one neuron say nothing of overlap; two of them are a partition still.
    assert values(layer_of(rows({0}, {3})), labels).keys() == {"adjusted_rand_networks_clusters"}
    assert values(layer_of(rows({5, 6})), labels).keys() == names - {
        "adjusted_rand_networks_clusters"
    }
    assert not values(layer_of(rows({0, 3})), np.full(10, -1))
    assert not values(layer_of(np.zeros((0, 10), bool)), labels)


N_LAYERS, N = 3, 60


def clusters_of(labels: list[np.ndarray]) -> Clusters:
    empty = np.zeros((N, 0), np.float32)
    layers = [
        LayerClusters(x.astype(np.int32), x.astype(np.int32), empty, empty[0]) for x in labels
    ]
    return Clusters(layers, N)


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """Networks of layers 0 and 1 that are the clusters of layer 0; layer 2 is not analysed."""
    rng = np.random.default_rng(0)
    labels = [rng.permutation(np.repeat([0, 1, 2], [30, 20, 10])) for _ in range(N_LAYERS)]
    loadings = np.stack([np.concatenate([labels[0] == c, rng.random(N) < 0.3]) for c in range(3)])
    analysis = networks_of(np.zeros((3, sum(WIDTHS)))).analyses[0]
    analysis = dataclasses.replace(
        analysis, layers=(0, 1), loadings=loadings.astype(np.float32), members=loadings
    )
    networks = networks_of(np.zeros((1, sum(WIDTHS))), (), widths=(N,) * N_LAYERS)
    networks.analyses.append(analysis)
    write_networks(tmp_path / "n.safetensors", networks, "model")
    write_clusters(tmp_path / "c.safetensors", clusters_of(labels), "model")
    return tmp_path


def agree(folder: Path, networks: str = "n.safetensors", clusters: str = "c.safetensors") -> int:
    inputs = ["--networks", str(folder / networks), "--clusters", str(folder / clusters)]
    names = ["--model-name", "tiny", "--task", "sums", "--networks-name", "ica"]
    names += ["--graph-name", "paper", "--source", "random-init", "--run-seed", "7"]
    return main(["agree", *inputs, *names, "--output", str(folder / "rows.jsonl")])


def test_the_stage_writes_a_row_a_measure_and_layer(
    planted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert agree(planted) == 0
    found: list[Measure] = read_measures([planted / "rows.jsonl"])
    by_name = {(m.measure, m.layer): m for m in found}
    assert by_name["adjusted_rand_networks_clusters", 0].value == pytest.approx(1)
    assert by_name["best_iou_networks_clusters", 0].value == pytest.approx(1)
    assert abs(by_name["adjusted_rand_networks_clusters", 1].value) < 0.2
    assert {layer for _, layer in by_name} == {0, 1}
    assert len(found) == 6
    run = ("tiny", "random-init", "sums", "ica", 7)
    assert {(m.model, m.source, m.task, m.graph, m.seed) for m in found} == {run}
    notes = read_json(planted / "rows.jsonl.manifest.json")["notes"]
    assert notes["clusters_of"] == "paper"
    assert notes["layers_without"] == {name: [2] for name, _ in by_name}
    assert "3 layers (random-init); median adjusted Rand index" in capsys.readouterr().err


def test_every_layer_has_permutations_of_its_own(planted: Path) -> None:
    header, networks = read_networks(planted / "n.safetensors")
    analysis = networks.analyses[0]
    for values in (analysis.loadings, analysis.members):
        values[:, N:] = values[:, :N]
    write_networks(planted / "n.safetensors", networks, header.model)
    labels = analysis.members[:, :N].argmax(axis=0)
    write_clusters(planted / "c.safetensors", clusters_of([labels] * N_LAYERS), header.model)
    assert agree(planted) == 0
    found = read_measures([planted / "rows.jsonl"])
    first, second = (m.value for m in found if m.measure == "best_iou_chance")
    assert first != second


def test_files_that_cannot_be_compared_are_refused_in_one_line(
    planted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = [np.zeros(N, int)] * N_LAYERS
    write_clusters(planted / "foreign.safetensors", clusters_of(labels), "other")
    write_clusters(planted / "short.safetensors", clusters_of(labels[:2]), "model")
    outputs = networks_of(random_loadings(2, 0), site="output")
    write_networks(planted / "out.safetensors", outputs, "model")
    before = sorted(planted.iterdir())
    for files, message in [
        ({"networks": "none.safetensors"}, "none.safetensors: no such file"),
        ({"networks": "n.json"}, "n.json: truncated or not safetensors"),
        ({"networks": "out.safetensors"}, "found the site output, whose channels are no neurons"),
        ({"clusters": "foreign.safetensors"}, "made from model other, expected model model"),
        ({"clusters": "short.safetensors"}, "expected 3 layers of 60 neurons, found 2 of 60"),
        ({"clusters": "n.safetensors"}, "expected clusters of schema 1, found networks"),
    ]:
        assert agree(planted, **files) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
        assert sorted(planted.iterdir()) == before
