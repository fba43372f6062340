"""Which neurons a run's mask is about: networks from a file, or found in the training data.

A choice is a bool vector [width] a layer: the chosen channels of the networks' site.
"""

import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel, TrainingArguments

from fnsft.architectures.sites import site_widths
from fnsft.artifacts.identity import model_identity
from fnsft.artifacts.manifest import recorded_stage
from fnsft.artifacts.networks import read_templates, write_networks
from fnsft.artifacts.templates import Templates, Widths
from fnsft.config.layer_ranges import parse_layers
from fnsft.config.stages import NetworksSettings, Site, TrainSettings
from fnsft.data.tokens import Encoded
from fnsft.errors import InputError
from fnsft.masks.random_sets import size_matched
from fnsft.training.files import RunFiles
from fnsft.training.loading import outside_of_training

FILE_NAME = "networks.safetensors"
NEURON_SITES: tuple[Site, ...] = ("activation", "up", "intermediate")  # whose channels are neurons
LISTED_LAYERS = 8  # with more than these, layers are summed up in one line


@dataclass(frozen=True, eq=False)
class NeuronChoice:
    """Channels of a site: those of the first epoch, then with all that join in each later one."""

    site: Site
    epochs: Sequence[list[np.ndarray]]

    @property
    def counts(self) -> list[list[int]]:
        """How many channels are chosen in each epoch's layers."""
        return [[int(layer.sum()) for layer in layers] for layers in self.epochs]


@dataclass(frozen=True, eq=False)
class ColumnChoice:
    """Columns of every MLP matrix, by its index: a bool vector over its inputs."""

    columns: list[np.ndarray]


def choose_neurons(templates: Templates, settings: TrainSettings) -> NeuronChoice:
    """Return the channels that the run's settings name, or as many random ones.

    Raises
    ------
    InputError
        For networks or layers that there are not, for networks without a neuron in these
        layers, and where rows of weights are to be masked for networks of the MLP's output,
        whose channels own none.
    """
    if settings.trains_networks and templates.site == "output":
        raise InputError(
            f"mask_mode: {settings.mask_mode!r} masks neurons' weights, which the channels of the "
            "networks' site 'output' do not have; use lesion or preserve, or networks of another "
            "site"
        )
    layers = parse_layers(settings.mask_layers, len(templates.widths), "mask_layers")
    epochs: list[list[np.ndarray]] = []
    for ids in (settings.component_ids, *settings.unfreezing()):
        joining = templates.union(ids, layers)
        before = epochs[-1] if epochs else joining
        epochs.append([old | new for old, new in zip(before, joining, strict=True)])
    if settings.random_networks:
        epochs = [size_matched(chosen, settings.seed, draw=0) for chosen in epochs]
    return NeuronChoice(templates.site, epochs)


def trained_share(file: Path, settings: TrainSettings, layers: int, d_mlp: int) -> float:
    """Return the share of neurons that a mask on the update lets train, of networks in a file.

    Raises
    ------
    InputError
        As :func:`choose_neurons`, and for networks of another shape.
    """
    widths: Widths = {site: (d_mlp,) * layers for site in NEURON_SITES}
    choice = choose_neurons(read_templates(file, widths), settings)
    share = sum(choice.counts[0]) / (layers * d_mlp)
    return share if settings.mask_mode == "train-only" else 1 - share


def read_or_find(
    model: PreTrainedModel,
    files: RunFiles,
    samples: Sequence[Encoded],
    seed: int,
    arguments: TrainingArguments,
    identity: str,
) -> Templates:
    """Return the networks of the file that was given, or find them in the training samples.

    Those of the file are of the model with this ``identity``, which may be another stage's.
    Those that are found stay in the run's checkpoints with their manifest, so that a run that
    resumes has the same ones. Of several processes the main one finds them, the others wait
    and read.
    """
    widths = site_widths(model)
    if files.networks is not None:
        return read_templates(files.networks, widths, identity)
    path = files.checkpoints / FILE_NAME
    with arguments.main_process_first(local=False):
        if arguments.process_index == 0 and not path.exists():
            inputs = {"model": files.model, "data": files.train}
            if not getattr(model, "is_quantized", False):  # which lies on its device already
                model.to(arguments.device)
            with outside_of_training(model):
                _find(model, [sample.ids for sample in samples], seed, inputs, path)
    return read_templates(path, widths, identity)


def _find(
    model: PreTrainedModel,
    ids: Sequence[Sequence[int]],
    seed: int,
    inputs: dict[str, Path],
    path: Path,
) -> None:
    """Find networks with the defaults of ``fnsft networks`` and write them."""
    # Seconds of import, for these runs alone.
    from fnsft.neurons.decomposition import NetworksDidNotConverge
    from fnsft.neurons.discovery import find_networks

    found_with = NetworksSettings(seed=seed)
    print(
        f"networks: none given, so {found_with.n_components} are found in the training data",
        file=sys.stderr,
    )
    with recorded_stage(found_with, inputs, path) as stage, warnings.catch_warnings():
        warnings.simplefilter("ignore", NetworksDidNotConverge)  # a doubt says it
        discovery = find_networks(model, [ids], found_with, path.parent)
        for doubt in discovery.doubts:
            print(f"networks: {doubt}", file=sys.stderr)
        stage.note(**discovery.notes)
        write_networks(path, discovery.networks, model_identity(inputs["model"]))


def files_found(checkpoints: Path) -> list[Path]:
    """Return the files of the networks that a run has found, with their manifest."""
    return sorted(checkpoints.glob(f"{Path(FILE_NAME).stem}.*"))


def described(chosen: Sequence[np.ndarray]) -> list[str]:
    """Say in lines what share of which layers' neurons is chosen."""
    counts = [(layer, int(mask.sum()), len(mask)) for layer, mask in enumerate(chosen)]
    counts = [count for count in counts if count[1]]
    if len(counts) <= LISTED_LAYERS:
        return [f"{_share(n, width)} in layer {layer}" for layer, n, width in counts]
    total = _share(sum(n for _, n, _ in counts), sum(len(mask) for mask in chosen))
    most = max(counts, key=lambda count: count[1] / count[2])
    return [f"{total} in {len(counts)} layers, most in layer {most[0]}: {_share(*most[1:])}"]


def _share(n: int, width: int) -> str:
    return f"{100 * n / width:.1f} % of neurons, {n:,} of {width:,}"
