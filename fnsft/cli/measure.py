"""``fnsft measure``: whether a graph and its clusters mean anything."""

import argparse
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, get_args

from fnsft.artifacts.measures import Source
from fnsft.cli.flags import add_names
from fnsft.config.stages import MeasureSettings
from fnsft.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from torch.nn import Module

    from fnsft.artifacts.activations import ActivationDump
    from fnsft.artifacts.clusters import Clusters
    from fnsft.artifacts.graphs import CollaborationGraph
    from fnsft.artifacts.measures import Measure
    from fnsft.config.stages import Neurons
    from fnsft.neurons.bits import Bits
    from fnsft.neurons.measures import Finding
    from fnsft.neurons.scores import LayerScores

SETTINGS = MeasureSettings


def add_paths(parser: argparse.ArgumentParser) -> None:
    """Add the files that the stage reads and writes, and the graph's names in figures."""
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face model folder")
    parser.add_argument("--graph", type=Path, required=True, help="collaboration graph")
    parser.add_argument("--clusters", type=Path, required=True, help="clusters of the graph")
    parser.add_argument(
        "--activations", type=Path, required=True, help="folder of fnsft capture, unseen tokens"
    )
    for kind in ("graphs", "clusters"):
        parser.add_argument(
            f"--halves-{kind}",
            type=Path,
            nargs=2,
            metavar=("EVEN", "ODD"),
            help=f"{kind} of both halves of the data",
        )
    parser.add_argument("--other-clusters", type=Path, help="clusters of another data set")
    parser.add_argument("--output", type=Path, required=True, help="measures, .jsonl")
    parser.add_argument(
        "--histograms", type=Path, required=True, help="histograms of the scores, .safetensors"
    )
    add_names(parser, "graph", shown_in="figures")
    parser.add_argument("--source", required=True, choices=get_args(Source), help="whose graph")


def run(arguments: argparse.Namespace, settings: MeasureSettings) -> None:
    """Check that all inputs are of one model, measure every layer, write the numbers."""
    from tqdm import tqdm

    from fnsft.artifacts.identity import model_identity
    from fnsft.artifacts.manifest import recorded_stage
    from fnsft.artifacts.measures import Measure, write_measures
    from fnsft.artifacts.scores import ScoreHistograms, write_histograms
    from fnsft.evaluation.loading import load_model

    if (arguments.source == "token-shuffled") != settings.shuffle_tokens:
        raise InputError(
            f"source: expected token-shuffled with shuffle_tokens and only then, found "
            f"{arguments.source}; a null's graph is measured on shuffled tokens"
        )
    files = input_files(arguments)
    with recorded_stage(settings, files, arguments.output) as record:
        identity = model_identity(arguments.model)
        inputs = read_inputs(files, settings.k, identity)
        rows = neuron_rows(load_model(arguments.model, "float32"), inputs.dump.neurons)
        run_of = {
            "model": arguments.model_name,
            "source": arguments.source,
            "task": arguments.task,
            "graph": arguments.graph_name,
            "seed": arguments.run_seed,
        }
        n_layers = inputs.dump.shape.n_layers
        measures, histograms, skipped = [], [], []
        for number in tqdm(range(n_layers), desc="measure", unit="layer", disable=None):
            scores, found = measure_layer(inputs, number, next(rows), settings)
            measures += [Measure(**run_of, layer=number, **vars(finding)) for finding in found]
            histograms.append(scores.histograms)
            skipped.append(scores.partitions["clusters"].skipped)
        write_histograms(
            arguments.histograms, ScoreHistograms(histograms, arguments.source), identity
        )
        write_measures(arguments.output, measures)
        record.note(
            tokens=inputs.dump.shape.n_tokens,
            tokens_with_less_than_two_clustered_neurons=skipped,
            layers_without=left_out(measures, n_layers),
        )
    print(
        f"{arguments.output}: {len(measures):,} measures of {n_layers} layers "
        f"({arguments.source}); median unbiased Score / Null: {ratios(measures) or 'none'}",
        file=sys.stderr,
    )


def ratios(measures: "list[Measure]") -> str:
    """Return the median over layers of Score / Null of both partitions, where they have one."""
    texts = []
    for prefix, partition in (("", "the clusters"), ("parameters_", "those of the parameters")):
        name = f"{prefix}score_over_null_unbiased"
        if values := [m.value for m in measures if m.measure == name]:
            texts.append(f"{median(values):.3f} for {partition}")
    return ", ".join(texts)


@dataclasses.dataclass(frozen=True, eq=False)
class Inputs:
    """What is measured, all of one model; the halves are even and odd, or none."""

    graph: "CollaborationGraph"
    clusters: "Clusters"
    dump: "ActivationDump"
    halves_graphs: "list[CollaborationGraph]"
    halves_clusters: "list[Clusters]"
    other_clusters: "Clusters | None"


