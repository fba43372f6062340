"""Numbered rows of one file of each format, as they are read; what is no such file is refused."""

import csv
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from fnsft.artifacts.storage import MIB, existing
from fnsft.data.text_lines import MAX_LINE_MIB, numbered_lines
from fnsft.errors import InputError

BATCH_ROWS = 256


def json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield the JSON value of each line that is not blank, with the line's number."""
    first = True
    for number, line in numbered_lines(path):
        if line.strip():
            if first and line.lstrip().startswith("["):
                raise InputError(
                    f"{path}: expected an object a line, found a JSON list; rename it to .json"
                )
            first = False
            yield number, json_value(line, f"{path} line {number}")


def json_value(text: str, where: str) -> Any:
    """Parse JSON; NaN and infinities, which are none, are refused."""
    try:
        return json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        if isinstance(error, RecursionError):
            error = ValueError("nested too deeply")
        found = repr(text[:60]) if text.strip() else "nothing"
        raise InputError(f"{where}: expected JSON, found {found} ({error})") from None


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON; write null")


def cells(path: Path, delimiter: str) -> Iterator[tuple[int, Any]]:
    """Yield the records below a header; cells that a short record lacks are null."""
    csv.field_size_limit(MAX_LINE_MIB * MIB)
    lines = (line for _, line in numbered_lines(path))
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        _check_header(header, path, delimiter)
        for number, record in enumerate((cells for cells in reader if cells), start=1):
            if len(record) > len(header):
                raise InputError(
                    f"{path} row {number} (it ends in line {reader.line_num}): expected "
                    f"{len(header)} cells, as the header has, found {len(record)}; put quotation "
                    "marks around cells that hold the separator"
                )
            yield number, dict(itertools.zip_longest(header, record))
    except csv.Error as error:
        raise InputError(
            f"{path} line {reader.line_num}: expected cells of CSV, found damage ({error}); is a "
            "quotation mark not closed or not doubled?"
        ) from None


def _check_header(header: list[str], path: Path, delimiter: str) -> None:
    if twice := [name for i, name in enumerate(header) if name in header[:i]]:
        raise InputError(f"{path}: expected a header of different names, found {twice[0]!r} twice")
    others = [mark for mark in ";\t," if len(header) == 1 and mark in header[0]]
    if others:
        raise InputError(
            f"{path}: expected cells between {delimiter!r}, found {others[0]!r} in the header; "
            "save it as .csv with commas, or as .tsv with tabs"
        )


def parquet_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield the rows of a Parquet file; ``BATCH_ROWS`` are in memory at a time."""
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(existing(path)) as file:
            for batch in file.iter_batches(batch_size=BATCH_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pyarrow.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{path}: expected Parquet, found damage after row {number} ({reason:.120}); fetch it "
            "anew"
        ) from None


def texts(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield each line that is not blank as a row with the field ``text``."""
    for number, line in numbered_lines(path):
        if line.strip():
            yield number, {"text": line.rstrip("\r\n")}
