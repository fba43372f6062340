"""What the fields of anyone's rows mean: recognised, named by the user, or by a preset.

Fields are recognised by their names in the first ``LOOKED_AT`` rows. The schema whose needed
fields are most wins, and of several with as many, the one of which more are spelt exactly;
``text`` wins only alone. Where two are left, those count that can read the rows (answers of a
pair are texts or conversations), and they must read the same samples.
"""

import itertools
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Literal

from fnsft.config.presets import TaskPreset
from fnsft.data.fields import fields_of, is_in, path_to_text, value_at
from fnsft.data.reading import Reader, Schema
from fnsft.data.row_files import Rows
from fnsft.data.samples import Sample
from fnsft.errors import InputError

__all__ = ["Reader", "reader_of"]

LOOKED_AT = 200


SCHEMAS = (
    Schema("plain", "{prompt}", "{completion}"),
    Schema("plain", "{prompt}", "{response}"),
    Schema("question", "{question}", "{answer}"),
    Schema("question", "{question}", "{response}"),
    Schema("question", "{question}", "{answer}", "{context}"),
    Schema("question", "{question}", "{response}", "{context}"),
    Schema("instruction", "{instruction}", "{output}", "{input|context}"),
    Schema("instruction", "{instruction}", "{response}", "{input|context}"),
    Schema("question", "{Question}", "{Complex_CoT}\n\n{Response}"),
    Schema("question", "{input}", "{target}"),
    Schema("conversation", "", "{messages}"),
    Schema("conversation", "", "{conversations}"),
    Schema("text", "", "{text}"),
    Schema("plain", "{prompt}", "{chosen}", rejected="{rejected}"),
    Schema("question", "{question}", "{chosen}", rejected="{rejected}"),
    Schema("instruction", "{instruction}", "{chosen}", "{input|context}", "{rejected}"),
    Schema("conversation", "{prompt}", "{chosen}", rejected="{rejected}"),
    Schema("conversation", "", "{chosen}", rejected="{rejected}"),
)


def reader_of(rows: Rows, preset: TaskPreset | None, columns: str) -> Reader:
    """Find out how rows are read: by ``columns``, else a preset, else their fields' names.

    Raises
    ------
    InputError
        When no schema fits, when two fit and read different samples, and for ``columns`` that
        are misspelt or that no row has.
    """
    first = list(itertools.islice(rows, LOOKED_AT))
    schema = None if preset is None else Schema.of(preset.preset)
    if columns:
        schema = _named_columns(columns, schema, [row for _, row in first], rows.where)
    name = "" if preset is None else f"preset {preset.name}, "
    values = {} if preset is None else preset.values
    if schema is None:
        schema = _recognised(first, rows.where)
    used = {part for path in schema.fields for part in (path, path.split(".")[0])}
    unused = [field for field in _fields_of_rows(row for _, row in first) if field not in used]
    return Reader(rows.where, schema, values, name, tuple(unused))


def _named_columns(
    columns: str, preset: Schema | None, rows: list[dict[str, Any]], where: str
) -> Schema:
    pairs = [part.partition("=")[::2] for part in columns.split(",")]
    named = {key.strip().replace("chosen", "completion"): path.strip() for key, path in pairs}
    keys = set(named)
    alone = keys in ({"text"}, {"messages"})
    talks = {"completion", "rejected"} <= keys <= {"prompt", "completion", "rejected"} and any(
        isinstance(value_at(row, named["completion"]), list) for row in rows
    )
    whole = preset is not None or {"prompt", "completion"} <= keys
    apart = talks or (whole and keys <= {"prompt", "completion", "context", "rejected"})
    readable = len(named) == len(pairs) and all(named.values()) and not set("{}") & set(columns)
    if not readable or not (alone or apart):
        raise InputError(
            "columns: expected prompt=FIELD,completion=FIELD[,context=FIELD], text=FIELD, "
            "messages=FIELD or prompt=FIELD,chosen=FIELD,rejected=FIELD[,context=FIELD], found "
            f"{columns!r}"
        )
    for path in named.values():
        if not any(is_in(row, name) for row in rows for name in path.split("|")):
            found = ", ".join(_fields_of_rows(rows))
            raise InputError(f"{where}: columns: expected a field {path!r}, found {found}")
    templates = {key: f"{{{path}}}" for key, path in named.items()}
    if alone:
        kind: Literal["text", "conversation"] = "text" if "text" in named else "conversation"
        return Schema(kind, "", *templates.values())
    if talks:
        return Schema("conversation", **({"prompt": ""} | templates))
    schema = preset or Schema(_kind_of(named), "", "")
    return replace(schema, **templates)  # type: ignore[arg-type]


