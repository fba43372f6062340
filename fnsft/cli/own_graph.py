"""The graph or the clusters that a method reads: given, or made of the run's own data."""

import argparse
import shutil
import sys
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from fnsft.config.stages import (
    CaptureSettings,
    ClusterSettings,
    ProjectSettings,
    StatisticsSettings,
    TrainSettings,
)
from fnsft.errors import InputError

if TYPE_CHECKING:
    from fnsft.training.files import RunFiles
    from fnsft.training.masking import Graph

SOURCES = ("graph", "clusters")


def wanted_structure(arguments: argparse.Namespace, settings: TrainSettings) -> str | None:
    """Return which file the method reads (graph, clusters), or none; refuse others."""
    wanted = settings.wanted_structure
    what = f"method {settings.method!r}"
    what += f" with affinity {settings.affinity!r}" if settings.affinity else ""
    for structure in SOURCES:
        if getattr(arguments, structure) is not None and structure != wanted:
            raise InputError(f"{what} takes no {structure}; leave --{structure} out")
    return wanted


def read_structure(path: Path, settings: TrainSettings, model: str) -> "Graph":
    """Read the graph or clusters of this model's neurons."""
    from fnsft.artifacts.clusters import read_clusters
    from fnsft.artifacts.graphs import open_dense_graph, read_graph
    from fnsft.artifacts.tensors import require_neurons

    found: Graph
    if settings.wanted_structure == "clusters":
        found = read_clusters(path, model)
    else:
        read = open_dense_graph if settings.affinity == "dense" else read_graph
        found = read(path, model)
    require_neurons(path, found.neurons, settings.neurons)
    return found


def make_graph(files: "RunFiles", settings: TrainSettings) -> Path:
    """Make the graph, or the clusters, that a run's method needs; return the file.

    It is made of the first ``graph_samples`` training samples with the defaults of ``fnsft
    statistics``, ``capture``, ``project`` and ``cluster``, and stays in the run's checkpoints,
    so that a run that resumes has the same one. The activations go as soon as it is there.
    """
    from fnsft.artifacts.rows import numbered_rows
    from fnsft.artifacts.storage import manifest_path, write_jsonl
    from fnsft.cli import capture, cluster, project, statistics
    from fnsft.training.checkpoints import is_claimed
    from fnsft.training.files import GRAPH_FOLDER

    folder = files.checkpoints / GRAPH_FOLDER
    graph, clusters = folder / "graph.safetensors", folder / "clusters.safetensors"
    wanted = clusters if settings.wanted_structure == "clusters" else graph
    # Until the folder is claimed, a graph in it may be another run's.
    if is_claimed(files.checkpoints) and manifest_path(wanted).is_file():
        print(f"{wanted}: made before", file=sys.stderr)
        return wanted
    print(
        f"{settings.method}: no {wanted.stem} given, so it is made of the first "
        f"{settings.graph_samples:,} training samples (--graph-samples)",
        file=sys.stderr,
    )
    shutil.rmtree(folder, ignore_errors=True)
    samples, tokens = folder / "samples.jsonl", folder / "tokens.safetensors"
    activations = folder / "activations"
    write_jsonl(
        samples, [row for _, row in islice(numbered_rows(files.train), settings.graph_samples)]
    )
    model_and_data = {"model": files.model, "data": samples}
    limit = settings.max_tokens
    statistics.run(_flags(**model_and_data, output=tokens), StatisticsSettings(max_tokens=limit))
    capture.run(
        _flags(**model_and_data, output=activations),
        CaptureSettings(neurons=settings.neurons, max_tokens=limit, dtype=settings.dtype),
    )
    k_max = max(settings.k, ProjectSettings().k_max)
    project.run(
        _flags(statistics=tokens, activations=activations, output=graph),
        ProjectSettings(dense=settings.affinity == "dense", k_max=k_max),
    )
    if wanted == clusters:
        cluster.run(_flags(graph=graph, output=clusters), ClusterSettings())
    shutil.rmtree(activations)
    return wanted


def _flags(**paths: Path) -> argparse.Namespace:
    return argparse.Namespace(**paths)
