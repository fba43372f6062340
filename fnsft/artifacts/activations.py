"""Activation dump: which neurons every token activates, as a folder of bits.

``layer_003.safetensors`` holds ``block_00000``, ``block_00001``, …, each [N, W] uint64: one
row a neuron; token t of the block is bit t % 64, counted from the least, of word t // 64, and
the bits after the last token are 0. ``tokens.safetensors`` holds the token ids, where samples
begin, and [n_layers, N]. Tokens are in the order of the data, without padding. Where asked,
``values_003.safetensors`` holds the activations of ``sampled_tokens``, [S, N] float16. Expert e of
block l, of E each, is layer l·E + e.

Shapes: N = ``d_mlp`` neurons, T = tokens, n = tokens of one call, W = words of 64 tokens,
S = sampled tokens.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np

from fnsft.artifacts.tensors import (
    Header,
    leading_bytes,
    open_tensors,
    read_tensors,
    write_tensors,
)
from fnsft.config.stages import Neurons
from fnsft.errors import InputError

TOKENS_KIND, LAYER_KIND, VALUES_KIND = "activation-tokens", "activations", "activation-values"
SCHEMA = 2
TOKENS_FILE = "tokens.safetensors"
WORD_TOKENS = 64
BUFFER_BYTES = 256 << 20
MAX_BLOCK_TOKENS = 8_192


def layer_file(layer: int) -> str:
    """Return the file name of a layer's bits."""
    return f"layer_{layer:03d}.safetensors"


def values_file(layer: int) -> str:
    """Return the file name of a layer's sampled values."""
    return f"values_{layer:03d}.safetensors"


def pack_bits(bits: np.ndarray) -> np.ndarray:
    """Pack [N, T] bool into [N, ceil(T / 64)] uint64, token 0 the least bit of word 0."""
    padded = np.pad(bits, ((0, 0), (0, -bits.shape[1] % WORD_TOKENS)))
    octets = np.packbits(padded, axis=1, bitorder="little")
    return np.ascontiguousarray(octets).view("<u8")


def unpack_bits(words: np.ndarray) -> np.ndarray:
    """Unpack [N, W] uint64 into [N, 64 W] uint8 of 0 and 1."""
    octets = np.ascontiguousarray(words, dtype="<u8").view(np.uint8)
    return np.unpackbits(octets, axis=1, bitorder="little")


