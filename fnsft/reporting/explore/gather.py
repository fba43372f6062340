"""Reads an experiment's artefacts for the page, and says what is missing."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from fnsft.artifacts.clusters import read_clusters
from fnsft.artifacts.descriptions import Description, read_descriptions
from fnsft.artifacts.graphs import graph_model, open_dense_graph, read_graph
from fnsft.artifacts.lesions import read_lesions
from fnsft.artifacts.measures import Measure, read_measures
from fnsft.artifacts.networks import NEURON_SITES, read_networks
from fnsft.artifacts.records import Record, read_records
from fnsft.artifacts.telemetry import read_neuron_updates
from fnsft.artifacts.training import read_training
from fnsft.config.names import Variant
from fnsft.config.stages import ExploreSettings
from fnsft.errors import InputError
from fnsft.reporting.explore.columns import short
from fnsft.reporting.explore.files import GRAPHS, NETWORKS, SEED, Home, ResultFiles, run_place
from fnsft.reporting.explore.layers import summarise_clusters, summarise_layer
from fnsft.reporting.explore.metrics import own_records
from fnsft.reporting.explore.neurons import (
    GraphData,
    HomeData,
    Measures,
    NetworkData,
    UpdateData,
    order_of,
)
from fnsft.reporting.labels import run_label
from fnsft.reporting.lesion_summary import summarise_lesions

MOST_NEURONS = 60_000  # pages that 10 MB can hold without a description


@dataclass(frozen=True, eq=False)
class Gathered:
    """What was read: records by run and by sequence, and the homes of neurons."""

    metrics: dict[str, list[Record]]
    transfer: dict[str, list[Record]]
    homes: list[HomeData]


def gather(files: ResultFiles, settings: ExploreSettings) -> Gathered:
    """Read all of an experiment that a page may show.

    Raises
    ------
    InputError
        For an artefact that is damaged, or that is of another model than those beside it.
    """
    metrics = {
        f"metrics/{run}": read_records(paths)
        for run, paths in _by_run(files.metrics, files.folder / "metrics")
    }
    transfer: dict[str, list[Record]] = {}
    for run, paths in _by_run(files.transfer, files.folder / "transfer"):
        records = read_records(paths)
        metrics[f"transfer/{run}"] = own_records(records)
        sequence, _, variant = run.rpartition("/")
        if variant in {str(Variant(record.method, record.fraction)) for record in records}:
            transfer.setdefault(sequence, []).extend(records)  # others are a method at other rates
    measures = read_measures(files.measures)
    total = max(1, len(files.homes))
    homes = [_home(home, files, measures, settings, MOST_NEURONS // total) for home in files.homes]
    return Gathered(metrics, transfer, homes)


def _by_run(paths: Sequence[Path], root: Path) -> Iterable[tuple[str, list[Path]]]:
    """Group files of records by their path without the seed and what is behind it."""

    def run(path: Path) -> str:
        parts = path.relative_to(root).with_suffix("").parts
        return "/".join(part for part in parts if not SEED.fullmatch(part.split(".")[0]))

    ordered = sorted(paths, key=lambda path: (run(path), path))
    return ((name, list(found)) for name, found in groupby(ordered, key=run))


def _home(
    home: Home,
    files: ResultFiles,
    measures: Sequence[Measure],
    settings: ExploreSettings,
    most: int,
) -> HomeData:
    graph_files = [path for path in home.found(GRAPHS) if not _is_dense(path)]
    model = graph_model(graph_files[0]) if graph_files else None
    graphs = [_graph(home, path, model, measures, settings) for path in graph_files]
    networks, widths = _networks(home, files, model)
    shapes = [(len(graph.layers), len(graph.layers[0].in_degree)) for graph in graphs]
    shapes += [(len(w), max(w)) for w in widths]
    described = home.descriptions
    n_layers, d_mlp = shapes[0] if shapes else _described_shape(described)
    order = order_of(n_layers, d_mlp, graphs, networks)
    opened = read_descriptions(described, model) if described else None
    per_layer = most // max(1, n_layers)
    return HomeData(
        home=home,
        n_layers=n_layers,
        d_mlp=d_mlp,
        graphs=graphs,
        networks=networks,
        updates=_updates(home, files, (n_layers, d_mlp)),
        order=[neurons[:per_layer] for neurons in order],
        described_from=opened.header.source if opened else None,
        descriptions=_descriptions(opened or (), [set(x[:per_layer].tolist()) for x in order]),
    )


def _is_dense(path: Path) -> bool:
    """Tell all weights of every pair, which no page could hold, from a graph of neighbours."""
    try:
        open_dense_graph(path)
    except InputError:
        return False
    return True


def _described_shape(path: Path | None) -> tuple[int, int]:
    places = [(one.layer, one.neuron) for one in read_descriptions(path)] if path else []
    layers, neurons = zip(*places, strict=True) if places else ((-1,), (-1,))
    return max(layers) + 1, max(neurons) + 1


def _graph(
    home: Home,
    path: Path,
    model: str | None,
    measures: Sequence[Measure],
    settings: ExploreSettings,
) -> GraphData:
    graph, clusters_path = read_graph(path, model), home.folder / "clusters" / path.name
    k = min(settings.k, graph.k_max)
    clusters = read_clusters(clusters_path, model) if clusters_path.exists() else None
    labels = [layer.labels for layer in clusters.layers] if clusters else None
    key = (home.model, home.task, home.seed, path.stem)
    own = [m for m in measures if (m.model, m.task, m.seed, m.graph) == key and m.part is None]
    return GraphData(
        name=path.stem,
        k=k,
        stored=graph.k_max,
        layers=[summarise_layer(layer, k, settings.neighbours) for layer in graph.layers],
        clusters=[
            summarise_clusters(layer, own_labels, k)
            for layer, own_labels in zip(graph.layers, labels, strict=True)
        ]
        if labels
        else None,
        labels=labels,
        measures=_by_measure(own, graph.n_layers),
    )


def _by_measure(measures: Iterable[Measure], n_layers: int) -> Measures:
    found: Measures = {}
    for row in measures:
        if row.layer < n_layers:
            values = found.setdefault(row.measure, {}).setdefault(row.source, [None] * n_layers)
            values[row.layer] = short(row.value)
    return found


def _networks(
    home: Home, files: ResultFiles, model: str | None
) -> tuple[list[NetworkData], list[tuple[int, ...]]]:
    """Return the networks of neurons, and the widths of their sites."""
    found, widths = [], []
    for path in home.found(NETWORKS):
        templates = read_networks(path, model)[1].templates
        if templates.site not in NEURON_SITES:
            continue
        lesions = files.lesions_of(home, path.stem)
        effects = summarise_lesions(read_lesions([lesions])) if lesions else []
        found.append(NetworkData(path.stem, templates.site, templates.neurons, effects))
        widths.append(templates.widths)
    return found, widths


def _updates(home: Home, files: ResultFiles, shape: tuple[int, int]) -> list[UpdateData]:
    """Return the update frequencies of all runs that began with a home's model, by variant."""
    by_variant: dict[tuple[str, str], list[Path]] = {}
    for run in files.updates:
        model, task, variant = run_place(run, files.folder / "runs")
        if model == home.model:
            by_variant.setdefault((task, variant), []).append(run)
    found = []
    for (task, variant), runs in by_variant.items():
        updates = [read_neuron_updates(run) for run in runs]
        for run, update in zip(runs, updates, strict=True):
            if update.share.shape != shape:
                raise InputError(
                    f"{run}: expected updates of {shape[0]} layers of {shape[1]} neurons, as "
                    f"{home.folder} has, found {update.share.shape}; train anew"
                )
        one = read_training(runs[0]).run
        usual = str(Variant(one.method, one.fraction)) == variant
        label = run_label(one.method, one.fraction) if usual else variant
        steps = sum(update.recorded_steps for update in updates)
        share = np.mean([update.share for update in updates], axis=0)
        found.append(UpdateData(label, task, len(runs), steps, share))
    return found


def _descriptions(
    descriptions: Iterable[Description], chosen: Sequence[set[int]]
) -> dict[tuple[int, int], list[Description]]:
    found: dict[tuple[int, int], list[Description]] = {}
    for one in descriptions:
        if one.layer < len(chosen) and one.neuron in chosen[one.layer]:
            found.setdefault((one.layer, one.neuron), []).append(one)
    return found
