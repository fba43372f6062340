"""One page of an experiment: what stands on it, against the artefacts, and what it keeps out."""

import base64
import hashlib
import itertools
import math
import re
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from explore_results import (
    D_MLP,
    HOSTILE,
    IDENTITY,
    K_MAX,
    N_LAYERS,
    SEEDS,
    data_of,
    layer_graph,
    write_controls,
    write_graphs,
    write_home,
    write_metrics,
    write_results,
    write_runs,
)
from network_rows import networks_of
from score_rows import joined, stage_of

from fnsft.artifacts.clusters import Clusters, LayerClusters, write_clusters
from fnsft.artifacts.graphs import LayerGraph, read_graph
from fnsft.artifacts.networks import write_networks
from fnsft.artifacts.records import read_records, write_records
from fnsft.artifacts.storage import read_json
from fnsft.cli.main import main
from fnsft.reporting.explore.files import Home
from fnsft.reporting.explore.layers import in_order_of_interest, summarise_clusters, summarise_layer
from fnsft.reporting.explore.metrics import metric_rows, trade_offs
from fnsft.reporting.explore.neurons import HomeData, home_payload
from fnsft.reporting.explore.page import SCRIPTS, page

ASSETS = Path("fnsft/reporting/explore/assets")


def explored(results: Path, *flags: str) -> tuple[str, Any]:
    output = results.parent / "explore.html"
    assert main(["explore", str(results), "--output", str(output), *flags]) == 0
    text = output.read_text()
    return text, data_of(text)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_results(tmp_path_factory.mktemp("results") / "small & <small>")


@pytest.fixture(scope="module")
def made(results: Path) -> tuple[str, Any]:
    return explored(results)


