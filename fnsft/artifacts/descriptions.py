"""What neurons respond to, in words: JSON lines, gzipped where the name ends in ``.gz``.

The first line is a header, ``{kind, schema, model, source}``; every further one is a
description. They stand in the order of layer, neuron and sign, ``+`` before ``-``, each once.
"""

import contextlib
import dataclasses
import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, Literal

from fnsft.artifacts.rows import json_value, typed_row
from fnsft.artifacts.storage import existing, written_whole
from fnsft.errors import InputError

KIND, SCHEMA = "neuron-descriptions", 1
Sign = Literal["+", "-"]
DescriptionSource = Literal["activations", "database"]
SIGNS: tuple[Sign, ...] = ("+", "-")


@dataclasses.dataclass(frozen=True)
class Description:
    """What the activations of one sign of a neuron respond to.

    ``score`` is in [0, 1], 0 where the description is not valid. ``contexts`` are pieces of text
    in which the described token stands between « and ».
    """

    layer: int
    neuron: int
    sign: Sign
    text: str
    score: float
    contexts: tuple[str, ...] = ()

    @property
    def place(self) -> tuple[int, int, int]:
        """Where it stands among others."""
        return self.layer, self.neuron, SIGNS.index(self.sign)


@dataclasses.dataclass(frozen=True)
class DescriptionsHeader:
    """What a file says of itself: ``source`` is our own top tokens, or a published database."""

    kind: str
    schema: int
    model: str
    source: DescriptionSource


@dataclasses.dataclass(frozen=True)
class Descriptions:
    """The descriptions of a model's neurons, in a file; iteration reads one after the other."""

    path: Path
    header: DescriptionsHeader

    def __iter__(self) -> Iterator[Description]:
        before = (-1, 0, 0)
        with _open_to_read(self.path) as lines:
            next(lines)
            for number, line in enumerate(lines, start=2):
                where = f"{self.path} line {number}"
                found: Description = typed_row(Description, json_value(line, where), where)
                _check(found, before, where)
                before = found.place
                yield found


def write_descriptions(
    path: Path,
    descriptions: Iterable[Description],
    model: str,
    source: DescriptionSource = "activations",
) -> None:
    """Write the descriptions of the model with this identity, whole; the same bytes each time.

    Raises
    ------
    InputError
        When one stands out of order or twice, or has a score outside of [0, 1].
    """
    header = DescriptionsHeader(KIND, SCHEMA, model, source)
    before = (-1, 0, 0)
    with written_whole(path) as partial, _open_to_write(partial, path.suffix == ".gz") as file:
        file.write(_line(header))
        for description in descriptions:
            _check(description, before, str(path))
            before = description.place
            file.write(_line(description))


def read_descriptions(path: Path, model: str | None = None) -> Descriptions:
    """Open descriptions; when ``model`` is given they must be of the model with this identity."""
    with _open_to_read(path) as lines:
        row = json_value(next(lines, ""), f"{path} line 1")
    if not isinstance(row, dict) or row.get("kind") != KIND or row.get("schema") != SCHEMA:
        raise InputError(
            f"{path}: expected {KIND} of schema {SCHEMA}, found another file; see fnsft describe"
        )
    header = typed_row(DescriptionsHeader, row, f"{path} line 1")
    if model is not None and header.model != model:
        raise InputError(
            f"{path}: made from model {header.model}, expected model {model}; describe this model"
        )
    return Descriptions(path, header)


def _check(description: Description, before: tuple[int, int, int], where: str) -> None:
    layer, neuron, sign = description.layer, description.neuron, description.sign
    if min(layer, neuron) < 0 or not 0 <= description.score <= 1:
        raise InputError(
            f"{where}: expected a layer and a neuron from 0 and a score in [0, 1], found layer "
            f"{layer}, neuron {neuron}, score {description.score:g}; describe anew"
        )
    if description.place <= before:
        raise InputError(
            f"{where}: expected layers, neurons and signs in order, each once, found layer "
            f"{layer}, neuron {neuron}, sign {sign} too late; describe anew"
        )


def _line(row: Any) -> str:
    return json.dumps(dataclasses.asdict(row), ensure_ascii=False) + "\n"


@contextlib.contextmanager
def _open_to_write(path: Path, zipped: bool) -> Iterator[IO[str]]:
    if not zipped:
        with path.open("w") as file:
            yield file
        return
    # Without name and time in gzip's header the same descriptions are the same bytes.
    with (
        path.open("wb") as raw,
        gzip.GzipFile("", "wb", compresslevel=6, fileobj=raw, mtime=0) as packed,
        io.TextIOWrapper(packed, encoding="utf-8") as file,
    ):
        yield file


@contextlib.contextmanager
def _open_to_read(path: Path) -> Iterator[Iterator[str]]:
    try:
        opened: Any = gzip.open if path.suffix == ".gz" else open
        with opened(existing(path), "rt", encoding="utf-8", newline="\n") as file:
            yield file
    except (EOFError, gzip.BadGzipFile, zlib.error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: expected JSON lines, found damage ({error})") from None