@dataclass(frozen=True)
class DumpShape:
    """The size of a dump, known before the first forward pass."""

    n_layers: int
    d_mlp: int
    n_tokens: int
    n_sampled: int = 0

    @property
    def sampled_tokens(self) -> np.ndarray:
        """The tokens whose values are kept, evenly spaced, [S] int64."""
        kept = min(self.n_sampled, self.n_tokens)
        return np.arange(kept, dtype=np.int64) * self.n_tokens // max(kept, 1)

    @property
    def block_tokens(self) -> int:
        """Tokens of a block, a multiple of 64.

        The writer gathers one block of every layer, n_layers · N · block_tokens / 8 bytes;
        blocks are as long as 256 MiB allow, at most 8,192 tokens, so that a reader's float32
        copy of a block, 4 N · block_tokens bytes, stays small too.
        """
        fitting = BUFFER_BYTES * 8 // (self.n_layers * self.d_mlp)
        return max(1, min(fitting, MAX_BLOCK_TOKENS) // WORD_TOKENS) * WORD_TOKENS

    @property
    def block_words(self) -> list[int]:
        """Words of every block."""
        starts = range(0, self.n_tokens, self.block_tokens)
        lengths = (min(self.block_tokens, self.n_tokens - start) for start in starts)
        return [-(-length // WORD_TOKENS) for length in lengths]

    @property
    def n_bytes(self) -> int:
        """Bytes of all layers on disk, but for the small headers."""
        bits = 8 * sum(self.block_words)
        return self.n_layers * self.d_mlp * (bits + 2 * len(self.sampled_tokens))


class DumpWriter:
    """Writes a dump's layers side by side, as tokens come in; a context manager.

    Safetensors files begin with the place of every tensor, so ``shape.n_tokens`` tokens must
    be appended to every layer, no more and no less: by ``append``, or by ``append_block`` and
    ``append_sampled``, which threads may call at the same time for different layers.
    """

    def __init__(self, folder: Path, shape: DumpShape, model: str) -> None:
        self.shape = shape
        self._files = contextlib.ExitStack()
        self._layers: list[_LayerWriter] = []
        self._values: list[_ValueWriter] = []
        blocks = {
            f"block_{number:05d}": (shape.d_mlp, words)
            for number, words in enumerate(shape.block_words)
        }
        layer_begin = leading_bytes(Header(LAYER_KIND, SCHEMA, model), "U64", blocks)
        values = {"values": (len(shape.sampled_tokens), shape.d_mlp)}
        values_begin = leading_bytes(Header(VALUES_KIND, SCHEMA, model), "F16", values)
        for layer in range(shape.n_layers):
            file = self._open(folder / layer_file(layer))
            file.write(layer_begin)
            self._layers.append(_LayerWriter(file, shape))
            if shape.n_sampled:
                file = self._open(folder / values_file(layer))
                file.write(values_begin)
                self._values.append(_ValueWriter(file, shape))

    def _open(self, path: Path) -> BinaryIO:
        return self._files.enter_context(path.open("wb"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._files.close()
        assert kind or all(layer.missing == 0 for layer in self._layers)

    def append(self, layer: int, activated: np.ndarray) -> None:
        """Add the next tokens of a layer, [n, N]: bool, or values, activated where positive."""
        if self._values:
            self._values[layer].append(activated)
        self._layers[layer].append(activated > 0)

    def append_block(self, layer: int, words: np.ndarray) -> None:
        """Add a layer's next whole block, [N, ``shape.block_words`` of it] uint64."""
        self._layers[layer].write(words)

    def append_sampled(self, layer: int, values: np.ndarray) -> None:
        """Add a layer's values at the sampled tokens that come next, [s, N]."""
        self._values[layer].write(values)


class _LayerWriter:
    """Gathers a block token by token, eight neurons a byte, and writes it neuron-major."""

    def __init__(self, file: BinaryIO, shape: DumpShape) -> None:
        self.missing = shape.n_tokens
        self._file = file
        self._d_mlp = shape.d_mlp
        self._block_tokens = shape.block_tokens
        length = min(shape.block_tokens, shape.n_tokens)
        self._gathered = np.empty((length, -(-shape.d_mlp // 8)), dtype=np.uint8)
        self._n = 0

    def write(self, words: np.ndarray) -> None:
        n_tokens = min(self._block_tokens, self.missing)
        assert n_tokens and words.shape == (self._d_mlp, -(-n_tokens // WORD_TOKENS))
        self.missing -= n_tokens
        self._file.write(np.ascontiguousarray(words, dtype="<u8").data)

    def append(self, activated: np.ndarray) -> None:
        assert len(activated) <= self.missing and activated.shape[1] == self._d_mlp
        while len(activated):
            taken = activated[: len(self._gathered) - self._n]
            self._gathered[self._n : self._n + len(taken)] = np.packbits(taken, axis=1)
            self._n += len(taken)
            self.missing -= len(taken)
            activated = activated[len(taken) :]
            if self._n == len(self._gathered) or self.missing == 0:
                bits = np.unpackbits(self._gathered[: self._n], axis=1, count=self._d_mlp)
                self._file.write(pack_bits(bits.T).tobytes())
                self._n = 0


class _ValueWriter:
    """Writes the sampled tokens' values as they pass."""

    def __init__(self, file: BinaryIO, shape: DumpShape) -> None:
        self._file = file
        self._sampled = shape.sampled_tokens
        self._n = 0

    def append(self, values: np.ndarray) -> None:
        inside = (self._sampled >= self._n) & (self._sampled < self._n + len(values))
        chosen = values[self._sampled[inside] - self._n]
        self._n += len(values)
        self.write(chosen)

    def write(self, chosen: np.ndarray) -> None:
        with np.errstate(over="ignore"):
            rounded = chosen.astype(np.float16)
        if not np.isfinite(rounded).all():
            raise InputError(
                f"sampled_tokens: expected activations within float16 (65,504), found "
                f"{np.abs(chosen).max():.4g}; set it to 0"
            )
        self._file.write(rounded.tobytes())


def write_dump_tokens(
    folder: Path,
    shape: DumpShape,
    token_ids: np.ndarray,
    sample_offsets: np.ndarray,
    model: str,
    neurons: Neurons = "mlp",
) -> None:
    """Write what the layers share: token ids [T] and sample offsets [samples + 1]."""
    tensors: dict[str, np.ndarray] = {
        "token_ids": token_ids.astype(np.int32),
        "sample_offsets": sample_offsets.astype(np.int64),
        "sampled_tokens": shape.sampled_tokens,
        "shape": np.array([shape.n_layers, shape.d_mlp]),
    }
    write_tensors(folder / TOKENS_FILE, Header(TOKENS_KIND, SCHEMA, model, neurons), tensors)


@dataclass(frozen=True, eq=False)
class LayerBits:
    """One layer of a dump, read block after block, all neurons or some of them."""

    path: Path
    shape: DumpShape
    model: str

    @property
    def n_neurons(self) -> int:
        """Neurons of the layer."""
        return self.shape.d_mlp

    @property
    def n_tokens(self) -> int:
        """Tokens of the dump."""
        return self.shape.n_tokens

    def __iter__(self) -> Iterator[np.ndarray]:
        """Read the blocks, [N, W] uint64, one after the other."""
        return self.rows(0, self.shape.d_mlp)

    def rows(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """Read neurons ``start`` to ``stop`` of every block, [stop − start, W] uint64."""
        with open_tensors(self.path, LAYER_KIND, SCHEMA, self.model) as (_, file):
            names = sorted(file.keys())
            found = [tuple(file.get_slice(name).get_shape()) for name in names]
            n_words = -(-self.shape.n_tokens // WORD_TOKENS)
            if {n for n, _ in found} != {self.shape.d_mlp} or sum(w for _, w in found) != n_words:
                raise InputError(
                    f"{self.path}: expected blocks of {self.shape.d_mlp} neurons, {n_words} words "
                    f"for {self.shape.n_tokens} tokens, found {found[:3]}; capture anew"
                )
            for name in names:
                yield file.get_slice(name)[start:stop]


@dataclass(frozen=True, eq=False)
class ActivationDump:
    """A dump on disk.

    ``token_ids`` [T] int32, ``sample_offsets`` [samples + 1] int64, ``sampled_tokens`` [S] int64.
    """

    folder: Path
    shape: DumpShape
    model: str
    token_ids: np.ndarray
    sample_offsets: np.ndarray
    sampled_tokens: np.ndarray
    neurons: Neurons = "mlp"

    def layer(self, layer: int) -> LayerBits:
        """Return the bits of a layer, which are read when they are iterated."""
        return LayerBits(self.folder / layer_file(layer), self.shape, self.model)

    def values(self, layer: int) -> np.ndarray:
        """Read the sampled tokens' activations, [S, N] float16."""
        path = self.folder / values_file(layer)
        if not len(self.sampled_tokens):
            raise InputError(
                f"{self.folder}: expected sampled values, found bits alone; "
                "capture with --sampled-tokens"
            )
        _, tensors = read_tensors(path, VALUES_KIND, SCHEMA, self.model)
        expected = (len(self.sampled_tokens), self.shape.d_mlp)
        if (found := tensors["values"].shape) != expected:
            raise InputError(f"{path}: expected values {expected}, found {found}; capture anew")
        return tensors["values"]


def open_dump(folder: Path) -> ActivationDump:
    """Open a dump; its layers are read, and checked, later."""
    header, tensors = read_tensors(folder / TOKENS_FILE, TOKENS_KIND, SCHEMA)
    try:
        n_layers, d_mlp = map(int, tensors["shape"])
        token_ids, sample_offsets = tensors["token_ids"], tensors["sample_offsets"]
        sampled_tokens = tensors["sampled_tokens"]
    except (KeyError, ValueError):
        raise InputError(f"{folder / TOKENS_FILE}: damaged; capture anew") from None
    shape = DumpShape(n_layers, d_mlp, len(token_ids), len(sampled_tokens))
    return ActivationDump(
        folder, shape, header.model, token_ids, sample_offsets, sampled_tokens, header.neurons
    )