def rows_of(columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def test_every_metric_is_the_mean_over_its_seeds_with_the_error_of_tables(made) -> None:
    rows = rows_of(made[1]["metrics"])
    (row,) = [
        row
        for row in rows
        if (row["method"], row["after"], row["benchmark"], row["metric"])
        == ("CollabMask, p = 0.5", "math>code", "gsm8k", "accuracy")
    ]
    records = [r for seed in SEEDS for r in stage_of("collab", seed, 2)[0]]
    values = [r.value for r in records if (r.benchmark, r.metric) == ("gsm8k", "accuracy")]
    assert row["value"] == pytest.approx(100 * statistics.fmean(values), rel=1e-4)
    assert row["shown"] == f"{100 * statistics.fmean(values):.1f}"
    assert row["error"] == f"{100 * statistics.stdev(values) / 3**0.5:.1f}"
    assert (row["error_of"], row["seeds"], row["items"], row["unit"]) == ("seeds", 3, 80, "%")


def test_no_metric_record_is_left_out_or_counted_twice(results: Path, made) -> None:
    shown = sum(row["seeds"] for row in rows_of(made[1]["metrics"]))
    metrics = read_records((results / "metrics").rglob("*.jsonl"))
    joined = read_records((results / "transfer").rglob("*.jsonl"))
    assert shown == len(metrics) + sum(r.benchmark in ("continual", "drift") for r in joined)


def test_an_infinite_perplexity_is_shown_and_has_no_place_in_a_drawing(tmp_path: Path) -> None:
    records = [r for r in joined(("sft", "replay")) if r.metric == "perplexity"]
    broken = [
        replace(r, value=math.inf) if (r.method, r.stage) == ("sft", 2) else r for r in records
    ]
    for seed, method, place in itertools.product(SEEDS, ("sft", "replay"), ("metrics", "transfer")):
        own = [r for r in broken if (r.seed, r.method) == (seed, method)]
        at_another_rate = [replace(r, value=3.0) for r in own]
        below = tmp_path / f"broken/{place}/tiny/math-code"
        write_records(below / f"{method}/seed{seed}.jsonl", own)
        write_records(below / f"{method}-x0.5/seed{seed}.jsonl", at_another_rate)
    data = explored(tmp_path / "broken")[1]
    shown = [row for row in rows_of(data["metrics"]) if row["shown"] == "inf"]
    assert {(row["method"], row["value"], row["error"]) for row in shown} == {("SFT", None, "")}
    points = {point["method"]: point for point in rows_of(data["trade_offs"][0]["points"])}
    sft, replay = points.pop("SFT"), points.popitem()[1]
    assert (sft["learned"], sft["learned_spread"], sft["kept"], sft["front"]) == (None,) * 3 + (
        False,
    )
    assert replay["front"] and replay["learned"] > 1


def test_infinities_of_both_signs_have_no_mean() -> None:
    broken = [
        replace(r, value=math.inf) if (r.stage, r.seed) in ((1, 0), (2, 1)) else r
        for r in joined(("sft",))
        if r.metric == "perplexity"
    ]
    ((point,),) = [one["points"] for one in trade_offs("math-code", broken)]
    assert math.isnan(point.kept) and point.kept_spread is None and not point.front


def test_a_share_of_no_items_has_the_bound_of_tables_for_an_error() -> None:
    (right,) = [r for r in stage_of("sft", 0, 1)[0] if r.benchmark == "cloze"]
    row, longer = metric_rows({"a": [replace(right, value=0.0, stderr=0.0)], "b": [right]})
    assert (row.error, row.error_of) == ("≤ 5.8", "bound")  # 1 - 0.05^(1/50)
    assert longer.error_of == "items" and float(longer.error) > 0


def test_two_records_of_one_seed_are_refused() -> None:
    records = stage_of("sft", 0, 1)[0]
    with pytest.raises(ValueError, match="every seed once, found one twice"):
        metric_rows({"metrics/a": [*records, *records]})


def test_trade_offs_are_means_over_seeds_and_their_front_is_what_none_beats(made) -> None:
    (shown,) = made[1]["trade_offs"]
    points = rows_of(shown["points"])
    assert (shown["model"], shown["sequence"]) == ("tiny", "math-code")
    for point in points:
        beaten = any(
            other["learned"] >= point["learned"]
            and other["kept"] >= point["kept"]
            and other is not point
            for other in points
        )
        assert point["front"] != beaten
    (collab,) = [point for point in points if point["method"] == "CollabMask, p = 0.5"]
    records = [r for seed in SEEDS for r in stage_of("collab", seed, 2)[0]]
    learned = [100 * r.value for r in records if (r.measures, r.metric) == ("code", "pass_at_1")]
    assert collab["learned"] == pytest.approx(statistics.fmean(learned), rel=1e-4)
    assert collab["learned_spread"] == pytest.approx(statistics.stdev(learned), rel=1e-3)


def neighbours_of(graph: LayerGraph, neuron: int, k: int) -> list[tuple[int, float]]:
    start, end = graph.indptr[neuron], graph.indptr[neuron + 1]
    return list(zip(graph.indices[start:end][:k], graph.weights[start:end][:k], strict=True))


def test_clusters_and_in_degrees_are_counted_edge_by_edge() -> None:
    rng = np.random.default_rng(0)
    graph, labels, k = layer_graph(rng), rng.integers(-1, 4, D_MLP), 5
    found = summarise_clusters(graph, labels, k)
    for cluster in range(4):
        members = np.flatnonzero(labels == cluster)
        edges = [(j, w) for i in members for j, w in neighbours_of(graph, i, k)]
        inside = sum(w for j, w in edges if labels[j] == cluster)
        assert found.within[cluster] == pytest.approx(inside / sum(w for _, w in edges))
        assert found.chance[cluster] == pytest.approx((len(members) - 1) / (D_MLP - 1))
    summary = summarise_layer(graph, k, neighbours=3)
    lists = [[j for j, _ in neighbours_of(graph, i, k)] for i in range(D_MLP)]
    assert summary.in_degree.tolist() == [sum(i in held for held in lists) for i in range(D_MLP)]
    assert summary.isolated == 1
    for i in range(D_MLP):
        kept = slice(summary.starts[i], summary.starts[i + 1])
        assert summary.to[kept].tolist() == [j for j, _ in neighbours_of(graph, i, 3)]


def test_all_weight_of_a_graph_that_stays_in_its_groups_is_inside() -> None:
    n, size = 30, 6
    rows = [[j for j in range(n) if j // size == i // size and j != i] for i in range(n)]
    graph = LayerGraph(
        indptr=np.arange(n + 1) * (size - 1),
        indices=np.concatenate(rows).astype(np.int32),
        weights=np.ones(n * (size - 1), np.float32),
    )
    labels = np.arange(n) // size
    assert summarise_clusters(graph, labels, 20).within.tolist() == [1.0] * 5
    assert max(summarise_clusters(graph, np.arange(n) % 5, 20).within) < 0.3


def test_a_neurons_neighbours_are_those_of_the_graph_by_weight(results: Path, made) -> None:
    (home,) = made[1]["homes"]
    graph = read_graph(results / "neurons/tiny/math/seed0/graphs/paper.safetensors")
    for number, layer in enumerate(home["graphs"][0]["layers"]):
        ends = np.cumsum(layer["counts"])
        for neuron in range(D_MLP):
            start = ends[neuron] - layer["counts"][neuron]
            expected = neighbours_of(graph.layers[number], neuron, 10)
            assert layer["to"][start : ends[neuron]] == [j for j, _ in expected]
            weights = pytest.approx([w for _, w in expected], rel=5e-3)
            assert layer["weights"][start : ends[neuron]] == weights


def test_controls_and_halves_are_measures_and_have_no_neurons(made) -> None:
    (home,) = made[1]["homes"]
    (graph,) = home["graphs"]
    assert (home["model"], graph["name"]) == ("tiny", "paper")
    shown = graph["measures"]["score_over_null_unbiased"]
    values = {"model": 1.6, "random-init": 1.2, "token-shuffled": 1.0}
    for source, value in values.items():
        assert shown[source] == pytest.approx([value + layer for layer in range(N_LAYERS)])


def test_networks_and_their_lesions_reach_their_neurons(made) -> None:
    (home,) = made[1]["homes"]
    (networks,) = home["networks"]
    members = networks_of("stack", N_LAYERS, D_MLP).templates.neurons
    for layer in range(N_LAYERS):
        for neuron in range(D_MLP):
            own = [n for n, layers in members.items() if neuron in layers.get(layer, ())]
            assert networks["members"][layer].get(str(neuron), []) == own
    assert networks["effects"]["3"]["rank"] == 1
    assert {effect["draws"] for effect in networks["effects"].values()} == {5}


def test_update_frequencies_are_means_over_seeds(made) -> None:
    (home,) = made[1]["homes"]
    (shown,) = [one for one in home["updates"] if one["label"] == "CollabMask, p = 0.5"]
    shares = [np.random.default_rng([seed, 6]).random((N_LAYERS, D_MLP)) for seed in SEEDS]
    expected = np.mean(shares, axis=0)
    assert np.abs(np.array(shown["share"]) / 1000 - expected).max() <= 0.0005 + 1e-6
    assert (shown["seeds"], shown["steps"]) == (3, 39)


def test_the_same_results_make_the_same_bytes(results: Path, made) -> None:
    assert explored(results)[0] == made[0]
    packed = re.search(r'<script id="data"[^>]*>([^<]*)', made[0])[1]
    assert base64.b64decode(packed)[4:8] == bytes(4)  # where gzip has the time


def test_nothing_from_the_data_can_end_its_element_or_stand_as_markup(made) -> None:
    text, data = made
    assert data["homes"][0]["descriptions"][0]["text"][0] == HOSTILE
    assert HOSTILE not in text and "<img" not in text and "<small>" not in text
    assert re.findall(r"</?script", text) == ["<script", "</script"] * 2
    assert "<title>small &amp; &lt;small&gt;: " in text


def test_a_hostile_model_name_changes_nothing_but_the_data() -> None:
    plain, hostile = (page({"model": name}, "title") for name in ("tiny", HOSTILE))
    data = re.compile(r'(<script id="data"[^>]*>)[^<]*')
    assert data.sub(r"\1", plain) == data.sub(r"\1", hostile)
    assert data_of(hostile) == {"model": HOSTILE}


def test_the_policy_lets_this_very_script_and_style_run_and_nothing_be_fetched(made) -> None:
    text = made[0]
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    assert policy.startswith("default-src 'none'; ")
    for tag, rule in (("script", "script-src"), ("style", "style-src")):
        (inline,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.S)
        digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
        assert f"{rule} 'sha256-{digest}';" in policy
    assert set(re.findall(r"https?://[^\"' ]*", text)) == {"http://www.w3.org/2000/svg"}


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_build_elements_and_never_parse_markup(repository: Path, name: str) -> None:
    text = (repository / ASSETS / f"{name}.js").read_text()
    ways = (
        r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|Function\(|setTimeout|style="
    )
    assert not re.search(ways, text)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results whose neurons are most of their page."""
    results = tmp_path_factory.mktemp("wide") / "wide"
    write_home(results)
    return results


def test_a_smaller_page_keeps_hubs_and_networks_and_says_how_many_it_shows(wide: Path) -> None:
    whole, every = explored(wide)
    assert every["homes"][0]["ids"] is None and every["homes"][0]["shown"] == N_LAYERS * D_MLP
    room = 0.9 * len(whole.encode()) / 1e6
    text, data = explored(wide, "--max-megabytes", str(room))
    assert len(text.encode()) / 1e6 <= room
    (home,) = data["homes"]
    assert home["shown"] == sum(map(len, home["ids"])) < N_LAYERS * D_MLP
    manifest = read_json(wide.parent / "explore.html.manifest.json")
    assert manifest["notes"]["neurons_shown"] == home["shown"]
    assert manifest["notes"]["neurons"] == N_LAYERS * D_MLP
    members = networks_of("stack", N_LAYERS, D_MLP).templates.neurons.values()
    for layer, ids in enumerate(home["ids"]):
        hubs = home["graphs"][0]["layers"][layer]["hubs"]
        named = {n for one in members for n in one.get(layer, np.empty(0, int)).tolist()}
        assert {*hubs} <= {*ids}
        assert {*ids} <= {*hubs} | named or named <= {*ids}
        described = home["descriptions"][layer]["neuron"]
        assert {*described} == {*ids} - ({1} if layer == 0 else set())


def test_neurons_come_in_the_order_hubs_named_others() -> None:
    in_degree, named = np.array([1, 9, 0, 5, 7, 5]), np.array([1, 0, 1, 0, 0, 0]) > 0
    assert in_order_of_interest(in_degree, named, hubs=2).tolist() == [1, 4, 0, 2, 3, 5]


def test_a_home_of_which_only_some_neurons_were_read_says_which(tmp_path: Path) -> None:
    home = Home("tiny", "math", 0, tmp_path)
    data = HomeData(home, 2, 6, [], [], [], [np.array([4, 1, 3])] * 2)
    assert home_payload(data, 9)["ids"] == [[1, 3, 4]] * 2
    every = HomeData(home, 2, 6, [], [], [], [np.array([4, 1, 3, 0, 2, 5])] * 2)
    assert home_payload(every, 9)["ids"] is None


def test_seeds_are_joined_by_their_number_and_names_that_look_alike_are_not(
    tmp_path: Path,
) -> None:
    for model in ("seedling", "tiny"):
        for seed in SEEDS:
            place = tmp_path / f"named/metrics/{model}/math/sft/seed{seed}.jsonl"
            write_records(place, stage_of("sft", seed, 1, model)[0])
    rows = rows_of(explored(tmp_path / "named")[1]["metrics"])
    assert {row["seeds"] for row in rows} == {3}
    assert {row["run"] for row in rows} == {"metrics/seedling/math/sft", "metrics/tiny/math/sft"}


def test_too_little_room_is_said_with_how_much_it_takes(wide: Path, capsys) -> None:
    arguments = ["explore", str(wide), "--output", str(wide.parent / "small.html")]
    assert main([*arguments, "--max-megabytes", "0.01"]) == 2
    says = capsys.readouterr().err
    needed = re.search(r"max_megabytes: expected at least (\S+),", says)[1]
    assert main([*arguments, "--max-megabytes", f"{float(needed) - 0.02:.2f}"]) == 2
    assert not (wide.parent / "small.html").exists()
    assert main([*arguments, "--max-megabytes", needed]) == 0


def test_what_is_missing_stands_with_the_command_that_makes_it(tmp_path: Path) -> None:
    results = tmp_path / "part"
    write_graphs(results / "neurons/tiny/math/seed0")
    below = "results/part/neurons/tiny/math/seed0"
    commands = dict(explored(results)[1]["overview"]["missing"])
    assert commands["descriptions of tiny on math, seed 0"].endswith(
        f"{below}/descriptions.jsonl.gz"
    )
    assert commands["measures (paper) of tiny on math, seed 0"].endswith("/measures/paper.jsonl")
    assert {"scores of methods", "learned against kept over stages"} <= {*commands}
    write_controls(results)
    write_runs(results)
    later = dict(explored(results)[1]["overview"]["missing"])
    assert {*commands} - {*later} == {
        "measures (paper) of tiny on math, seed 0",
        "how often neurons could change",
    }


def test_metrics_alone_and_networks_alone_make_a_page(tmp_path: Path) -> None:
    write_metrics(tmp_path / "metrics-alone")
    _, data = explored(tmp_path / "metrics-alone")
    assert data["homes"] == [] and data["metrics"]["value"]
    home = tmp_path / "networks-alone/neurons/tiny/math/seed0/networks"
    home.mkdir(parents=True)
    write_networks(home / "ica.safetensors", networks_of("stack", N_LAYERS, D_MLP), IDENTITY)
    _, data = explored(tmp_path / "networks-alone")
    assert data["homes"][0]["graphs"] == [] and data["homes"][0]["d_mlp"] == D_MLP


def test_a_sequence_that_cannot_be_drawn_says_why(tmp_path: Path) -> None:
    results = tmp_path / "half"
    records = [r for r in stage_of("sft", 0, 1)[0] if r.benchmark == "gsm8k"]
    write_records(results / "transfer/tiny/math/sft/seed0.jsonl", records)
    ((place, why),) = explored(results)[1]["no_trade_off"]
    assert place == "tiny/math" and "expected scores of" in why


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda folder: None, "no such file or folder"),
        (lambda folder: folder.mkdir(), "expected the results of an experiment"),
        (lambda folder: write_stale_clusters(folder), "made from model fedcba9876543210, expected"),
        (lambda folder: write_stray_run(folder), "expected a run at <model>/<task>/<variant>/seed"),
        (lambda folder: write_narrow_updates(folder), "expected updates of 4 layers of 50 neurons"),
    ],
)
def test_bad_results_are_refused_in_one_line(tmp_path: Path, capsys, make, says: str) -> None:
    make(tmp_path / "bad")
    assert main(["explore", str(tmp_path / "bad"), "--output", str(tmp_path / "out.html")]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1
    assert not (tmp_path / "out.html").exists()


def test_a_page_that_is_not_called_html_is_refused(results: Path, tmp_path: Path, capsys) -> None:
    assert main(["explore", str(results), "--output", str(tmp_path / "page.txt")]) == 2
    assert "expected a name that ends in .html" in capsys.readouterr().err


def write_stale_clusters(folder: Path) -> None:
    home = folder / "neurons/tiny/math/seed0"
    write_graphs(home)
    labels = np.zeros(D_MLP, dtype=np.int32)
    one = LayerClusters(labels, labels, np.ones((D_MLP, 2), np.float32), np.zeros(2))
    stale = Clusters([one] * N_LAYERS, D_MLP)
    write_clusters(home / "clusters/paper.safetensors", stale, IDENTITY[::-1])


def write_stray_run(folder: Path) -> None:
    write_graphs(folder / "neurons/tiny/math/seed0")
    write_runs(folder)
    (folder / "runs/tiny/math/collab-p0.5/seed1").rename(folder / "runs/lonely")


def write_narrow_updates(folder: Path) -> None:
    write_graphs(folder / "neurons/tiny/math/seed0")
    write_runs(folder)
    from fnsft.artifacts.telemetry import write_neuron_updates

    run = folder / "runs/tiny/math/collab-p0.5/seed1"
    write_neuron_updates(run, np.zeros((N_LAYERS, K_MAX)), 3, IDENTITY)
