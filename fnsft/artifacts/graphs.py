"""Collaboration graph: the heaviest neighbours of every neuron, as CSR, layer by layer.

``layer_003.indptr`` int64 [N + 1], ``.indices`` int32 and ``.weights`` float32 [edges]: row i
lists the neighbours of neuron i by decreasing weight, of equal weights the lower index first,
without i itself. ``shape`` is [n_layers, N, k_max].

A dense graph is an artefact of its own: ``layer_003`` [N, N] float32, diagonal 0.
"""

import contextlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fnsft.artifacts.storage import require_space, written_whole
from fnsft.artifacts.tensors import (
    Header,
    leading_bytes,
    open_tensors,
    read_tensors,
    write_tensors,
)
from fnsft.config.stages import Neurons
from fnsft.errors import InputError

KIND, DENSE_KIND, SCHEMA = "collaboration-graph", "dense-collaboration-graph", 1
FIELDS = {"indptr": np.int64, "indices": np.int32, "weights": np.float32}


@dataclass(frozen=True, eq=False)
class LayerGraph:
    """Row i's neighbours are ``indices[indptr[i]:indptr[i + 1]]``, and so are its weights."""

    indptr: np.ndarray
    indices: np.ndarray
    weights: np.ndarray

    def nearest(self, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return rows and columns, int64, and weights of the first ``k`` edges of every row."""
        rows = np.repeat(np.arange(len(self.indptr) - 1), np.diff(self.indptr))
        kept = np.arange(len(rows)) - self.indptr[rows] < k
        return rows[kept], self.indices[kept].astype(np.int64), self.weights[kept]

    def in_degrees(self, k: int) -> np.ndarray:
        """Return [N]: how many other neurons have each among their first ``k`` neighbours."""
        return np.bincount(self.nearest(k)[1], minlength=len(self.indptr) - 1)


@dataclass(frozen=True, eq=False)
class CollaborationGraph:
    """One :class:`LayerGraph` a layer; a row holds its ``k_max`` heaviest, or all it has."""

    layers: list[LayerGraph]
    d_mlp: int
    k_max: int
    neurons: Neurons = "mlp"

    @property
    def n_layers(self) -> int:
        """Decoder blocks of the model, or experts of all of them."""
        return len(self.layers)


def write_graph(path: Path, graph: CollaborationGraph, model: str) -> None:
    """Write the graph of the model with this identity."""
    tensors = {"shape": np.array([graph.n_layers, graph.d_mlp, graph.k_max])}
    for number, layer in enumerate(graph.layers):
        for field, dtype in FIELDS.items():
            tensors[f"layer_{number:03d}.{field}"] = getattr(layer, field).astype(dtype, copy=False)
    write_tensors(path, Header(KIND, SCHEMA, model, graph.neurons), tensors)


def read_graph(path: Path, model: str | None = None) -> CollaborationGraph:
    """Read a graph; when ``model`` is given it must be of the model with this identity."""
    header, tensors = read_tensors(path, KIND, SCHEMA, model)
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
    return CollaborationGraph(layers, d_mlp, k_max, header.neurons)


def require_stored(k: int, k_max: int) -> None:
    """Refuse more neighbours than a graph stores."""
    if k > k_max:
        raise InputError(
            f"k: expected at most the k_max={k_max} neighbours that the graph stores, found {k}; "
            f"lower k, or project the graph with k_max of at least {k}"
        )


def graph_model(path: Path) -> str:
    """Return the identity of the model that a graph was made from."""
    with open_tensors(path, KIND, SCHEMA) as (header, _):
        return header.model


@dataclass(frozen=True, eq=False)
class DenseGraph:
    """All weights of every layer, on disk."""

    path: Path
    model: str
    n_layers: int
    d_mlp: int
    neurons: Neurons = "mlp"

    def layer(self, layer: int) -> np.ndarray:
        """Read one layer's weights, [N, N] float32."""
        with open_tensors(self.path, DENSE_KIND, SCHEMA, self.model) as (_, file):
            weights = file.get_tensor(_dense_name(layer))
        if not (np.isfinite(weights).all() and (weights >= 0).all()):
            raise InputError(
                f"{self.path}: layer {layer}: expected finite weights of at least 0, "
                "found others; project anew"
            )
        return weights


@contextlib.contextmanager
def dense_graph_writer(
    path: Path, n_layers: int, d_mlp: int, model: str, neurons: Neurons = "mlp"
) -> Iterator[list[np.ndarray]]:
    """Yield every layer's [N, N] float32, mapped to the file, which appears whole at the end."""
    shapes = {_dense_name(layer): (d_mlp, d_mlp) for layer in range(n_layers)}
    begin = leading_bytes(Header(DENSE_KIND, SCHEMA, model, neurons), "F32", shapes)
    shape = (n_layers, d_mlp, d_mlp)
    with written_whole(path) as partial:
        require_space(path, len(begin) + 4 * math.prod(shape))
        partial.write_bytes(begin)
        _reserve(partial, len(begin) + 4 * math.prod(shape))
        mapped = np.memmap(partial, np.float32, "r+", offset=len(begin), shape=shape)
        yield list(mapped)
        mapped.flush()
        del mapped


def _reserve(path: Path, n_bytes: int) -> None:
    """Take the room of a file now: a mapped one ends the process when its disk is full."""
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, n_bytes)


def open_dense_graph(path: Path, model: str | None = None) -> DenseGraph:
    """Open a dense graph; when ``model`` is given it must be of the model with this identity."""
    with open_tensors(path, DENSE_KIND, SCHEMA, model) as (header, file):
        shapes = [file.get_slice(name).get_shape() for name in sorted(file.keys())]
        if not shapes or len(shapes[0]) != 2 or any(s != [shapes[0][0]] * 2 for s in shapes):
            raise InputError(f"{path}: expected square layers of one size, found {shapes[:2]}")
        return DenseGraph(path, header.model, len(shapes), shapes[0][0], header.neurons)


def _dense_name(layer: int) -> str:
    return f"layer_{layer:03d}"


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
