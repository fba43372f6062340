"""JSON lines, and flat dataclasses from them with every field checked."""

import dataclasses
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from fnsft.artifacts.storage import read_text
from fnsft.config.settings import FieldType
from fnsft.errors import InputError

T = TypeVar("T")
NOUNS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def numbered_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield the line numbers, from 1, and the JSON values of a file's lines that are not blank."""
    # JSON may hold U+2028 and its like, at which splitlines() would cut.
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            yield number, json_value(line, f"{path} line {number}")


def json_value(line: str, where: str) -> Any:
    """Parse a line of JSON; ``where`` names the place when it is none."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:  # also of too many digits, or too deep
        raise InputError(f"{where}: expected JSON, found {line!r:.60} ({error})") from None


def typed_row(cls: type[T], row: Any, where: str) -> T:
    """Build ``cls`` (fields: texts, of a closed set or not, numbers, booleans) from a JSON object.

    A field that has a default may be missing. Lists become tuples.

    Raises
    ------
    InputError
        When a field is missing, unknown, of another type or not in its closed set; ``where``
        names the place.
    """
    if not isinstance(row, dict):
        raise InputError(f"{where}: expected an object, found {row!r:.60}")
    kinds, needed = _fields(cls)  # type: ignore[arg-type]
    if missing := [name for name in needed if name not in row]:
        raise InputError(f"{where}: the field {missing[0]!r} is missing")
    if unknown := [name for name in row if name not in kinds]:
        raise InputError(f"{where}: unknown field {unknown[0]!r}; expected {', '.join(kinds)}")
    for name, value in row.items():
        kind = kinds[name]
        if not _fits(value, kind):
            noun = f"a list, each {NOUNS[kind.base]}" if kind.many else NOUNS[kind.base]
            noun += " or null" if kind.optional else ""
            raise InputError(f"{where}: {name}: expected {noun}, found {value!r:.60}")
        if kind.choices and value not in kind.choices:
            known = ", ".join(map(str, kind.choices))
            raise InputError(f"{where}: {name}: expected one of {known}, found {value!r}")
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in row.items()})


@functools.cache
def _fields(cls: type) -> tuple[dict[str, FieldType], list[str]]:
    """Return the fields' types, and which of them have no default."""
    fields = dataclasses.fields(cls)
    needed = [field.name for field in fields if field.default is dataclasses.MISSING]
    return {field.name: FieldType.of(field.type) for field in fields}, needed


def _fits(value: Any, kind: FieldType) -> bool:
    if value is None:
        return kind.optional
    if kind.many:
        one = dataclasses.replace(kind, many=False, optional=False)
        return isinstance(value, list) and all(_fits(item, one) for item in value)
    if bool in (type(value), kind.base):
        return type(value) is kind.base
    if value != value:  # JSON lets NaN through
        return False
    return isinstance(value, (int, float) if kind.base is float else kind.base)
