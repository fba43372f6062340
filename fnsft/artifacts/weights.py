"""A model folder's weights as bits, one tensor at a time, whatever their type.

Tensors are read and written as flat arrays of unsigned integers of their width, so that NaN
payloads, negative zeros and types that numpy has not (bfloat16, float8) stay what they are.
Nothing here needs torch or more memory than one tensor.
"""

import contextlib
import hashlib
import json
import math
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from fnsft.artifacts.storage import existing, read_json, write_json
from fnsft.errors import InputError

# Bytes of an entry, by safetensors' name of its type.
WIDTHS = (
    dict.fromkeys(("F64", "I64", "U64"), 8)
    | dict.fromkeys(("F32", "I32", "U32"), 4)
    | dict.fromkeys(("F16", "BF16", "I16", "U16"), 2)
    | dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1)
)
SHARD_BYTES = 5 << 30
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
OUTPUT_LAYERS = ("lm_head.weight", "embed_out.weight")

Put = Callable[[str, np.ndarray], None]  # writes the bits of the tensor of this name


@dataclass(frozen=True)
class Form:
    """A tensor's type (safetensors' name, a key of ``WIDTHS``) and shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def n(self) -> int:
        """Entries."""
        return math.prod(self.shape)

    @property
    def n_bytes(self) -> int:
        """Bytes of all entries."""
        return self.n * WIDTHS[self.dtype]

    @property
    def unsigned(self) -> np.dtype[Any]:
        """The unsigned integers, little-endian, that hold an entry's bits."""
        return np.dtype(f"<u{WIDTHS[self.dtype]}")


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file, its first byte at ``start``."""

    form: Form
    file: Path
    start: int

    def bits(self) -> np.ndarray:
        """Read all entries: unsigned [n]."""
        return np.fromfile(self.file, self.form.unsigned, self.form.n, offset=self.start)


@dataclass(frozen=True)
class ModelWeights:
    """The tensors of a model folder, by name in sorted order.

    ``tied`` are those that are left out since they only repeat the embedding, name by name.
    """

    folder: Path
    tensors: dict[str, StoredTensor]
    tied: dict[str, str] = field(default_factory=dict)

    @property
    def forms(self) -> dict[str, Form]:
        """Type and shape of every tensor."""
        return {name: tensor.form for name, tensor in self.tensors.items()}

    @property
    def n_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(form.n_bytes for form in self.forms.values())


class WeightsDigest:
    """The SHA-256 of tensors' names, types, shapes and bits, given in the names' order."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()

    def update(self, name: str, form: Form, bits: np.ndarray) -> None:
        """Take the next tensor in."""
        self._sha256.update(f"{name} {form.dtype} {list(form.shape)}\n".encode())
        self._sha256.update(bits.data)

    def hexdigest(self) -> str:
        """Return 64 hex digits."""
        return self._sha256.hexdigest()


def open_weights(folder: Path) -> ModelWeights:
    """Find the tensors of a model folder, in one file or in shards.

    An output layer that is stored although it is tied to the embedding, as some tools do, is
    left out, so that a model is the same with it and without.

    Raises
    ------
    InputError
        For a folder without safetensors, damaged files, and a tied output layer that differs
        from the embedding.
    """
    files = _files(folder)
    tensors = {name: stored for file in files for name, stored in _stored(file).items()}
    tied = _repeated(folder, tensors)
    kept = {name: tensors[name] for name in sorted(tensors) if name not in tied}
    return ModelWeights(folder, kept, tied)


