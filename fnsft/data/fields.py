"""Text out of rows: templates whose ``{fields}`` a row fills in.

A field is named by its path, ``answers.text.0`` or ``question``, and ``{output|response}`` is
the first of several that a row has and that is neither null nor blank. Nothing is evaluated:
what stands in data is never a template.
"""

import json
import math
import numbers
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from fnsft.errors import InputError

Values = dict[str, list[str]]
Part = Literal["prompt", "completion", "context", "rejected"]
_FIELD = re.compile(r"\{([^{}]*)\}")
_MISSING = object()


@dataclass(frozen=True)
class FieldTemplate:
    """A template of a sample's part; ``values`` name the integers of fields that are labels.

    ``remedy`` turns the path of a text into the flags that name it as the part.
    """

    part: Part
    template: str
    values: Values
    remedy: Callable[[str], str]

    def __post_init__(self) -> None:
        if set("{}") & set("".join(_FIELD.split(self.template)[::2])) or "" in self.fields:
            raise InputError(
                f"{self.part}: expected fields in braces such as {{question}}, found "
                f"{self.template!r}"
            )

    @property
    def fields(self) -> list[str]:
        """The fields that it names, alternatives apart."""
        return fields_of(self.template)

    def fill(self, row: dict[str, Any], where: str) -> str | None:
        """Return the text, or None where a field of it is null or blank.

        Raises
        ------
        InputError
            For a field that the row lacks (a context may lack it), or that is no text or number.
        """
        pieces = _FIELD.split(self.template)
        for i in range(1, len(pieces), 2):
            text = self._text(pieces[i], row, where)
            if text is None or not text.strip():
                return None
            pieces[i] = text
        return "".join(pieces)

    def _text(self, names: str, row: dict[str, Any], where: str) -> str | None:
        found = {name: value_at(row, name) for name in names.split("|")}
        present = {name: value for name, value in found.items() if value is not _MISSING}
        if not present and self.part != "context":
            raise InputError(
                f"{where}: expected the field {names!r}, found {', '.join(row) or 'no field'}"
            )
        filled = {name: value for name, value in present.items() if not _is_blank(value)}
        if not filled:
            return None
        name, value = next(iter(filled.items()))
        if name in self.values:
            value = _named(value, self.values[name], f"{where}: {name}")
        if isinstance(value, str):
            return _encodable(value, f"{where}: {name}")
        if isinstance(value, numbers.Number):
            return json.dumps(value) if isinstance(value, (bool, int, float)) else str(value)
        inner = path_to_text(name, value)
        remedy = f"name what it is, such as {self.remedy(inner)}" if inner else "write text"
        raise InputError(
            f"{where}: {self.part}: expected text in the field {name!r}, found {value!r:.60}; "
            f"{remedy}"
        )


def fields_of(template: str) -> list[str]:
    """Return the names of the fields in a template, alternatives apart."""
    return [name for names in _FIELD.findall(template) for name in names.split("|")]


def value_at(row: dict[str, Any], path: str) -> Any:
    """Return what stands at a path; None where an object or an item on the way is none."""
    if path in row:
        return row[path]
    value: Any = row
    for step in path.split("."):
        if isinstance(value, dict) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.isdecimal():
            value = value[int(step)] if int(step) < len(value) else None
        elif value is not None:
            return _MISSING
    return value


def path_to_text(path: str, value: Any) -> str | None:
    """Return the path of the first text in a value, for example ``answers.text.0``."""
    if isinstance(value, dict) and value:
        name = next((n for n in ("text", "content", "value") if n in value), next(iter(value)))
        return path_to_text(f"{path}.{name}", value[name])
    if isinstance(value, list) and value:
        return path_to_text(f"{path}.0", value[0])
    return path if isinstance(value, str) else None


def is_in(row: dict[str, Any], path: str) -> bool:
    """Say whether a row has the field of a path, null or not."""
    return value_at(row, path) is not _MISSING


def _is_blank(value: Any) -> bool:
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float) and math.isnan(value))


def _named(value: Any, names: list[str], where: str) -> str:
    """Return the name of a label, which is its number (a CSV has it as text) or already a name."""
    if isinstance(value, str) and value in names:
        return value
    if (type(value) is int or (isinstance(value, str) and value.isdecimal())) and (
        0 <= int(value) < len(names)
    ):
        return names[int(value)]
    raise InputError(
        f"{where}: expected a label from 0 to {len(names) - 1}, or its name, found {value!r:.60}"
    )


def _encodable(text: str, where: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{where}: expected characters, found half of one, {text[error.start]!r}; correct the "
            "row"
        ) from None
    return text
