"""Small hand-made inputs of every kind of figure."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from network_rows import lesions_of, networks_of
from scipy.stats import rankdata
from score_rows import joined

from fnsft.artifacts.activations import DumpShape, DumpWriter, write_dump_tokens
from fnsft.artifacts.clusters import NO_CLUSTER, Clusters, LayerClusters, write_clusters
from fnsft.artifacts.lesions import write_lesions
from fnsft.artifacts.measures import Measure, Source, write_measures
from fnsft.artifacts.networks import write_networks
from fnsft.artifacts.records import write_records
from fnsft.artifacts.scores import (
    BINS,
    HIGHEST,
    PARTITIONS,
    SCORES,
    ScoreHistograms,
    write_histograms,
)
from fnsft.artifacts.statistics import TokenStatistics, write_statistics
from fnsft.artifacts.telemetry import MaskRecord, write_masks, write_neuron_updates
from fnsft.artifacts.training import Run, TrainingRecord, write_training
from fnsft.config.stages import FigureKind, FigureSettings
from fnsft.reporting.labels import MEASURE_LABELS

SOURCES: tuple[Source, ...] = get_args(Source)
SCALED = {"model": 3.0, "random-init": 2.0, "token-shuffled": 1.0}


def training(
    method: str, seed: int, perplexity: float, task: str = "math", fraction: float | None = 0.7
) -> TrainingRecord:
    run = Run("tiny", task, method, fraction, stage=1, seed=seed, learning_rate=1e-3)
    points = [{"step": i, "epoch": i, "loss": 0.1, "perplexity": perplexity} for i in range(3)]
    return TrainingRecord(run, points, [], 2, 2, perplexity, 10, 0.7, 1.0, 1.0)


def measures_of(names: list[str], model: str = "tiny", n_layers: int = 3) -> list[Measure]:
    rng = np.random.default_rng(len(model))
    places = itertools.product(SOURCES, range(2), range(n_layers), names)
    return [
        Measure(model, source, "math", "paper", seed, layer, name, value, None, 9)
        for source, seed, layer, name in places
        for value in [float(SCALED[source] + rng.random())]
    ]


def histogram(seed: int, source: str, beyond: int = 3) -> ScoreHistograms:
    rng = np.random.default_rng(seed)
    layers = []
    for _ in range(5):
        found = {}
        for key in itertools.product(PARTITIONS, SCORES):
            ratios = rng.normal(1.3, 0.1, 4_000)
            counts, _ = np.histogram(ratios, BINS, (0, HIGHEST))
            found[key] = np.append(counts, beyond)
        layers.append(found)
    return ScoreHistograms(layers, source)


def statistics_of(counts: np.ndarray) -> TokenStatistics:
    ranks = np.zeros(len(counts))
    ranks[counts > 0] = rankdata(-counts[counts > 0])
    return TokenStatistics(counts, ranks)


def write_dump(folder: Path, values: np.ndarray, n_sampled: int) -> None:
    """Write activations, [layers, T, N], of which ``n_sampled`` tokens' values are kept."""
    n_layers, n_tokens, d_mlp = values.shape
    shape = DumpShape(n_layers, d_mlp, n_tokens, n_sampled)
    folder.mkdir()
    with DumpWriter(folder, shape, "m") as writer:
        for layer in range(n_layers):
            writer.append(layer, values[layer])
    write_dump_tokens(folder, shape, np.zeros(n_tokens), np.array([0, n_tokens]), "m")


