"""``fnsft cluster``: from a collaboration graph to clusters of every layer's neurons."""

import argparse
import dataclasses
import sys
from pathlib import Path

from fnsft.config.stages import ClusterSettings

SETTINGS = ClusterSettings


def add_paths(parser: argparse.ArgumentParser) -> None:
    """Add the files that the stage reads and writes."""
    parser.add_argument("--graph", type=Path, required=True, help="collaboration graph")
    parser.add_argument("--output", type=Path, required=True, help="clusters, .safetensors")


def run(arguments: argparse.Namespace, settings: ClusterSettings) -> None:
    """Cluster every layer, write the clusters, say where the settings could not be met."""
    import numpy as np
    from tqdm import tqdm

    from fnsft.artifacts.clusters import NO_CLUSTER, Clusters, write_clusters
    from fnsft.artifacts.graphs import graph_model, read_graph
    from fnsft.artifacts.manifest import recorded_stage
    from fnsft.neurons.clustering import cluster_layer, entropy_bits

    with recorded_stage(settings, {"graph": arguments.graph}, arguments.output) as record:
        graph = read_graph(arguments.graph)
        layers = [
            cluster_layer(layer, graph.k_max, **dataclasses.asdict(settings))
            for layer in tqdm(graph.layers, desc="cluster", unit="layer", disable=None)
        ]
        model = graph_model(arguments.graph)
        clusters = Clusters(layers, graph.d_mlp, graph.neurons)
        write_clusters(arguments.output, clusters, model)
        n_clusters = [len(layer.members) for layer in layers]
        entropies = [round(entropy_bits(layer.labels), 4) for layer in layers]
        silent = [number for number, n in enumerate(n_clusters) if n == 0]
        low = [
            number
            for number, bits in enumerate(entropies)
            if bits < settings.min_entropy_bits and number not in silent
        ]
        record.note(
            clusters=n_clusters,
            entropy_bits_unsplit=[round(entropy_bits(x.labels_unsplit), 4) for x in layers],
            entropy_bits=entropies,
            layers_below_min_entropy=low,
            eigenvectors=[len(layer.eigenvalues) for layer in layers],
            neurons_without_edge=[int(np.sum(x.labels == NO_CLUSTER)) for x in layers],
            layers_without_edge=silent,
        )
    print(
        f"{arguments.output}: {sum(n_clusters):,} clusters in {len(layers)} layers of "
        f"{graph.d_mlp:,} neurons"
        + (f"; under {settings.min_entropy_bits} bits in layers {low}" if low else "")
        + (f"; no edge in layers {silent}" if silent else ""),
        file=sys.stderr,
    )
