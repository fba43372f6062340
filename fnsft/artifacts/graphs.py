"""Collaboration graph: the heaviest neighbours of every MLP neuron, as CSR, layer by layer.

``layer_003.indptr`` int64 [N + 1], ``.indices`` int32 and ``.weights`` float32 [edges]: row i
lists the neighbours of neuron i by decreasing weight, of equal weights the lower index first,
without i itself. ``shape`` is [n_layers, N, k_max], with k_max = 0 for a dense graph.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fnsft.artifacts.tensors import Header, read_tensors, write_tensors
from fnsft.errors import InputError

KIND, SCHEMA = "collaboration-graph", 1
FIELDS = {"indptr": np.int64, "indices": np.int32, "weights": np.float32}


@dataclass(frozen=True, eq=False)
class LayerGraph:
    """Row i's neighbours are ``indices[indptr[i]:indptr[i + 1]]``, and so are its weights."""

    indptr: np.ndarray
    indices: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True, eq=False)
class CollaborationGraph:
    """One :class:`LayerGraph` a layer; a row holds its ``k_max`` heaviest, or all when None."""

    layers: list[LayerGraph]
    d_mlp: int
    k_max: int | None

    @property
    def n_layers(self) -> int:
        """Decoder blocks of the model."""
        return len(self.layers)


def write_graph(path: Path, graph: CollaborationGraph, model: str) -> None:
    """Write the graph of the model with this identity."""
    tensors = {"shape": np.array([graph.n_layers, graph.d_mlp, graph.k_max or 0])}
    for number, layer in enumerate(graph.layers):
        for field, dtype in FIELDS.items():
            tensors[f"layer_{number:03d}.{field}"] = getattr(layer, field).astype(dtype, copy=False)
    write_tensors(path, Header(KIND, SCHEMA, model), tensors)


def read_graph(path: Path, model: str | None = None) -> CollaborationGraph:
    """Read a graph; when ``model`` is given it must be of the model with this identity."""
    _, tensors = read_tensors(path, KIND, SCHEMA, model)
    try:
        n_layers, d_mlp, k_max = map(int, tensors["shape"])
        layers = [
            LayerGraph(**{field: tensors[f"layer_{number:03d}.{field}"] for field in FIELDS})
            for number in range(n_layers)
        ]
    except (KeyError, ValueError) as error:
        raise InputError(f"{path}: damaged ({error}); project anew") from None
    for number, layer in enumerate(layers):
        if not _is_whole(layer, d_mlp):
            raise InputError(
                f"{path}: layer {number}: expected positive weights between {d_mlp} neurons, "
                "found others; project anew"
            )
    return CollaborationGraph(layers, d_mlp, k_max or None)


def _is_whole(layer: LayerGraph, d_mlp: int) -> bool:
    indptr, indices, weights = layer.indptr, layer.indices, layer.weights
    return bool(
        indptr.shape == (d_mlp + 1,)
        and indptr[0] == 0
        and (np.diff(indptr) >= 0).all()
        and indices.shape == weights.shape == (indptr[-1],)
        and ((indices >= 0) & (indices < d_mlp)).all()
        and (np.isfinite(weights) & (weights > 0)).all()
    )
