"""Values of one site of a model on one data set: on disk, and mapped into memory when read.

``layer_003.safetensors`` holds ``values`` float16 [T, width], token after token in the data's
order, without padding: tokens are appended as they come, and of what is read the system keeps
in memory as much as there is room for.

Shapes: T = tokens of the data set, n = tokens of one call, width = the layer's channels.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, Self

import numpy as np

from fnsft.artifacts.tensors import Header, leading_bytes, open_tensors
from fnsft.errors import InputError

KIND, SCHEMA = "site-values", 1
NO_MODEL = ""  # the values are read by the process that writes them


@dataclass(frozen=True)
class SiteValues:
    """A folder of values; ``widths`` are the channels of the layers that it holds."""

    folder: Path
    n_tokens: int
    widths: Mapping[int, int]

    @property
    def n_bytes(self) -> int:
        """Bytes of all layers on disk, but for the small headers."""
        return np.dtype(np.float16).itemsize * self.n_tokens * sum(self.widths.values())

    def path(self, layer: int) -> Path:
        """Return where a layer's values lie."""
        return self.folder / f"layer_{layer:03d}.safetensors"

    def layer(self, layer: int, mode: Literal["r", "r+"] = "r") -> np.memmap:
        """Map a layer's values, [T, width] float16, to read them or (r+) to change them in place.

        Raises
        ------
        InputError
            For a file that is not there, truncated, or of another shape.
        """
        path, expected = self.path(layer), (self.n_tokens, self.widths[layer])
        with open_tensors(path, KIND, SCHEMA) as (_, file):
            found = tuple(file.get_slice("values").get_shape())
        if found != expected:
            raise InputError(f"{path}: expected values {expected}, found {found}; make it anew")
        # The only tensor ends with the file.
        start = path.stat().st_size - np.dtype(np.float16).itemsize * expected[0] * expected[1]
        return np.memmap(path, np.float16, mode, offset=start, shape=expected)


class SiteWriter:
    """Writes the layers side by side, as tokens come in; a context manager.

    Exactly ``values.n_tokens`` tokens must be appended to every layer.
    """

    def __init__(self, values: SiteValues) -> None:
        self._values = values
        self._files = contextlib.ExitStack()
        self._layers: dict[int, BinaryIO] = {}
        self._missing = dict.fromkeys(values.widths, values.n_tokens)

    def __enter__(self) -> Self:
        for layer, width in self._values.widths.items():
            file = self._files.enter_context(self._values.path(layer).open("wb"))
            shapes = {"values": (self._values.n_tokens, width)}
            file.write(leading_bytes(Header(KIND, SCHEMA, NO_MODEL), "F16", shapes))
            self._layers[layer] = file
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._files.close()
        assert kind or not any(self._missing.values())

    def append(self, layer: int, values: np.ndarray) -> None:
        """Add the next tokens of a layer, [n, width]; float32 is rounded to float16.

        Raises
        ------
        InputError
            For a value that is not finite, or that float16 (up to 65,504) cannot hold.
        """
        assert values.shape[1] == self._values.widths[layer]
        with np.errstate(over="ignore"):
            rounded = values.astype(np.float16)
        if not np.isfinite(rounded).all():
            if not np.isfinite(values).all():
                raise InputError(
                    f"layer {layer}: expected finite activations, found NaN or infinity; "
                    "check the weights, or use float32"
                )
            raise InputError(
                f"layer {layer}: expected activations within float16 (65,504), found "
                f"{np.abs(values).max():.4g}; leave the layer out, or use another site"
            )
        self._layers[layer].write(rounded.tobytes())
        self._missing[layer] -= len(values)
