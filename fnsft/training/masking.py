"""From a method's settings to the policy that masks a model's MLP matrices."""

import torch

from fnsft.architectures import mlp_matrices
from fnsft.artifacts.graphs import CollaborationGraph
from fnsft.config.stages import TrainSettings
from fnsft.errors import InputError
from fnsft.masks.affinity import Affinity, dense_affinity, knn_affinity, shuffled
from fnsft.masks.masker import GradientMasker
from fnsft.masks.policies import Collab, Highest, Policy, Random


def build_masker(
    model: torch.nn.Module, settings: TrainSettings, graph: CollaborationGraph | None
) -> GradientMasker | None:
    """Return the masker of a masked method over the model's MLP matrices; None for others."""
    if settings.fraction is None:
        return None
    matrices = mlp_matrices(model)
    policy = build_policy(settings, graph, matrices[0].parameter.device)
    return GradientMasker(matrices, policy, settings.fraction if settings.rescale else None)


def build_policy(
    settings: TrainSettings, graph: CollaborationGraph | None, device: torch.device
) -> Policy:
    """Return the policy of a masked method; GMT is ``Highest`` on accumulated gradients."""
    assert settings.fraction is not None
    if settings.method == "random":
        return Random(settings.fraction, settings.seed)
    if settings.method == "collab":
        if graph is None:
            raise InputError("method 'collab' needs a collaboration graph: give --graph")
        affinities = [affinity.to(device) for affinity in build_affinities(settings, graph)]
        return Collab(settings.fraction, settings.seed, settings.lam, affinities)
    return Highest(settings.fraction, settings.seed)


def build_affinities(settings: TrainSettings, graph: CollaborationGraph) -> list[Affinity]:
    """Return one affinity a layer; ``shuffled`` permutes the neurons of the kNN affinity."""
    if settings.affinity == "cluster":
        raise InputError("affinity 'cluster' is not available yet; take knn, dense or shuffled")
    affinities = []
    for number, layer in enumerate(graph.layers):
        if settings.affinity == "dense":
            affinity = dense_affinity(layer.indptr, layer.indices, layer.weights)
        else:
            affinity = knn_affinity(
                layer.indptr, layer.indices, layer.weights, settings.k, graph.k_max or graph.d_mlp
            )
        if settings.affinity == "shuffled":
            affinity = shuffled(affinity, settings.seed, number)
        affinities.append(affinity)
    return affinities
