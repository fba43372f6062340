"""What the page holds of a model's neurons, and of how many of each layer.

L layers of N neurons; ``chosen`` are the neurons of one layer that have a page of their own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fnsft.artifacts.clusters import NO_CLUSTER
from fnsft.artifacts.descriptions import Description
from fnsft.reporting.explore.columns import numbers, short
from fnsft.reporting.explore.files import Home
from fnsft.reporting.explore.layers import ClusterSummary, LayerSummary, in_order_of_interest
from fnsft.reporting.lesion_summary import NetworkEffect

HUBS = 10  # of a layer, listed and always among its pages
CONTEXTS = 3  # of a description
PER_MILLE = 1000

Measures = dict[str, dict[str, list[float | None]]]  # measure, source, value by layer


@dataclass(frozen=True, eq=False)
class GraphData:
    """A graph's layers; clusters and labels are None where it was not clustered."""

    name: str
    k: int
    stored: int
    layers: list[LayerSummary]
    clusters: list[ClusterSummary] | None
    labels: list[np.ndarray] | None
    measures: Measures


@dataclass(frozen=True, eq=False)
class NetworkData:
    """Networks of neurons, by number the neurons of every layer, and what their lesions cost."""

    name: str
    site: str
    members: Mapping[int, Mapping[int, np.ndarray]]
    effects: Sequence[NetworkEffect]


@dataclass(frozen=True, eq=False)
class UpdateData:
    """How often each neuron could change, [L, N], mean over ``seeds`` runs of one variant."""

    label: str
    task: str
    seeds: int
    steps: int
    share: np.ndarray


@dataclass(frozen=True, eq=False)
class HomeData:
    """Everything of one model, task and seed that the page shows some of.

    ``order`` has all neurons of every layer, those that are shown first first; ``descriptions``
    are those of the neurons that may be shown.
    """

    home: Home
    n_layers: int
    d_mlp: int
    graphs: list[GraphData]
    networks: list[NetworkData]
    updates: list[UpdateData]
    order: list[np.ndarray]
    described_from: str | None = None
    descriptions: dict[tuple[int, int], list[Description]] = field(default_factory=dict)


def order_of(
    n_layers: int, d_mlp: int, graphs: Sequence[GraphData], networks: Sequence[NetworkData]
) -> list[np.ndarray]:
    """Return all neurons of every layer: the largest hubs, those in networks, the other ones."""
    order = []
    for layer in range(n_layers):
        in_degree = sum((g.layers[layer].in_degree for g in graphs), np.zeros(d_mlp, dtype=int))
        named = np.zeros(d_mlp, dtype=bool)
        for found in networks:
            for members in found.members.values():
                named[members.get(layer, [])] = True
        order.append(in_order_of_interest(in_degree, named, HUBS))
    return order


def home_payload(data: HomeData, per_layer: int) -> dict[str, Any]:
    """Return the page's data of a home, with the first ``per_layer`` neurons of every layer."""
    chosen = [np.sort(order[:per_layer]) for order in data.order]
    everyone = all(len(ids) == data.d_mlp for ids in chosen)
    return {
        "model": data.home.model,
        "task": data.home.task,
        "seed": data.home.seed,
        "layers": data.n_layers,
        "d_mlp": data.d_mlp,
        "shown": sum(map(len, chosen)),
        "ids": None if everyone else [ids.tolist() for ids in chosen],
        "graphs": [_graph(graph, chosen) for graph in data.graphs],
        "networks": [_networks(found, chosen) for found in data.networks],
        "updates": [
            {"label": u.label, "task": u.task, "seeds": u.seeds, "steps": u.steps}
            | {
                "mean": numbers(u.share.mean(axis=1)),
                "share": [
                    np.rint(PER_MILLE * u.share[layer, ids]).astype(int).tolist()
                    for layer, ids in enumerate(chosen)
                ],
            }
            for u in data.updates
        ],
        "described_from": data.described_from,
        "descriptions": [_described(data, layer, ids) for layer, ids in enumerate(chosen)]
        if data.described_from
        else None,
    }


def _graph(graph: GraphData, chosen: Sequence[np.ndarray]) -> dict[str, Any]:
    layers = []
    for number, (layer, ids) in enumerate(zip(graph.layers, chosen, strict=True)):
        counts = np.diff(layer.starts)[ids]
        edges = [np.arange(layer.starts[i], layer.starts[i + 1]) for i in ids]
        kept = np.concatenate(edges) if edges else np.empty(0, dtype=int)
        hubs = np.argsort(-layer.in_degree, kind="stable")[:HUBS]
        shown: dict[str, Any] = {
            "isolated": layer.isolated,
            "in_degree": layer.in_degree[ids].tolist(),
            "counts": counts.tolist(),
            "to": layer.to[kept].tolist(),
            "weights": numbers(layer.weights[kept], digits=3),
            "hubs": hubs.tolist(),
            "hub_in_degree": layer.in_degree[hubs].tolist(),
        }
        if graph.clusters and graph.labels:
            clusters = graph.clusters[number]
            shown |= {
                "cluster": graph.labels[number][ids].tolist(),
                "hub_cluster": graph.labels[number][hubs].tolist(),
                "sizes": clusters.sizes.tolist(),
                "within": numbers(clusters.within),
                "chance": numbers(clusters.chance),
                "unclustered": int((graph.labels[number] == NO_CLUSTER).sum()),
            }
        layers.append(shown)
    named = {"name": graph.name, "k": graph.k, "stored": graph.stored}
    return named | {"layers": layers, "measures": graph.measures}


def _networks(found: NetworkData, chosen: Sequence[np.ndarray]) -> dict[str, Any]:
    members: list[dict[int, list[int]]] = [{} for _ in chosen]
    for number, layers in found.members.items():
        for layer, neurons in layers.items():
            for neuron in np.intersect1d(neurons, chosen[layer]).tolist():
                members[layer].setdefault(neuron, []).append(number)
    return {
        "name": found.name,
        "site": found.site,
        "sizes": {
            number: sum(len(neurons) for neurons in layers.values())
            for number, layers in found.members.items()
        },
        "effects": {
            effect.network: {
                "effect": short(effect.effect),
                "rank": effect.rank,
                "as_bad": effect.draws_as_bad,
                "draws": len(effect.removed["perplexity"].random),
            }
            for effect in found.effects
        },
        "members": members,
    }


def _described(data: HomeData, layer: int, ids: np.ndarray) -> dict[str, list[Any]]:
    found = [d for neuron in ids.tolist() for d in data.descriptions.get((layer, neuron), ())]
    return {
        "neuron": [one.neuron for one in found],
        "sign": [one.sign for one in found],
        "text": [one.text for one in found],
        "score": [short(one.score, 3) for one in found],
        "contexts": [list(one.contexts[:CONTEXTS]) for one in found],
        "all_contexts": [len(one.contexts) for one in found],
    }
