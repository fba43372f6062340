"""Whether ICA networks and collaboration clusters are the same neurons, in one layer.

=============================== ============================================ =========== ======
measure                         formula                                      range       better
=============================== ============================================ =========== ======
adjusted_rand_networks_clusters adjusted Rand index of neurons by network    [−0.5, 1]   ↑ of 0
                                and by cluster; 0 by chance
best_iou_networks_clusters      mean over networks of the largest IoU with   [0, 1]      ↑ of
                                any cluster                                              chance
best_iou_chance                 the same with the clusters' labels permuted  [0, 1]      –
=============================== ============================================ =========== ======

Shapes: k networks of the layer, N = ``d_mlp`` neurons, C clusters.
"""

import numpy as np

from fnsft.artifacts.clusters import NO_CLUSTER
from fnsft.neurons.agreement import partition_agreement
from fnsft.neurons.matching import LayerNetworks
from fnsft.neurons.measures import Finding
from fnsft.neurons.scores import Mean

NETWORK_MEASURES = (
    "adjusted_rand_networks_clusters",
    "best_iou_networks_clusters",
    "best_iou_chance",
)
MIN_MEMBERS = 2  # one neuron has an IoU of 1 / |C| at most, which says nothing


def compare_with_clusters(
    networks: LayerNetworks, labels: np.ndarray, permutations: int, rng: np.random.Generator
) -> list[Finding]:
    """Measure the agreement of a layer's networks with its clusters, by their labels [N].

    What has no value is left out. ``best_iou_chance`` permutes the labels over the neurons
    that have one; its ``stderr`` is the standard deviation over permutations.
    """
    found = []
    agreement = partition_agreement(network_labels(networks), labels)
    if agreement is not None:
        found.append(Finding(NETWORK_MEASURES[0], agreement.adjusted_rand, None, agreement.n))
    members = networks.members[networks.members.sum(axis=1) >= MIN_MEMBERS]
    clustered = labels != NO_CLUSTER
    if not clustered.any() or not len(members):
        return found
    mean = Mean.of(best_iou(members, labels))
    assert mean is not None
    found.append(Finding(NETWORK_MEASURES[1], mean.value, mean.stderr, mean.n))
    chance = np.empty(permutations)
    permuted = labels.copy()
    for number in range(permutations):
        permuted[clustered] = rng.permutation(labels[clustered])
        chance[number] = best_iou(members, permuted).mean()
    spread = float(chance.std(ddof=1)) if permutations > 1 else None
    found.append(Finding(NETWORK_MEASURES[2], float(chance.mean()), spread, len(members)))
    return found


def network_labels(networks: LayerNetworks) -> np.ndarray:
    """Give every neuron the network, of those it is in, where its |z| is largest; [N] int.

    Without loadings the first network counts. Neurons in no network have ``NO_CLUSTER``.
    """
    if not len(networks.members):
        return np.full(networks.members.shape[1], NO_CLUSTER)
    strength = np.ones_like(networks.members, float) if networks.z is None else np.abs(networks.z)
    chosen = np.where(networks.members, strength, -1).argmax(axis=0)
    return np.where(networks.members.any(axis=0), chosen, NO_CLUSTER)


def best_iou(members: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return, of every network's members [k, N], the largest IoU with a cluster, [k] float64."""
    clusters = labels == np.arange(labels.max() + 1)[:, None]  # [C, N]
    common = members.astype(np.float32) @ clusters.T.astype(np.float32)
    union = members.sum(axis=1)[:, None] + clusters.sum(axis=1) - common
    return (common / union).max(axis=1).astype(np.float64)
