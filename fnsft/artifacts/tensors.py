"""Safetensors files that say what they are: kind, schema version and model."""

import contextlib
import dataclasses
import json
import math
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from fnsft.artifacts.storage import existing, written_whole
from fnsft.config.stages import Neurons
from fnsft.errors import InputError

METADATA_KEY = "fnsft"
SIZES = {"U64": 8, "F32": 4, "F16": 2}  # bytes of the types that are written piece by piece


@dataclasses.dataclass(frozen=True)
class Header:
    """What a tensor file says of itself.

    ``kind`` names the artefact, ``schema`` its layout's version; ``model`` is the identity
    of the model that it was made from (:func:`fnsft.artifacts.identity.model_identity`), and
    ``neurons`` whose they are, where it is about any.
    """

    kind: str
    schema: int
    model: str
    neurons: Neurons = "mlp"

    def as_metadata(self) -> dict[str, str]:
        """Return the header as safetensors metadata: one key, whose order cannot vary."""
        found = dataclasses.asdict(self)
        if self.neurons == "mlp":  # as files from before there were others
            del found["neurons"]
        return {METADATA_KEY: json.dumps(found)}

    @classmethod
    def from_metadata(cls, metadata: dict[str, str] | None, path: Path) -> Self:
        """Read the header from safetensors metadata."""
        try:
            found = json.loads((metadata or {})[METADATA_KEY])
            neurons = found.get("neurons", "mlp")
            return cls(found["kind"], found["schema"], found["model"], neurons)
        except (KeyError, ValueError, TypeError):
            raise InputError(f"{path}: expected an artefact of fnsft, found another file") from None

    def require(self, kind: str, schema: int, model: str | None, path: Path) -> None:
        """Refuse a file of another kind, schema or (when one is given) model."""
        if (self.kind, self.schema) != (kind, schema):
            raise InputError(
                f"{path}: expected {kind} of schema {schema}, "
                f"found {self.kind} of schema {self.schema}; make it anew"
            )
        if model is not None and self.model != model:
            raise InputError(
                f"{path}: made from model {self.model}, expected model {model}; "
                "make it from this model, or name the model that it was made from"
            )


def require_neurons(path: Path, found: Neurons, expected: Neurons) -> None:
    """Refuse what is about other neurons."""
    if found != expected:
        raise InputError(
            f"{path}: expected neurons {expected!r}, found {found!r}; capture with --neurons "
            f"{expected}, or name what was made so"
        )


def write_tensors(path: Path, header: Header, tensors: dict[str, np.ndarray]) -> None:
    """Write arrays and their header, whole."""
    with written_whole(path) as partial:
        contiguous = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
        save_file(contiguous, partial, metadata=header.as_metadata())


def is_whole(path: Path) -> bool:
    """Tell whether a safetensors file is as long as its header says; no tensor is read."""
    try:
        with safe_open(path, framework="numpy"):
            return True
    except (SafetensorError, OSError):
        return False


def require_whole_weights(folder: Path) -> None:
    """Refuse a model's or an adapter's folder with a weight file that is cut short."""
    for file in sorted(folder.glob("*.safetensors")):
        if not is_whole(file):
            raise InputError(
                f"{file}: expected weights, found a truncated file or none of safetensors; make or "
                "fetch the model anew"
            )


def leading_bytes(header: Header, dtype: str, shapes: Mapping[str, tuple[int, ...]]) -> bytes:
    """Return how a file of these tensors, one after the other, begins.

    Safetensors cannot append: a file too large for memory is begun with this, and its
    tensors' bytes follow as they come. ``dtype`` is a key of ``SIZES``. The result is a
    multiple of 8 bytes long, so that the tensors are aligned for those who map the file.
    """
    entries: dict[str, object] = {"__metadata__": header.as_metadata()}
    start = 0
    for name, shape in shapes.items():
        end = start + SIZES[dtype] * math.prod(shape)
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def read_tensors(
    path: Path, kind: str, schema: int, model: str | None = None
) -> tuple[Header, dict[str, np.ndarray]]:
    """Read the header and all arrays of a file of this kind, schema and model."""
    with open_tensors(path, kind, schema, model) as (header, file):
        return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@contextlib.contextmanager
def open_tensors(
    path: Path, kind: str, schema: int, model: str | None = None
) -> Iterator[tuple[Header, Any]]:
    """Open a file of this kind, schema and model to read single arrays from it."""
    try:
        opened = safe_open(existing(path), framework="numpy")
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: truncated or not safetensors ({error}); make it anew") from None
    with opened as file:
        header = Header.from_metadata(file.metadata(), path)
        header.require(kind, schema, model, path)
        yield header, file