@contextlib.contextmanager
def written_weights(
    folder: Path, forms: Mapping[str, Form], shard_bytes: int = SHARD_BYTES
) -> Iterator[Put]:
    """Write a model's tensors, in any order, as transformers reads them: yields how to put one.

    More than ``shard_bytes`` become several files and their index.
    """
    shards: list[dict[str, Form]] = [{}]
    filled = 0
    for name, form in forms.items():
        if filled and filled + form.n_bytes > shard_bytes:
            shards.append({})
            filled = 0
        shards[-1][name] = form
        filled += form.n_bytes
    files = [SINGLE]
    if len(shards) > 1:
        n = len(shards)
        files = [f"model-{number:05d}-of-{n:05d}.safetensors" for number in range(1, n + 1)]
        places = {name: file for file, shard in zip(files, shards, strict=True) for name in shard}
        total = sum(form.n_bytes for form in forms.values())
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": places})
    with contextlib.ExitStack() as stack:
        puts: dict[str, Put] = {}
        for file, shard in zip(files, shards, strict=True):
            put = stack.enter_context(written_tensors(folder / file, shard, {"format": "pt"}))
            puts |= dict.fromkeys(shard, put)
        yield lambda name, bits: puts[name](name, bits)


@contextlib.contextmanager
def written_tensors(
    path: Path, forms: Mapping[str, Form], metadata: Mapping[str, str]
) -> Iterator[Put]:
    """Write a safetensors file tensor by tensor, in any order: yields how to put one.

    The widest types come first, as safetensors itself does, so that all are aligned.
    """
    entries: dict[str, object] = {"__metadata__": dict(metadata)}
    starts, end = {}, 0
    for name in sorted(forms, key=lambda name: (-WIDTHS[forms[name].dtype], name)):
        form, starts[name] = forms[name], end
        end += form.n_bytes
        offsets = [starts[name], end]
        entries[name] = {
            "dtype": form.dtype,
            "shape": list(form.shape),
            "data_offsets": offsets,
        }
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)

        def put(name: str, bits: np.ndarray) -> None:
            assert bits.nbytes == forms[name].n_bytes, name
            file.seek(8 + len(text) + starts[name])
            file.write(bits.data)

        yield put


def _files(folder: Path) -> list[Path]:
    if (existing(folder) / INDEX).is_file():
        places = read_json(folder / INDEX).get("weight_map", {})
        return [existing(folder / name) for name in sorted(set(places.values()))]
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    raise InputError(
        f"{folder}: expected all of a model's weights in {SINGLE} or in shards with {INDEX}, found "
        "neither; fnsft export --format safetensors writes them"
    )


def _stored(file: Path) -> dict[str, StoredTensor]:
    try:
        with safe_open(file, framework="numpy"):  # checks the header and the file's length
            pass
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file}: truncated or not safetensors ({error}); get it anew") from None
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        entries = json.loads(stream.read(length))
    entries.pop("__metadata__", None)
    for name, entry in entries.items():
        if entry["dtype"] not in WIDTHS:
            raise InputError(
                f"{file}: {name}: expected one of {', '.join(WIDTHS)}, found {entry['dtype']}; "
                "use a model that is not packed"
            )
    return {
        name: StoredTensor(
            Form(entry["dtype"], tuple(entry["shape"])),
            file,
            8 + length + entry["data_offsets"][0],
        )
        for name, entry in entries.items()
    }


def _repeated(folder: Path, tensors: Mapping[str, StoredTensor]) -> dict[str, str]:
    """Return the tied output layer, when it is stored, and the embedding that it repeats."""
    config = read_json(folder / "config.json")
    says = (config.get("text_config", {}) | config).get("tie_word_embeddings")
    if says is False:
        return {}
    for name in OUTPUT_LAYERS:
        if name not in tensors:
            continue
        output = tensors[name]
        bits = output.bits()
        for other, stored in tensors.items():
            alike = other != name and stored.form == output.form
            if alike and np.array_equal(bits, stored.bits()):
                return {name: other}
        if says:
            raise InputError(
                f"{folder}: {name}: expected what the embedding holds, since config.json says "
                "tie_word_embeddings, found other values; load the model and save it anew, tied or "
                "with tie_word_embeddings false"
            )
    return {}