def _kind_of(named: dict[str, str]) -> Literal["plain", "question", "instruction"]:
    """Tell from a field's name what it holds; a context stands with a question."""
    last = named["prompt"].rpartition(".")[2].lower()
    if last == "instruction":
        return "instruction"
    return "question" if last == "question" or "context" in named else "plain"


def _recognised(rows: list[tuple[int, dict[str, Any]]], where: str) -> Schema:
    names = _fields_of_rows(row for _, row in rows)
    fits = [fit for schema in SCHEMAS if (fit := _fit(schema, names))]
    if not fits:
        raise InputError(
            f"{where}: expected fields of a known schema (prompt and completion, question and "
            "answer, instruction and output, messages, text, …), found "
            f"{', '.join(names)}; say which is which, such as {_example(rows[0][1])}"
        )
    best = max(rank for rank, _ in fits)
    schemas = [schema for rank, schema in fits if rank == best]
    if len(schemas) == 1:
        return schemas[0]
    read = [_samples(schema, rows, where) for schema in schemas]
    if readable := [place for place, samples in enumerate(read) if samples is not None]:
        first = readable[0]
        if all(read[place] == read[first] for place in readable):
            return schemas[first]
    choices = " or ".join(schema.columns() for schema in schemas)
    raise InputError(
        f"{where}: expected one reading of its fields, found {len(schemas)} that differ; "
        f"say which: {choices}"
    )


def _fit(schema: Schema, names: list[str]) -> tuple[tuple[int, int], Schema] | None:
    """Spell a schema's fields as the rows do, and rank it; None where a needed one is missing."""
    wanted = fields_of(schema.text)
    spelt = {name: found for name in wanted if (found := _spelling(name, names))}
    if not set(schema.needed) <= set(spelt):
        return None

    def spell(template: str) -> str:
        def one(match: re.Match[str]) -> str:
            found = [spelt[name] for name in match[1].split("|") if name in spelt]
            return f"{{{'|'.join(found)}}}" if found else ""

        return re.sub(r"\{([^{}]*)\}", one, template)

    parts = map(spell, (schema.prompt, schema.completion, schema.context, schema.rejected))
    n_needed = 0 if schema.kind == "text" else len(schema.needed)
    n_exact = sum(spelt[name] == name for name in schema.needed)
    return (n_needed, n_exact), Schema(schema.kind, *parts)


def _spelling(name: str, names: list[str]) -> str | None:
    if name in names:
        return name
    alike = [found for found in names if found.lower() == name.lower()]
    return alike[0] if len(alike) == 1 else None


def _samples(
    schema: Schema, rows: list[tuple[int, dict[str, Any]]], where: str
) -> list[list[Sample]] | None:
    reader = Reader(where, schema)
    try:
        return [reader.samples(number, row) for number, row in rows]
    except InputError:
        return None


def _fields_of_rows(rows: Iterable[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(str(name) for row in rows for name in row))


def _example(row: dict[str, Any]) -> str:
    """Return ``--columns`` for the first and last field that leads to a text."""
    paths = [path for name, value in row.items() if (path := path_to_text(str(name), value))]
    if len(paths) < 2:
        return f"--columns text={paths[0] if paths else 'FIELD'}"
    return f"--columns prompt={paths[0]},completion={paths[-1]}"
