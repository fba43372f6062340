"""``fnsft networks``: functional networks of a model on some data, without any training."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fnsft.config.stages import NetworksSettings
from fnsft.errors import InputError

if TYPE_CHECKING:
    from fnsft.artifacts.networks import Networks

SETTINGS = NetworksSettings


def add_paths(parser: argparse.ArgumentParser) -> None:
    """Add the files that the stage reads and writes, and which networks others see."""
    parser.add_argument("model", type=Path, help="Hugging Face model folder")
    parser.add_argument(
        "data",
        type=Path,
        nargs="+",
        help="data sets: prepared splits or rows with a text, .jsonl, or lines of a .txt; "
        "networks of several are those that they share",
    )
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        help="networks, .safetensors; the neurons of each also as .json beside it",
    )
    parser.add_argument(
        "--component-ids",
        type=int,
        nargs="+",
        default=[],
        metavar="N",
        help="networks that go into the .json, by number from 0; all when absent",
    )


def run(arguments: argparse.Namespace, settings: NetworksSettings) -> None:
    """Check what can be checked, find the networks, write them and their neurons."""
    import warnings

    from fnsft.artifacts.identity import model_identity
    from fnsft.artifacts.manifest import recorded_stage
    from fnsft.artifacts.networks import write_networks
    from fnsft.data.tokens import load_samples, load_tokenizer, stop_ids_of
    from fnsft.evaluation.loading import load_model
    from fnsft.neurons.decomposition import NetworksDidNotConverge
    from fnsft.neurons.discovery import analysed_widths, find_networks, layer_groups

    output = arguments.output
    if output.suffix != ".safetensors":
        raise InputError(f"{output}: output: expected a .safetensors file")
    several = len(arguments.data) > 1
    inputs = {"model": arguments.model} | {
        f"data_{number}" if several else "data": path for number, path in enumerate(arguments.data)
    }
    with recorded_stage(settings, inputs, output) as record:
        identity = model_identity(arguments.model)
        tokenizer = load_tokenizer(arguments.model)
        stop_ids = stop_ids_of(arguments.model)
        datasets = [load_samples(path, tokenizer, stop_ids) for path in arguments.data]
        model = load_model(arguments.model, settings.dtype)
        n_layers = len(analysed_widths(model, settings.site))
        n_networks = settings.n_components * len(layer_groups(settings, n_layers))
        if unknown := [i for i in arguments.component_ids if not 0 <= i < n_networks]:
            raise InputError(
                f"component_ids: expected networks 0 to {n_networks - 1}, found {unknown[0]}"
            )
        with warnings.catch_warnings():
            # The summary says it.
            warnings.simplefilter("ignore", NetworksDidNotConverge)
            found = find_networks(model, datasets, settings, output.parent)
        write_networks(output, found.networks, identity, arguments.component_ids)
        record.note(**found.notes, component_ids=arguments.component_ids)
    doubts = f"; {found.doubts[0]}" if found.doubts else ""
    if len(found.doubts) > 1:
        doubts += f", and so in {len(found.doubts) - 1} more analyses"
    print(f"{output}: {summary(found.networks)}{doubts}", file=sys.stderr)


def summary(networks: "Networks") -> str:
    """Say in one line how many networks and neurons there are, and how far to trust them."""
    import numpy as np

    analyses = networks.analyses
    members = [analysis.members for analysis in analyses]
    n_networks, n_all = sum(map(len, members)), sum(part.shape[1] for part in members)
    n_neurons = sum(int(part.any(axis=0).sum()) for part in members)
    empty = sum(int((~part.any(axis=1)).sum()) for part in members)
    stability = np.concatenate([analysis.stability for analysis in analyses])
    text = (
        f"{n_networks} networks of {n_neurons:,} of {n_all:,} neurons ({n_neurons / n_all:.1%}) "
        f"in {len({layer for analysis in analyses for layer in analysis.layers})} layers; "
    )
    if np.isnan(stability).all():
        text += "stability unknown of one restart"
    else:
        text += f"stability {np.nanmin(stability):.2f} to {np.nanmax(stability):.2f}"
    if empty:
        text += f"; {empty} networks without a neuron: lower the threshold"
    return text
