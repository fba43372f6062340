"""``fnsft project``: from activations and token statistics to a collaboration graph."""

import argparse
import sys
from pathlib import Path

from fnsft.config.stages import ProjectSettings

SETTINGS = ProjectSettings


def add_paths(parser: argparse.ArgumentParser) -> None:
    """Add the files that the stage reads and writes."""
    parser.add_argument("--statistics", type=Path, required=True, help="token statistics")
    parser.add_argument("--activations", type=Path, required=True, help="folder of fnsft capture")
    parser.add_argument("--output", type=Path, required=True, help="graph, .safetensors")


def run(arguments: argparse.Namespace, settings: ProjectSettings) -> None:
    """Weigh the tokens, project every layer, write the graph."""
    from tqdm import tqdm

    from fnsft.artifacts.activations import open_dump
    from fnsft.artifacts.graphs import CollaborationGraph, write_graph
    from fnsft.artifacts.manifest import recorded_stage
    from fnsft.artifacts.statistics import read_statistics
    from fnsft.neurons.frequencies import token_weights
    from fnsft.neurons.projection import hyperedge_sizes, hyperedge_weights, project_layer

    inputs = {"statistics": arguments.statistics, "activations": arguments.activations}
    k_max = None if settings.dense else settings.k_max
    with recorded_stage(settings, inputs, arguments.output) as record:
        dump = open_dump(arguments.activations)
        ranks = read_statistics(arguments.statistics, dump.model).ranks
        weights = token_weights(dump.token_ids, ranks, settings.beta, settings.drop_top_tokens)
        layers, tokens_without_neuron, mean_sizes = [], [], []
        for number in tqdm(range(dump.shape.n_layers), desc="project", unit="layer", disable=None):
            bits = dump.layer(number)
            sizes = hyperedge_sizes(bits, dump.shape.n_tokens)
            layers.append(
                project_layer(bits, hyperedge_weights(sizes, weights, settings.alpha), k_max)
            )
            tokens_without_neuron.append(int((sizes == 0).sum()))
            mean_sizes.append(round(float(sizes.mean()), 2))
        graph = CollaborationGraph(layers, dump.shape.d_mlp, k_max)
        write_graph(arguments.output, graph, dump.model)
        edges = [len(layer.indices) for layer in layers]
        empty = [number for number, n in enumerate(edges) if n == 0]
        record.note(
            tokens=dump.shape.n_tokens,
            tokens_dropped_as_frequent=int((weights == 0).sum()),
            tokens_without_neuron=tokens_without_neuron,
            mean_hyperedge_size=mean_sizes,
            edges=edges,
            layers_without_edge=empty,
        )
    print(
        f"{arguments.output}: {sum(edges):,} edges in {len(layers)} layers of "
        f"{graph.d_mlp:,} neurons" + (f"; no edge in layers {empty}" if empty else ""),
        file=sys.stderr,
    )