def layer_clusters(sizes: list[int], isolated: int, seed: int = 0) -> LayerClusters:
    """Clusters of these sizes around far directions; the last neurons have no edge."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(sizes)), sizes).astype(np.int32)
    embedding = np.eye(len(sizes) + 1)[labels] + 0.05 * rng.normal(
        size=(sum(sizes), len(sizes) + 1)
    )
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    labels = np.append(labels, np.full(isolated, NO_CLUSTER, dtype=np.int32))
    embedding = np.pad(embedding, ((0, isolated), (0, 0))).astype(np.float32)
    return LayerClusters(labels, labels, embedding, np.linspace(0, 1, len(sizes) + 1))


def write_runs(folder: Path, runs: list[TrainingRecord]) -> list[str]:
    paths = [folder / f"run{number:02}" for number in range(len(runs))]
    for path, run in zip(paths, runs, strict=True):
        path.mkdir()
        write_training(path, run)
    return [str(path) for path in paths]


def write_updates(folder: Path, run: TrainingRecord, share: np.ndarray) -> str:
    """A fine-tuned model's folder, as far as the figures of its masks read it."""
    folder.mkdir()
    write_training(folder, run)
    write_neuron_updates(folder, share, 12, "m")
    write_masks(folder, mask_records(len(share)))
    return str(folder)


def mask_records(n_layers: int) -> list[MaskRecord]:
    """Records at steps 0, 5 and 10, of which the first has no step before; no neighbours."""
    places = itertools.product((0, 5, 10), range(n_layers), ("gate", "down"))
    return [
        MaskRecord(step, layer, part, 0.7, None, overlap, 0.5 + 0.1 * layer, None, 48)
        for step, layer, part in places
        for overlap in [None if step == 0 else 0.3 + 0.1 * (part == "down") + step / 50]
    ]


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, list[str]]:
    """Small inputs of every kind, with the flags that the kind needs."""
    runs = [training("collab", seed, 1.2 + value / 100) for value in (5, 20) for seed in (0, 1)]
    folders = write_runs(tmp_path, runs)
    sweep_flags = ["--axes", *["k"] * 4, "--values", "5", "5", "20", "20"]
    names = ["adjusted_rand_halves", "modularity", "mask_shared_with_random", "best_iou_chance"]
    write_measures(tmp_path / "measures.jsonl", measures_of(names))
    histograms = [tmp_path / f"{source}.safetensors" for source in SOURCES]
    for source, path in zip(SOURCES, histograms, strict=True):
        write_histograms(path, histogram(0, source), "m")
    write_dump(tmp_path / "dump", np.random.default_rng(0).normal(size=(2, 90, 8)), 40)
    write_statistics(tmp_path / "tokens.safetensors", statistics_of(np.arange(30)), "m")
    layers = [layer_clusters([20, 12, 9], 2, seed) for seed in range(2)]
    write_clusters(tmp_path / "clusters.safetensors", Clusters(layers, 43), "m")
    write_networks(tmp_path / "networks.safetensors", networks_of(), "m")
    write_lesions(tmp_path / "lesions.jsonl", lesions_of("tiny", (0, 1), n_networks=3))
    measures = [str(tmp_path / "measures.jsonl")]
    rng = np.random.default_rng(0)
    tuned = [
        write_updates(tmp_path / f"tuned{seed}", training("collab", seed, 1.2), rng.random((3, 40)))
        for seed in (0, 1)
    ]
    joined_runs = [str(tmp_path / f"joined{seed}.jsonl") for seed in (0, 1)]
    for seed, path in enumerate(joined_runs):
        write_records(Path(path), joined(("sft", "replay"), (seed,)))
    return {
        "perplexity": folders[:2],
        "updates": tuned,
        "telemetry": tuned,
        "sweep": [*folders, *sweep_flags],
        "agreement": measures,
        "structure": measures,
        "overlap": measures,
        "scores": list(map(str, histograms)),
        "activations": [str(tmp_path / "dump")],
        "influence": [str(tmp_path / "tokens.safetensors")],
        "clusters": [str(tmp_path / "clusters.safetensors")],
        "connectivity": [str(tmp_path / "networks.safetensors")],
        "coverage": [str(tmp_path / "networks.safetensors")],
        "lesions": [str(tmp_path / "lesions.jsonl")],
        "networks-clusters": measures,
        "bars": joined_runs,
        "trade-off": joined_runs,
        "rates": [*joined_runs, *joined_runs, *sweep_flags[-5:]],
    }


