"""From a method's settings to the policy that masks a model's MLP matrices."""

from collections.abc import Sequence

import torch

from fnsft.architectures import MLPMatrix, mlp_matrices
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
from fnsft.masks.policies import Collab, Highest, Policy, Random

Structure = CollaborationGraph | DenseGraph | Clusters  # what the neighbours are read from


def build_masker(
    model: torch.nn.Module, settings: TrainSettings, structure: Structure | None
) -> GradientMasker | None:
    """Return the masker of a masked method over the model's MLP matrices; None for others."""
    if settings.fraction is None:
        return None
    matrices = mlp_matrices(model)
    policy = build_policy(settings, structure, matrices)
    return GradientMasker(matrices, policy, settings.fraction if settings.rescale else None)


def build_policy(
    settings: TrainSettings, structure: Structure | None, matrices: Sequence[MLPMatrix]
) -> Policy:
    """Return the policy of a masked method; GMT is ``Highest`` on accumulated gradients."""
    assert settings.fraction is not None
    if settings.method == "random":
        return Random(settings.fraction, settings.seed)
    if settings.method == "collab":
        if structure is None:
            raise InputError(
                "method 'collab' needs a graph or clusters: give --graph or --clusters"
            )
        affinities = build_affinities(settings, structure)
        _check_shape(affinities, matrices)
        device = matrices[0].parameter.device
        on_device = [affinity.to(device) for affinity in affinities]
        return Collab(settings.fraction, settings.seed, settings.lam, on_device)
    return Highest(settings.fraction, settings.seed)


def build_affinities(settings: TrainSettings, structure: Structure) -> list[Affinity]:
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


def _check_shape(affinities: Sequence[Affinity], matrices: Sequence[MLPMatrix]) -> None:
    """Refuse the structure of a model of another shape."""
    found = [affinity.n_neurons for affinity in affinities]
    expected = {matrix.layer: matrix.d_mlp for matrix in matrices}
    if found != list(expected.values()):
        raise InputError(
            f"graph or clusters: expected {len(expected)} layers of {max(expected.values())} "
            f"neurons, found {len(found)} of {max(found, default=0)}; make them from this model"
        )
