"""From a method's settings to the policy that masks the matrices of a model's neurons."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from fnsft.architectures import (
    MLPMatrix,
    adapter_matrices,
    graph_shape,
    neuron_biases,
    neuron_matrices,
)
from fnsft.artifacts.clusters import Clusters
from fnsft.artifacts.graphs import CollaborationGraph, DenseGraph
from fnsft.config.stages import CLUSTER_AFFINITIES, TrainSettings
from fnsft.errors import InputError
from fnsft.masks.affinity import (
    Affinity,
    cluster_affinity,
    dense_affinity,
    knn_affinity,
    shuffled,
    shuffled_labels,
)
from fnsft.masks.diffusion import DiffusionAffinity
from fnsft.masks.masker import GradientMasker
from fnsft.masks.policies import (
    Collab,
    Columns,
    Fixed,
    HalfFineTuning,
    Highest,
    Momentum,
    Network,
    PackedMask,
    Policy,
    Random,
    SmallWeights,
    draw_matrices,
)
from fnsft.masks.shards import local, shard_of
from fnsft.masks.telemetry import Telemetry
from fnsft.training.networks import ColumnChoice, NeuronChoice

Graph = CollaborationGraph | DenseGraph | Clusters  # what neighbours are read from
Structure = Graph | NeuronChoice | ColumnChoice
Draw = Callable[[Sequence[MLPMatrix]], list[PackedMask]]  # masks that are drawn once


def masked_matrices(model: torch.nn.Module, settings: TrainSettings) -> list[MLPMatrix]:
    """Return what a method masks: neurons' weights, for whole neurons biases too, or adapters.

    To the methods with a share p of every matrix a bias is no matrix.
    """
    if settings.method == "lora":
        return adapter_matrices(model)
    neurons = settings.neurons
    biases = neuron_biases(model, neurons) if settings.neuron_wise else []
    return neuron_matrices(model, neurons) + biases


def choose_trainable(model: torch.nn.Module, settings: TrainSettings) -> None:
    """Freeze all but what neurons own where the method, or ``unmasked: freeze``, asks for it.

    Raises
    ------
    InputError
        For a parameter of which neurons own a part alone, as of GPT-2's queries, keys and values.
    """
    frozen = settings.masked and settings.unmasked == "freeze"
    # With adapters nothing else trains, and a quantised model has no weights to list.
    if settings.method != "lora" and (frozen or settings.method == "projections-only"):
        model.requires_grad_(False)
        for matrix in masked_matrices(model, settings):
            if matrix.role == "value" and matrix.offset:
                raise InputError(
                    f"{matrix.name}: expected a parameter of the heads' values alone, found "
                    "queries and keys beside them, which would train too; use unmasked train"
                )
            matrix.parameter.requires_grad_(True)


def build_masker(
    model: torch.nn.Module,
    settings: TrainSettings,
    structure: Structure | None,
    epoch_steps: int,
    draw: Draw,
) -> GradientMasker:
    """Return the masker of a masked method, for a model on its device and sharded if it is.

    ``epoch_steps`` are the optimizer steps of an epoch.
    """
    matrices = masked_matrices(model, settings)
    policy = build_policy(settings, structure, epoch_steps, matrices, draw)
    telemetry = None
    if settings.telemetry_steps:
        seen = [matrix for matrix in matrices if matrix.parameter.ndim > 1]
        shards = [shard_of(matrix) for matrix in seen]
        lam = settings.lam if settings.method == "collab" else None
        telemetry = Telemetry(seen, shards, settings.telemetry_steps, lam)
    rescale = settings.fraction if settings.rescale else None
    return GradientMasker(matrices, policy, rescale, telemetry)


def build_policy(
    settings: TrainSettings,
    structure: Structure | None,
    epoch_steps: int,
    matrices: Sequence[MLPMatrix],
    draw: Draw,
) -> Policy:
    """Return the policy of a masked method; GMT is ``Highest`` on accumulated gradients."""
    device = local(matrices[0].parameter).device
    if settings.neuron_wise:
        assert isinstance(structure, NeuronChoice)
        width = matrices[0].d_mlp  # a network's layer of experts is several layers here
        epochs = [
            [
                part.to(device)
                for layer in trained_of(settings, chosen)
                for part in layer.split(width)
            ]
            for chosen in structure.epochs
        ]
        starts = [epoch_steps * number for number in range(1, len(epochs))]
        return Network(epochs[0], starts, epochs[1:])
    if isinstance(structure, ColumnChoice):
        columns = [part.to(device) for part in trained_of(settings, structure.columns)]
        return Columns(columns, [matrix.input_axis for matrix in matrices])
    assert settings.fraction is not None
    match settings.method:
        case "random":
            return Random(settings.fraction, settings.seed)
        case "hft":
            layers = [matrix.layer for matrix in matrices]
            return HalfFineTuning(draw_matrices(layers, settings.fraction, settings.seed))
        case "child-tuning-d" | "lift":
            return Fixed(draw(matrices))
        case "collab":
            assert isinstance(structure, Graph)
            on_device = [part.to(device) for part in build_affinities(settings, structure)]
            return Collab(settings.fraction, settings.seed, settings.lam, on_device)
        case "highest" | "gmt":
            return Highest(settings.fraction, settings.seed)
        case "mofo":
            return Momentum(settings.fraction, settings.seed, settings.adam_beta1)
        case "small-weights":
            return SmallWeights(settings.fraction, settings.seed)
    raise AssertionError(f"method {settings.method!r} has no policy; see docs/adding-a-method.md")


def trained_of(settings: TrainSettings, chosen: Sequence[np.ndarray]) -> list[torch.Tensor]:
    """Return which of every layer's neurons or matrix's columns train: these, or all others."""
    listed = [torch.from_numpy(part) for part in chosen]
    return listed if settings.polarity == "train" else [~part for part in listed]


def build_affinities(settings: TrainSettings, structure: Graph) -> list[Affinity]:
    """Return one affinity a layer, of the structure that ``settings.affinity`` asks for.

    The controls permute the neurons: ``shuffled`` those of the kNN affinity,
    ``cluster-shuffled`` those of the clusters.
    """
    kind, seed = settings.affinity, settings.seed
    if kind in CLUSTER_AFFINITIES:
        assert isinstance(structure, Clusters)
        labels = [layer.labels for layer in structure.layers]
        if kind == "cluster-shuffled":
            labels = [shuffled_labels(part, seed, number) for number, part in enumerate(labels)]
        return [cluster_affinity(part) for part in labels]
    if kind == "dense":
        assert isinstance(structure, DenseGraph)
        return [dense_affinity(structure.layer(number)) for number in range(structure.n_layers)]
    assert isinstance(structure, CollaborationGraph)
    k, k_max = settings.k, structure.k_max
    knn = [
        knn_affinity(x.indptr, x.indices, x.weights, k, k_max, settings.mutual)
        for x in structure.layers
    ]
    if kind == "shuffled":
        return [shuffled(affinity, seed, number) for number, affinity in enumerate(knn)]
    if kind == "diffusion":
        walk = (settings.diffusion_damping, settings.diffusion_steps)
        return [DiffusionAffinity(affinity, *walk) for affinity in knn]
    return list(knn)


def require_shape(structure: Graph, model: torch.nn.Module, settings: TrainSettings) -> None:
    """Refuse the graph or clusters of a model of another shape."""
    expected = graph_shape(model, settings.neurons)
    found = (structure.n_layers, structure.d_mlp)
    if found != expected:
        raise InputError(
            f"graph or clusters: expected {expected[0]} layers of {expected[1]} neurons, found "
            f"{found[0]} of {found[1]}; make them from this model"
        )
