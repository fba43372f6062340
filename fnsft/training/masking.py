"""From a method's settings to the policy that masks a model's MLP matrices."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from fnsft.architectures import MLPMatrix, adapter_matrices, mlp_blocks, mlp_matrices
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
from fnsft.masks.masker import GradientMasker
from fnsft.masks.policies import (
    Collab,
    Fixed,
    HalfFineTuning,
    Highest,
    Network,
    PackedMask,
    Policy,
    Random,
    draw_matrices,
)
from fnsft.masks.shards import local, shard_of
from fnsft.masks.telemetry import Telemetry

Graph = CollaborationGraph | DenseGraph | Clusters  # what neighbours are read from
Structure = Graph | list[np.ndarray]  # or a network: for each layer a bool vector [N]
Draw = Callable[[Sequence[MLPMatrix]], list[PackedMask]]  # masks of child-tuning-d


def masked_matrices(model: torch.nn.Module, settings: TrainSettings) -> list[MLPMatrix]:
    """Return the matrices that a method masks: the MLP's weights, or their adapters."""
    return adapter_matrices(model) if settings.adapters else mlp_matrices(model)


def build_masker(
    model: torch.nn.Module, settings: TrainSettings, structure: Structure | None, draw: Draw
) -> GradientMasker:
    """Return the masker of a masked method, for a model on its device and sharded if it is."""
    matrices = masked_matrices(model, settings)
    policy = build_policy(settings, structure, matrices, draw)
    telemetry = None
    if settings.telemetry_steps:
        shards = [shard_of(matrix) for matrix in matrices]
        lam = settings.lam if settings.method == "collab" else None
        telemetry = Telemetry(matrices, shards, settings.telemetry_steps, lam)
    rescale = settings.fraction if settings.rescale else None
    return GradientMasker(matrices, policy, rescale, telemetry)


def build_policy(
    settings: TrainSettings,
    structure: Structure | None,
    matrices: Sequence[MLPMatrix],
    draw: Draw,
) -> Policy:
    """Return the policy of a masked method; GMT is ``Highest`` on accumulated gradients."""
    device = local(matrices[0].parameter).device
    if settings.method == "network":
        return Network([part.to(device) for part in trained_neurons(settings, structure)])
    assert settings.fraction is not None
    match settings.method:
        case "random":
            return Random(settings.fraction, settings.seed)
        case "hft":
            layers = [matrix.layer for matrix in matrices]
            return HalfFineTuning(draw_matrices(layers, settings.fraction, settings.seed))
        case "child-tuning-d":
            return Fixed(draw(matrices))
        case "collab":
            assert structure is not None and not isinstance(structure, list)
            on_device = [part.to(device) for part in build_affinities(settings, structure)]
            return Collab(settings.fraction, settings.seed, settings.lam, on_device)
        case "highest" | "gmt":
            return Highest(settings.fraction, settings.seed)
    raise AssertionError(f"method {settings.method!r} has no policy; see docs/adding-a-method.md")


def trained_neurons(settings: TrainSettings, structure: Structure | None) -> list[torch.Tensor]:
    """Return, for each layer, which neurons a network's method trains, bool [N]."""
    assert isinstance(structure, list)
    listed = [torch.from_numpy(layer) for layer in structure]
    return listed if settings.neurons == "only" else [~layer for layer in listed]


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
    return list(knn)


def require_shape(structure: Graph, model: torch.nn.Module) -> None:
    """Refuse the graph or clusters of a model of another shape."""
    blocks = mlp_blocks(model)
    expected = (len(blocks), blocks[0].d_mlp)
    found = (structure.n_layers, structure.d_mlp)
    if found != expected:
        raise InputError(
            f"graph or clusters: expected {expected[0]} layers of {expected[1]} neurons, found "
            f"{found[0]} of {found[1]}; make them from this model"
        )
