"""Clusters: a partition of every layer's neurons, and the spectral embedding behind it.

``layer_003.labels`` int32 [N]: the neuron's cluster, from 0; −1 for a neuron without an edge,
which is in no cluster. ``.labels_unsplit`` is the partition before large clusters were split;
``.embedding`` float32 [N, n_eigenvectors] has rows of length 1 (0 without an edge), and
``.eigenvalues`` float64 [n_eigenvectors] are the Laplacian's, ascending. Beside the file lies
``<stem>.json``: for every layer a list of clusters, each a list of neurons.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fnsft.artifacts.storage import write_json
from fnsft.artifacts.tensors import Header, read_tensors, write_tensors
from fnsft.config.stages import Neurons
from fnsft.errors import InputError

KIND, SCHEMA = "clusters", 1
NO_CLUSTER = -1


@dataclass(frozen=True, eq=False)
class LayerClusters:
    """One layer's partition; clusters are numbered by size, the largest 0."""

    labels: np.ndarray
    labels_unsplit: np.ndarray
    embedding: np.ndarray
    eigenvalues: np.ndarray

    @property
    def members(self) -> list[list[int]]:
        """The neurons of every cluster."""
        n_clusters = self.labels.max(initial=NO_CLUSTER) + 1
        return [np.flatnonzero(self.labels == cluster).tolist() for cluster in range(n_clusters)]


@dataclass(frozen=True, eq=False)
class Clusters:
    """One :class:`LayerClusters` a layer of ``d_mlp`` neurons."""

    layers: list[LayerClusters]
    d_mlp: int
    neurons: Neurons = "mlp"

    @property
    def n_layers(self) -> int:
        """Layers, as of the graph."""
        return len(self.layers)


FIELDS = tuple(field.name for field in dataclasses.fields(LayerClusters))


def write_clusters(path: Path, clusters: Clusters, model: str) -> None:
    """Write the clusters of the model with this identity, and their JSON."""
    tensors = {"shape": np.array([len(clusters.layers), clusters.d_mlp])}
    for number, layer in enumerate(clusters.layers):
        tensors |= {f"layer_{number:03d}.{field}": getattr(layer, field) for field in FIELDS}
    members = {str(number): layer.members for number, layer in enumerate(clusters.layers)}
    write_json(path.with_suffix(".json"), members)
    write_tensors(path, Header(KIND, SCHEMA, model, clusters.neurons), tensors)


def read_clusters(path: Path, model: str | None = None) -> Clusters:
    """Read clusters; when ``model`` is given they must be of the model with this identity."""
    header, tensors = read_tensors(path, KIND, SCHEMA, model)
    try:
        n_layers, d_mlp = map(int, tensors["shape"])
        layers = [
            LayerClusters(**{field: tensors[f"layer_{number:03d}.{field}"] for field in FIELDS})
            for number in range(n_layers)
        ]
    except (KeyError, ValueError) as error:
        raise InputError(f"{path}: damaged ({error}); cluster anew") from None
    for number, layer in enumerate(layers):
        whole = layer.labels.shape == layer.labels_unsplit.shape == (d_mlp,)
        if not whole or layer.labels.min(initial=0) < NO_CLUSTER:
            raise InputError(
                f"{path}: layer {number}: expected a label for each of {d_mlp} "
                f"neurons, found {layer.labels.shape}; cluster anew"
            )
    return Clusters(layers, d_mlp, header.neurons)
