"""Flags from settings: every field of a stage's dataclass is a flag of the same name."""

import argparse
import dataclasses
from typing import Any, TypeVar

from fnsft.config.settings import ALL, FieldType, Settings, fields_of, flag_of, range_text

S = TypeVar("S", bound=Settings)


def add_names(parser: argparse.ArgumentParser, *sources: str, shown_in: str) -> None:
    """Add the names that a stage's rows have in tables or figures, and the seed of their run.

    ``sources`` are what is measured beside the model and its task, such as ``graph``.
    """
    for source in ("model", *sources):
        owner = f"{source}'" if source.endswith("s") else f"{source}'s"
        text = f"the {owner} name in {shown_in}"
        parser.add_argument(f"--{source}-name", required=True, help=text)
    parser.add_argument("--task", required=True, help=f"the task's name in {shown_in}")
    parser.add_argument("--run-seed", type=int, required=True, help="seed of the run it is of")


def add_settings(
    parser: argparse.ArgumentParser, cls: type[Settings], title: str = "settings"
) -> None:
    """Add one flag for every field of ``cls``; values are checked by the dataclass itself."""
    group = parser.add_argument_group(title)
    for name, field in fields_of(cls).items():
        kind = FieldType.of(field.type)
        options: dict[str, Any] = {
            "dest": name,
            "default": argparse.SUPPRESS,
            "help": _help(field, kind).replace("%", "%%"),
        }
        if kind.base is bool:
            options["action"] = argparse.BooleanOptionalAction
        else:
            takes_all = kind.takes_all(field.default)
            options["type"] = int_or_all if takes_all else kind.base
            options["metavar"] = (
                "{" + ",".join(map(str, kind.choices)) + "}" if kind.choices else _metavar(kind)
            ) + (f"|{ALL}" if takes_all else "")
            if kind.many:
                options["nargs"] = "*"
        group.add_argument(flag_of(name), **options)


def read_settings(arguments: argparse.Namespace, cls: type[S]) -> S:
    """Build the settings from the flags that were given; the rest keeps its default."""
    given = vars(arguments)
    return cls(**{name: given[name] for name in fields_of(cls) if name in given})


def int_or_all(text: str) -> int | None:
    """Return a limit, of :data:`ALL` None; argparse calls what it refuses by this name."""
    return None if text == ALL else int(text)


def _metavar(kind: FieldType) -> str:
    return {int: "N", float: "X", str: "TEXT"}[kind.base]


def _help(field: dataclasses.Field[Any], kind: FieldType) -> str:
    limits = field.metadata["limits"]
    remarks = []
    if limits:
        remarks.append(range_text(limits))
    if field.default is dataclasses.MISSING:
        remarks.append("required")
    elif field.default not in (None, "", ()):
        default = " ".join(map(str, field.default)) if kind.many else field.default
        if kind.base is bool:
            default = "on" if default else "off"
        remarks.append(f"default {default}")
    return field.metadata["help"] + (f" ({'; '.join(remarks)})" if remarks else "")
