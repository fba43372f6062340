"""A small experiment's results, written by the artefacts' own writers: what a page is made from."""

import base64
import gzip
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from network_rows import lesions_of, networks_of
from score_rows import drift_of, stage_of

from fnsft.artifacts.clusters import Clusters, LayerClusters, write_clusters
from fnsft.artifacts.descriptions import Description, write_descriptions
from fnsft.artifacts.graphs import CollaborationGraph, LayerGraph, write_graph
from fnsft.artifacts.lesions import write_lesions
from fnsft.artifacts.measures import Measure, write_measures
from fnsft.artifacts.networks import write_networks
from fnsft.artifacts.records import write_records
from fnsft.artifacts.telemetry import write_neuron_updates
from fnsft.artifacts.training import Run, TrainingRecord, write_training
from fnsft.reporting.transfer import transfer

N_LAYERS, D_MLP, K_MAX, GROUP = 4, 50, 12, 10
SEEDS = (0, 1, 2)
METHODS = ("sft", "sft-half", "sft-quarter", "replay", "collab")
VARIANTS = {"collab": "collab-p0.5"}
IDENTITY = "0123456789abcdef"
HOSTILE = '</script><img src=x onerror="document.title=1"> & «both» <b>'
WORDS = ("apples", "minus", "sold", "twelve", "river", "each", "half", "people")


def layer_graph(rng: np.random.Generator, d_mlp: int = D_MLP, k: int = K_MAX) -> LayerGraph:
    """Return random neighbours; neuron 7 is in every list, neuron 9 has no edge."""
    rows = []
    for i in range(d_mlp):
        others = [j for j in rng.permutation(d_mlp).tolist() if j not in (i, 7, 9)][: k - 1]
        to = [*([7] if i != 7 else []), *others]
        rows.append([] if i == 9 else list(zip(sorted(rng.random(len(to)))[::-1], to, strict=True)))
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    flat = [edge for row in rows for edge in row]
    return LayerGraph(
        indptr=indptr.astype(np.int64),
        indices=np.array([to for _, to in flat], dtype=np.int32),
        weights=np.array([weight + 0.01 for weight, _ in flat], dtype=np.float32),
    )


def write_graphs(home: Path, seed: int = 0) -> None:
    """Write a graph, its clusters of ten neurons each (neuron 9 in none), and its measures."""
    rng = np.random.default_rng(seed)
    layers = [layer_graph(rng) for _ in range(N_LAYERS)]
    labels = (np.arange(D_MLP) // GROUP).astype(np.int32)
    labels[9] = -1
    one = LayerClusters(labels, labels, np.ones((D_MLP, 2), np.float32), np.zeros(2))
    (home / "graphs").mkdir(parents=True, exist_ok=True)
    for name in ("paper", "paper+null", "paper+even"):
        write_graph(
            home / f"graphs/{name}.safetensors", CollaborationGraph(layers, D_MLP, K_MAX), IDENTITY
        )
    write_clusters(home / "clusters/paper.safetensors", Clusters([one] * N_LAYERS, D_MLP), IDENTITY)


def write_controls(results: Path, seed: int = 0) -> None:
    """Write the measures of the graph and of both controls, where the workflow puts them."""
    places = {
        "model": ("tiny", "paper", 1.6),
        "random-init": ("tiny+twin", "paper", 1.2),
        "token-shuffled": ("tiny", "paper+null", 1.0),
    }
    for source, (model, graph, value) in places.items():
        rows = [
            Measure("tiny", source, "math", "paper", seed, layer, name, value + layer, None, 9)
            for layer in range(N_LAYERS)
            for name in ("score_over_null_unbiased", "modularity")
        ]
        write_measures(results / f"neurons/{model}/math/seed{seed}/measures/{graph}.jsonl", rows)


def write_home(results: Path, model: str = "tiny", seed: int = 0, hostile: bool = True) -> Path:
    """Write everything that is measured of a model's neurons on math."""
    home = results / f"neurons/{model}/math/seed{seed}"
    write_graphs(home, seed)
    (home / "networks").mkdir()
    networks = networks_of("stack", N_LAYERS, D_MLP, n_networks=5, seed=seed)
    write_networks(home / "networks/ica.safetensors", networks, IDENTITY)
    write_lesions(
        results / f"lesions/{model}/math/seed{seed}/ica.jsonl",
        lesions_of(model, seeds=(seed,), n_networks=5),
    )
    write_descriptions(
        home / "descriptions.jsonl.gz", descriptions(HOSTILE if hostile else "plain"), IDENTITY
    )
    return home


def descriptions(special: str) -> list[Description]:
    """Return two descriptions of every neuron but 0:1; the first one has a ``special`` text."""
    rng = np.random.default_rng(3)
    found = []
    for layer in range(N_LAYERS):
        for neuron in range(D_MLP):
            for sign in ("+", "-") if (layer, neuron) != (0, 1) else ():
                words = rng.choice(WORDS, 3, replace=False).tolist()
                text = special if (layer, neuron, sign) == (0, 0, "+") else ", ".join(words)
                contexts = tuple(f"one «{word}» of <i>{layer}</i>" for word in (*words, *words))
                found.append(Description(layer, neuron, sign, text, float(rng.random()), contexts))
    return found


def write_runs(results: Path, model: str = "tiny") -> None:
    """Write the runs of two masked methods, with how often their neurons could change."""
    for method, fraction in (("collab", 0.5), ("random", 0.5)):
        for seed in SEEDS:
            folder = results / f"runs/{model}/math/{method}-p{fraction}/seed{seed}"
            folder.mkdir(parents=True)
            share = np.random.default_rng([seed, len(method)]).random((N_LAYERS, D_MLP))
            write_neuron_updates(folder, share, 13, IDENTITY)
            run = Run(model, "math", method, fraction, stage=1, seed=seed)
            write_training(folder, TrainingRecord(run, [], [], 1.0, 1, 2.0, 13, fraction, 1.0, 1.0))


def write_metrics(results: Path, model: str = "tiny") -> None:
    """Write scores of a base model and of two stages of every method, and what they make joined."""
    base, _ = stage_of("base", 0, 0, model)
    write_records(results / f"metrics/{model}/base/world.jsonl", base)
    for method in METHODS:
        variant = VARIANTS.get(method, method)
        for seed in SEEDS:
            stages = [stage_of(method, seed, stage, model)[0] for stage in (1, 2)]
            below = [f"math/{variant}", f"math/{variant}/code/{variant}"]
            for place, records in zip(below, stages, strict=True):
                if records[0].method == method:
                    path = results / f"metrics/{model}/{place}/seed{seed}/world.jsonl"
                    write_records(path, records)
            joined = transfer(base, stages, drift_of(method, seed, model)).records
            write_records(
                results / f"transfer/{model}/math-code/{variant}/seed{seed}.jsonl", joined
            )


def write_results(results: Path, hostile: bool = True) -> Path:
    """Write a whole experiment."""
    write_metrics(results)
    write_home(results, hostile=hostile)
    write_controls(results)
    write_graphs(results / "neurons/tiny+twin/math/seed0")
    write_runs(results)
    return results


def data_of(page: str) -> Any:
    """Return what is packed into a page."""
    packed = re.search(r'<script id="data"[^>]*>([^<]*)</script>', page)[1]
    return json.loads(gzip.decompress(base64.b64decode(packed)))
