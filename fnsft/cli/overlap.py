"""``fnsft overlap``: what the graph changes about a mask, on gradients of the model as it is."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fnsft.cli.flags import add_names
from fnsft.cli.measure import require_shape
from fnsft.config.stages import OverlapSettings

if TYPE_CHECKING:
    import torch

    from fnsft.artifacts.graphs import CollaborationGraph
    from fnsft.masks.policies import Policy

SETTINGS = OverlapSettings


def add_paths(parser: argparse.ArgumentParser) -> None:
    """Add the files that the stage reads and writes, and the graph's names in figures."""
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face model folder")
    parser.add_argument("--data", type=Path, required=True, help="prepared split, .jsonl")
    parser.add_argument("--graph", type=Path, required=True, help="collaboration graph")
    parser.add_argument("--output", type=Path, required=True, help="measures, .jsonl")
    add_names(parser, "graph", shown_in="figures")


def run(arguments: argparse.Namespace, settings: OverlapSettings) -> None:
    """Take the gradients of the first batches, mask each matrix, write the measures."""
    import numpy as np
    from tqdm import tqdm

    from fnsft.architectures import graph_shape, neuron_matrices
    from fnsft.artifacts.graphs import read_graph
    from fnsft.artifacts.identity import model_identity
    from fnsft.artifacts.manifest import recorded_stage
    from fnsft.artifacts.measures import Measure, write_measures
    from fnsft.data.tokens import load_split_of
    from fnsft.evaluation.loading import load_model
    from fnsft.masks.overlap import compare_policies
    from fnsft.neurons.scores import Mean

    inputs = {"model": arguments.model, "data": arguments.data, "graph": arguments.graph}
    with recorded_stage(settings, inputs, arguments.output) as record:
        graph = read_graph(arguments.graph, model_identity(arguments.model))
        split = load_split_of(arguments.model, arguments.data, settings.max_tokens)
        model = load_model(arguments.model, "float32")
        matrices = neuron_matrices(model, graph.neurons)
        expected = graph_shape(model, graph.neurons)
        require_shape(arguments.graph, (graph.n_layers, graph.d_mlp), expected)
        samples = split.samples[: settings.batches * settings.batch_size]
        starts = range(0, len(samples), settings.batch_size)
        batches = [samples[start : start + settings.batch_size] for start in starts]
        policies = build_policies(graph, settings, matrices[0].parameter.device)
        found = compare_policies(
            model, matrices, policies, tqdm(batches, desc="overlap", unit="batch", disable=None)
        )
        run_of = {
            "model": arguments.model_name,
            "source": "model",
            "task": arguments.task,
            "graph": arguments.graph_name,
            "seed": arguments.run_seed,
        }
        measures = [
            Measure(**run_of, layer=matrix.layer, part=matrix.role, measure=name, **vars(mean))
            for matrix, shares in zip(matrices, found, strict=True)
            for name, values in shares.items()
            if (mean := Mean.of(np.array(values)))
        ]
        write_measures(arguments.output, measures)
        record.note(
            batches=len(batches),
            samples=len(samples),
            samples_left_out=split.n_left_out,
        )
    shared = [m.value for m in measures if m.measure == "mask_shared_with_highest"]
    summary = f"{np.mean(shared):.1%} of the graph's masks are in the highest too"
    print(
        f"{arguments.output}: {len(matrices)} matrices on {len(batches)} batches; "
        + (summary if shared else "the masks are empty"),
        file=sys.stderr,
    )


def build_policies(
    graph: "CollaborationGraph", settings: OverlapSettings, device: "torch.device"
) -> "dict[str, Policy]":
    """Return the policies whose masks are compared, by name."""
    from fnsft.masks.affinity import knn_affinity, shuffled
    from fnsft.masks.policies import Collab, Highest, Random

    knn = [
        knn_affinity(x.indptr, x.indices, x.weights, settings.k, graph.k_max) for x in graph.layers
    ]
    permuted = [shuffled(affinity, settings.seed, number) for number, affinity in enumerate(knn)]
    fraction, seed = settings.fraction, settings.seed
    return {
        "highest": Highest(fraction, seed),
        "collab": Collab(fraction, seed, settings.lam, [w.to(device) for w in knn]),
        "shuffled": Collab(fraction, seed, settings.lam, [w.to(device) for w in permuted]),
        # Of the same seed it would agree with the others wherever a gradient of zeros makes ties.
        "random": Random(fraction, seed + 1),
    }
