"""Lines of anyone's text files, one at a time: plain or gzipped, in UTF-8 or UTF-16."""

import codecs
import contextlib
import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from fnsft.artifacts.storage import MIB, existing
from fnsft.errors import InputError

# A sample of this size is none; the bound keeps a file without line breaks out of the memory.
MAX_LINE_MIB = 64


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    r"""Yield the lines of a text file, numbered from 1, each with the ``\n`` that ends it.

    One line is in memory at a time. A byte order mark is read and left out.

    Raises
    ------
    InputError
        For a missing or damaged file, bytes in another encoding, and a line of more than
        ``MAX_LINE_MIB`` MiB; the line is named.
    """
    with opened(path) as file:
        start = file.read(4)
        file.seek(0)
        lines = _utf16_lines if _is_utf16(start, path) else _utf8_lines
        yield from lines(file, path)


def whole_text(path: Path) -> str:
    """Read a text file of any size into memory, as :func:`numbered_lines` reads it.

    Raises
    ------
    InputError
        For a missing or damaged file, and bytes in another encoding.
    """
    with opened(path) as file:
        content = file.read().removeprefix(codecs.BOM_UTF8)
    try:
        return content.decode("utf-16" if _is_utf16(content[:4], path) else "utf-8")
    except UnicodeDecodeError as error:
        line_start = content.rfind(b"\n", 0, error.start) + 1
        number = content.count(b"\n", 0, error.start) + 1
        place = error.start - line_start + 1
        raise _not_utf8(f"{path} line {number}", content[error.start], place) from None


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading bytes, unpacked when its name ends with ``.gz``."""
    try:
        if path.suffix == ".gz":
            with gzip.open(existing(path)) as packed:
                yield cast(BinaryIO, packed)
        else:
            with existing(path).open("rb") as file:
                yield file
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path}: expected a gzip file, found damage ({error})") from None


def _is_utf16(start: bytes, path: Path) -> bool:
    if start.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        raise InputError(f"{path}: expected UTF-8, found UTF-32; save it as UTF-8")
    return start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))


def _not_utf8(where: str, byte: int, place: int) -> InputError:
    return InputError(
        f"{where}: expected UTF-8, found the byte 0x{byte:02X} at its byte {place}; if the whole "
        "file is in another encoding, convert it (iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW), else "
        "mend this line"
    )


def _utf8_lines(file: BinaryIO, path: Path) -> Iterator[tuple[int, str]]:
    number = 1
    while line := file.readline(MAX_LINE_MIB * MIB + 1):
        where = f"{path} line {number}"
        _require_short(line, where)
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            raise _not_utf8(where, line[error.start], error.start + 1) from None
        yield number, text
        number += 1


def _utf16_lines(file: BinaryIO, path: Path) -> Iterator[tuple[int, str]]:
    decoded = io.TextIOWrapper(file, encoding="utf-16", newline="\n")
    number = 1
    try:
        while line := decoded.readline(MAX_LINE_MIB * MIB + 1):
            _require_short(line, f"{path} line {number}")
            yield number, line
            number += 1
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: at or after line {number}: expected UTF-16, as its first bytes say, found "
            f"others ({error.reason}); save it as UTF-8"
        ) from None


def _require_short(line: bytes | str, where: str) -> None:
    if len(line) > MAX_LINE_MIB * MIB:
        raise InputError(
            f"{where}: expected at most {MAX_LINE_MIB} MiB, found a longer line; a file that is "
            "one JSON list ends with .json"
        )
