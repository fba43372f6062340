"""``fnsft project``: from activations and token statistics to a collaboration graph."""

import argparse
import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fnsft.config.stages import ProjectSettings
from fnsft.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import torch

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
    from fnsft.artifacts.graphs import CollaborationGraph, dense_graph_writer, write_graph
    from fnsft.artifacts.manifest import recorded_stage
    from fnsft.artifacts.statistics import read_statistics
    from fnsft.neurons.bits import Bits
    from fnsft.neurons.frequencies import token_weights
    from fnsft.neurons.hyperedges import documents_of, hyperedge_weights
    from fnsft.neurons.null import ShuffledBits
    from fnsft.neurons.projection import projector

    device = accelerator_of(settings)
    inputs = {"statistics": arguments.statistics, "activations": arguments.activations}
    with recorded_stage(settings, inputs, arguments.output) as record:
        dump = open_dump(arguments.activations)
        n_layers, d_mlp = dump.shape.n_layers, dump.shape.d_mlp
        ranks = read_statistics(arguments.statistics, dump.model).ranks
        weights = token_weights(dump.token_ids, ranks, settings.beta, settings.drop_top_tokens)
        weights *= documents_of(dump.sample_offsets, settings.documents)
        k_max = max(1, min(settings.k_max, d_mlp - 1))
        layers, tokens_without_neuron, mean_sizes, isolated = [], [], [], []
        with contextlib.ExitStack() as stack:
            dense: list[np.ndarray] | None = None
            if settings.dense:
                size = (n_layers, d_mlp)
                writer = dense_graph_writer(arguments.output, *size, dump.model, dump.neurons)
                dense = stack.enter_context(writer)
            for number in tqdm(range(n_layers), desc="project", unit="layer", disable=None):
                bits: Bits = dump.layer(number)
                if settings.shuffle_tokens:
                    bits = ShuffledBits(bits, settings.seed * n_layers + number)
                opened = projector(bits, device)
                sizes = opened.sizes()
                layer = opened.project(
                    sizes,
                    hyperedge_weights(sizes, weights, settings.alpha),
                    k_max,
                    settings.normalise,
                    dense[number] if dense else None,
                )
                layers.append(layer)
                tokens_without_neuron.append(int((sizes == 0).sum()))
                mean_sizes.append(round(float(sizes.mean()), 2))
                isolated.append(int((layer.indptr[1:] == layer.indptr[:-1]).sum()))
        if not settings.dense:
            graph = CollaborationGraph(layers, d_mlp, k_max, dump.neurons)
            write_graph(arguments.output, graph, dump.model)
        empty = [number for number, n in enumerate(isolated) if n == d_mlp]
        record.note(
            tokens=dump.shape.n_tokens,
            tokens_without_weight=int((weights == 0).sum()),
            tokens_without_neuron=tokens_without_neuron,
            mean_hyperedge_size=mean_sizes,
            k_max=None if settings.dense else k_max,
            neurons_without_edge=isolated,
            layers_without_edge=empty,
        )
    kept = "all weights" if settings.dense else f"the {k_max} heaviest neighbours"
    print(
        f"{arguments.output}: {kept} of {d_mlp:,} neurons in {n_layers} layers"
        + (f"; no edge in layers {empty}" if empty else ""),
        file=sys.stderr,
    )


def accelerator_of(settings: ProjectSettings) -> "torch.device | None":
    """Return the device that multiplies, or None for the CPU, which needs no torch.

    Raises
    ------
    InputError
        Where an accelerator is asked for and there is none.
    """
    if settings.device == "cpu":
        return None
    from fnsft.devices import accelerator

    found = accelerator()
    if found.type == "cpu":
        raise InputError(
            "device: expected an accelerator that torch sees, found none; use --device cpu"
        )
    return found
