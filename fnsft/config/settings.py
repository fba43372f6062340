"""Frozen dataclasses whose fields are YAML keys, command-line flags and JSON-schema properties.

A field is declared once, with :func:`setting`; everything that a user meets (the flag, its
help, its default, the range that is enforced, the schema's entry) is derived from it.
"""

import dataclasses
import difflib
import functools
import shlex
import types
import typing
from collections.abc import Callable
from typing import Any, ClassVar, Literal, Self

from fnsft.errors import InputError

ALL = "all"  # a limit's flag in place of a number, where one that is absent limits


def setting(
    default: Any = dataclasses.MISSING,
    help: str = "",
    *,
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    below: float | None = None,
) -> Any:
    """Declare a field: default, one sentence, and the closed or open ends of its range."""
    limits = {"minimum": minimum, "above": above, "maximum": maximum, "below": below}
    metadata = {"help": help, "limits": {k: v for k, v in limits.items() if v is not None}}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class FieldType:
    """A field's type, taken apart: ``base`` is one of bool, int, float, str."""

    base: type
    choices: tuple[Any, ...] = ()
    optional: bool = False
    many: bool = False

    def takes_all(self, default: Any) -> bool:
        """Return whether its flag takes :data:`ALL`, which stands for None."""
        return self.optional and default is not None

    @classmethod
    def of(cls, annotation: Any) -> Self:
        """Take an annotation such as ``int | None``, ``tuple[str, ...]`` or ``Literal`` apart."""
        origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
        if origin in (types.UnionType, typing.Union):
            inner = cls.of(next(a for a in arguments if a is not type(None)))
            return dataclasses.replace(inner, optional=True)
        if origin is tuple:
            return dataclasses.replace(cls.of(arguments[0]), many=True)
        if origin is Literal:
            return cls(type(arguments[0]), choices=arguments)
        return cls(annotation)


_type_of: Callable[[Any], FieldType] = functools.cache(FieldType.of)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Base of every stage's settings: checks types, choices and ranges when it is made.

    ``stage`` names the command, ``version`` is raised when the stage's output changes for
    the same settings and inputs; the workflow then re-runs it.
    """

    stage: ClassVar[str] = ""
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        for name, field in fields_of(type(self)).items():
            object.__setattr__(self, name, _checked(name, getattr(self, name), field))

    @classmethod
    def from_mapping(cls, mapping: dict[str, Any], where: str) -> Self:
        """Build from a YAML mapping; unknown keys and wrong values raise ``InputError``."""
        known = list(fields_of(cls))
        if unknown := sorted(map(str, set(mapping) - set(known))):
            raise InputError(f"{where}: unknown key {unknown[0]!r}; {nearest(unknown[0], known)}")
        try:
            return cls(**mapping)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None

    def flags(self) -> str:
        """One canonical string of flags, in order of declaration: what a workflow rule passes.

        Snakemake compares a rule's params as a set of values, so that two swapped numbers
        would go unnoticed; in one string they do not.
        """
        words: list[str] = []
        for name, field in fields_of(type(self)).items():
            words += _flag_words(name, getattr(self, name), field)
        return shlex.join(words)


def fields_of(cls: type[Settings]) -> dict[str, dataclasses.Field[Any]]:
    """Map a settings class's field names to its fields, in order of declaration."""
    return {field.name: field for field in dataclasses.fields(cls)}


def nearest(word: str, known: list[str]) -> str:
    """Put into words which known one is spelt most like a word, or which there are."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"known keys are {', '.join(known)}"


def flag_of(name: str) -> str:
    """Turn a field name into its command-line flag: ``learning_rate`` is ``--learning-rate``."""
    return "--" + name.replace("_", "-")


def _flag_words(name: str, value: Any, field: dataclasses.Field[Any]) -> list[str]:
    kind = _type_of(field.type)
    if value is None:
        return [flag_of(name), ALL] if kind.takes_all(field.default) else []
    if kind.many and not value and not field.default:
        return []
    if kind.base is bool:
        return [flag_of(name) if value else flag_of("no_" + name)]
    values = value if kind.many else (value,)
    return [flag_of(name), *(repr(v) if isinstance(v, float) else str(v) for v in values)]


def _checked(name: str, value: Any, field: dataclasses.Field[Any]) -> Any:
    kind = _type_of(field.type)
    if value is None and kind.optional:
        return None
    if kind.many:
        if isinstance(value, str) or not isinstance(value, (list, tuple)):
            raise InputError(f"{name}: expected a list, found {value!r}")
        return tuple(_checked_one(name, item, kind, field) for item in value)
    return _checked_one(name, value, kind, field)


def _checked_one(name: str, value: Any, kind: FieldType, field: dataclasses.Field[Any]) -> Any:
    value = _converted(name, value, kind)
    if kind.choices and value not in kind.choices:
        raise InputError(
            f"{name}: expected one of {', '.join(map(str, kind.choices))}, found {value!r}"
        )
    limits = field.metadata.get("limits", {})
    inside = {
        "minimum": lambda limit: value >= limit,
        "above": lambda limit: value > limit,
        "maximum": lambda limit: value <= limit,
        "below": lambda limit: value < limit,
    }
    if not all(inside[end](limit) for end, limit in limits.items()):
        raise InputError(f"{name}: expected a value {range_text(limits)}, found {value!r}")
    return value


def _converted(name: str, value: Any, kind: FieldType) -> Any:
    if kind.base is float:
        # YAML reads 1e-4 as a string, and 1 as an integer.
        try:
            return float(value) if not isinstance(value, bool) else _wrong(name, value, kind)
        except (TypeError, ValueError):
            _wrong(name, value, kind)
    if type(value) is not kind.base:
        _wrong(name, value, kind)
    return value


def _wrong(name: str, value: Any, kind: FieldType) -> typing.NoReturn:
    noun = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    raise InputError(f"{name}: expected {noun[kind.base]}, found {value!r}")


def range_text(limits: dict[str, float]) -> str:
    """Put limits into words: ``above 0, at most 1``."""
    words = {"minimum": "at least", "above": "above", "maximum": "at most", "below": "below"}
    return ", ".join(f"{words[end]} {limit:g}" for end, limit in limits.items())