def input_files(arguments: argparse.Namespace) -> dict[str, Path]:
    """Return the files that were given, by what they are."""
    files = {
        name: getattr(arguments, name) for name in ("model", "graph", "clusters", "activations")
    }
    for kind in ("halves_graphs", "halves_clusters"):
        halves = getattr(arguments, kind) or []
        files |= dict(zip((f"{kind}_even", f"{kind}_odd"), halves, strict=False))
    if arguments.other_clusters is not None:
        files["other_clusters"] = arguments.other_clusters
    return files


def read_inputs(files: dict[str, Path], k: int, identity: str) -> Inputs:
    """Read the files; those of another model or shape, or with too few neighbours, are refused."""
    from fnsft.artifacts.activations import open_dump
    from fnsft.artifacts.clusters import read_clusters
    from fnsft.artifacts.graphs import read_graph
    from fnsft.artifacts.tensors import require_neurons

    dump = open_dump(files["activations"])
    if dump.model != identity:
        raise InputError(
            f"{files['activations']}: made from model {dump.model}, expected model {identity}; "
            "capture it anew, or name the model that it was made from"
        )
    expected = (dump.shape.n_layers, dump.shape.d_mlp)
    graphs, clusters = {}, {}
    for name, path in files.items():
        if "graph" in name:
            graph = graphs[name] = read_graph(path, identity)
            require_neurons(path, graph.neurons, dump.neurons)
            require_shape(path, (graph.n_layers, graph.d_mlp), expected)
            if k > graph.k_max:
                raise InputError(
                    f"{path}: k: expected at most the k_max={graph.k_max} neighbours that it "
                    f"stores, found {k}; lower k, or project it with k_max of at least {k}"
                )
        elif "clusters" in name:
            part = clusters[name] = read_clusters(path, identity)
            require_neurons(path, part.neurons, dump.neurons)
            require_shape(path, (len(part.layers), part.d_mlp), expected)
    return Inputs(
        graph=graphs.pop("graph"),
        clusters=clusters.pop("clusters"),
        dump=dump,
        other_clusters=clusters.pop("other_clusters", None),
        halves_graphs=list(graphs.values()),
        halves_clusters=list(clusters.values()),
    )


def require_shape(path: Path, found: tuple[int, int], expected: tuple[int, int]) -> None:
    """Refuse a file that has other layers or neurons than the model."""
    if found != expected:
        raise InputError(
            f"{path}: expected {expected[0]} layers of {expected[1]} neurons, found {found[0]} "
            f"of {found[1]}; make it anew from this model"
        )


def neuron_rows(model: "Module", neurons: "Neurons") -> "Iterator[np.ndarray]":
    """Yield every layer's up (of heads: output) projection, one row a neuron, [N, d] float32."""
    from fnsft.architectures import neuron_matrices

    for matrix in neuron_matrices(model, neurons):
        if matrix.role in ("up", "output"):
            weights = matrix.view(matrix.parameter.detach())
            yield (weights.t() if matrix.neuron_axis else weights).float().cpu().numpy()


def measure_layer(
    inputs: Inputs, number: int, rows: "np.ndarray", settings: MeasureSettings
) -> "tuple[LayerScores, list[Finding]]":
    """Score a layer's clusters and those of its parameters; gather all of its numbers."""
    from fnsft.neurons.measures import (
        agreement_findings,
        neighbour_findings,
        score_findings,
        structure_findings,
    )
    from fnsft.neurons.null import ShuffledBits
    from fnsft.neurons.scores import parameter_clusters, score_layer

    clusters = inputs.clusters.layers[number]
    labels = clusters.labels
    of_parameters = parameter_clusters(rows, labels, settings.seed)
    bits: Bits = inputs.dump.layer(number)
    if settings.shuffle_tokens:
        bits = ShuffledBits(bits, settings.seed)
    scores = score_layer(bits, {"clusters": labels, "parameters": of_parameters})
    found = [*score_findings(scores), *agreement_findings("parameters", labels, of_parameters)]
    found += structure_findings(inputs.graph.layers[number], settings.k, clusters)
    if inputs.halves_graphs:
        even, odd = (graph.layers[number] for graph in inputs.halves_graphs)
        found += neighbour_findings(even, odd, settings.k)
    if inputs.halves_clusters:
        first, second = (half.layers[number].labels for half in inputs.halves_clusters)
        found += agreement_findings("halves", first, second)
    if inputs.other_clusters is not None:
        others = inputs.other_clusters.layers[number].labels
        found += agreement_findings("datasets", labels, others)
    return scores, found


def left_out(measures: "list[Measure]", n_layers: int) -> dict[str, list[int]]:
    """Return the layers that lack a measure which another layer, or every graph, has."""
    from fnsft.neurons.measures import GRAPH_MEASURES

    of_inputs = ("_halves", "_datasets")
    expected = {name for name in GRAPH_MEASURES if not name.endswith(of_inputs)}
    found = {(m.measure, m.layer) for m in measures}
    lacking = {
        name: [layer for layer in range(n_layers) if (name, layer) not in found]
        for name in GRAPH_MEASURES
        if name in expected | {measure for measure, _ in found}
    }
    return {name: layers for name, layers in lacking.items() if layers}
