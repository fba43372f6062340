"""``fnsft agree``: whether ICA networks and collaboration clusters are the same neurons."""

import argparse
import sys
from pathlib import Path
from typing import get_args

from fnsft.artifacts.measures import Source
from fnsft.cli.flags import add_names
from fnsft.config.stages import AgreeSettings
from fnsft.errors import InputError

SETTINGS = AgreeSettings


def add_paths(parser: argparse.ArgumentParser) -> None:
    """Add the files that the stage reads and writes, and the names in figures."""
    parser.add_argument("--networks", type=Path, required=True, help="networks, .safetensors")
    parser.add_argument("--clusters", type=Path, required=True, help="clusters of the same model")
    parser.add_argument("--output", type=Path, required=True, help="measures, .jsonl")
    add_names(parser, "networks", "graph", shown_in="figures")
    parser.add_argument("--source", required=True, choices=get_args(Source), help="whose networks")


def run(arguments: argparse.Namespace, settings: AgreeSettings) -> None:
    """Check that both files are of one model, compare every layer, write the measures."""
    from statistics import median

    import numpy as np
    from tqdm import tqdm

    from fnsft.artifacts.clusters import read_clusters
    from fnsft.artifacts.manifest import recorded_stage
    from fnsft.artifacts.measures import Measure, write_measures
    from fnsft.artifacts.networks import read_networks
    from fnsft.artifacts.tensors import require_neurons
    from fnsft.neurons.matching import NetworkSet
    from fnsft.neurons.network_clusters import NETWORK_MEASURES, compare_with_clusters

    inputs = {"networks": arguments.networks, "clusters": arguments.clusters}
    with recorded_stage(settings, inputs, arguments.output) as record:
        header, networks = read_networks(arguments.networks)
        if networks.site == "output":
            raise InputError(
                f"{arguments.networks}: expected networks of neurons (activation, up or "
                "intermediate), found the site output, whose channels are no neurons"
            )
        clusters = read_clusters(arguments.clusters, header.model)
        require_neurons(arguments.clusters, clusters.neurons, "mlp")  # which networks are of
        if networks.widths != (clusters.d_mlp,) * clusters.n_layers:
            raise InputError(
                f"{arguments.clusters}: expected {len(networks.widths)} layers of "
                f"{networks.widths[0]} neurons, found {clusters.n_layers} of {clusters.d_mlp}; "
                "make both from one model"
            )
        run_of = {
            "model": arguments.model_name,
            "source": arguments.source,
            "task": arguments.task,
            "graph": arguments.networks_name,
            "seed": arguments.run_seed,
        }
        layers = NetworkSet.of_networks(networks).layers
        measures = [
            Measure(**run_of, layer=number, **vars(finding))
            for number, layer in enumerate(tqdm(layers, desc="agree", unit="layer", disable=None))
            for finding in compare_with_clusters(
                layer,
                clusters.layers[number].labels,
                settings.permutations,
                np.random.default_rng((settings.seed, number)),
            )
        ]
        write_measures(arguments.output, measures)
        values = {
            name: {m.layer: m.value for m in measures if m.measure == name}
            for name in NETWORK_MEASURES
        }
        record.note(
            clusters_of=arguments.graph_name,
            layers_without={
                name: [number for number in range(len(layers)) if number not in found]
                for name, found in values.items()
            },
        )
    medians = [f"{median(x.values()):.3f}" if x else "none" for x in values.values()]
    print(
        f"{arguments.output}: {len(layers)} layers ({arguments.source}); median adjusted Rand "
        f"index {medians[0]}, best IoU {medians[1]} ({medians[2]} by chance)",
        file=sys.stderr,
    )