MODELS = {
    "a": "DeepSeek-R1-Distill-Llama-8B",
    "b": "Llama-3.1-8B-Instruct",
    "c": "Mistral-7B-v0.1",
    "d": "Qwen3-4B-Base",
}
METHODS = ("random", "highest", "gmt", "collab-cluster", "collab-cluster-l0.7", "cluster-shuffled")


def crowded(kind: FigureKind, folder: Path) -> tuple[list[Path], FigureSettings]:
    """Inputs of a kind as large as the papers' selections, with their longest names."""
    settings = FigureSettings(kind=kind, models=tuple(MODELS), model_labels=tuple(MODELS.values()))
    made: dict[str, Callable[[Path, str], list[Path]]] = {
        **dict.fromkeys(("perplexity", "updates", "telemetry", "sweep"), crowded_runs),
        **dict.fromkeys(("agreement", "structure", "overlap", "networks-clusters"), all_measures),
        **dict.fromkeys(("bars", "trade-off", "rates"), all_records),
        "scores": all_histograms,
    }
    if kind in made:
        paths = [path for model in MODELS for path in made[kind](folder, model)]
    else:
        paths = [one_file(kind, folder, model) for model in MODELS]
    if kind in ("updates", "telemetry"):
        paths = [path for path in paths if "code" not in path.name]
    if kind == "telemetry":
        paths = [path for path in paths if "0.5" in path.name]
    if kind == "sweep":
        paths = [path for path in paths if "code" not in path.name and "gmt" in path.name]
        half = len(paths) // 2
        values = (2.0, 20.0) * half
        return paths, replace(settings, axes=("k", "beta") * half, values=values)
    if kind == "rates":
        return paths, replace(settings, values=(1e-5,) * len(paths))
    if kind == "clusters":
        return paths, replace(settings, layers=(0,))
    return paths, settings


def crowded_runs(folder: Path, model: str) -> list[Path]:
    """Runs of two tasks, of every method at two fractions, with records of their masks."""
    paths = []
    for task, method, fraction in itertools.product(("math", "code"), METHODS, (0.5, 0.7)):
        run = training(method, 0, 1.2 + fraction, task, fraction)
        run = replace(run, run=replace(run.run, model=model))
        share = np.random.default_rng(0).random((4, 60))
        paths.append(
            Path(write_updates(folder / f"{model}-{task}-{method}-{fraction}", run, share))
        )
    return paths


def all_measures(folder: Path, model: str) -> list[Path]:
    """Every measure that a figure shows."""
    names = [*MEASURE_LABELS, "best_iou_chance", *(f"gradient_energy_{m}" for m in METHODS[:2])]
    names += [f"mask_shared_with_{m}" for m in ("highest", "shuffled", "random")]
    write_measures(folder / f"{model}.jsonl", measures_of(names, model, 32))
    return [folder / f"{model}.jsonl"]


def all_records(folder: Path, model: str) -> list[Path]:
    """Every run of a sequence."""
    write_records(folder / f"{model}.jsonl", joined(seeds=(0, 1), model=model))
    return [folder / f"{model}.jsonl"]


def all_histograms(folder: Path, model: str) -> list[Path]:
    """The histograms of a model and its controls."""
    paths = [folder / f"{model}-{source}.safetensors" for source in SOURCES]
    for source, path in zip(SOURCES, paths, strict=True):
        write_histograms(path, histogram(0, source), "m")
    return paths


def one_file(kind: FigureKind, folder: Path, model: str) -> Path:
    """The only file that a kind reads of a model."""
    path = folder / f"{model}.safetensors"
    if kind == "activations":
        path = folder / model
        write_dump(path, np.random.default_rng(0).normal(size=(4, 90, 8)), 40)
    elif kind == "influence":
        write_statistics(path, statistics_of(np.arange(2_000)), "m")
    elif kind == "clusters":
        write_clusters(path, Clusters([layer_clusters([20, 12, 9], 2)], 43), "m")
    elif kind in ("connectivity", "coverage"):
        write_networks(path, networks_of(), "m")
    else:
        path = folder / f"{model}.jsonl"
        write_lesions(path, lesions_of(model, (0, 1)))
    return path
