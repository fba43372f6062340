"""Descriptions of neurons from a local dump of a published database: Parquet or JSON lines.

A row is one description of one sign of one neuron. Columns are recognised by name:

======  ====================================================================================
layer   ``layer``, ``layer_index``, ``block``
neuron  ``neuron``, ``neuron_index``, ``index``
sign    ``sign``, ``polarity``, ``is_positive``; 1, true, +, positive, max and their opposites;
        without such a column all are +
text    ``description``, ``explanation``, ``text``
score   ``score``, ``explanation_score``
======  ====================================================================================

So they are called in the tables of Transluce's descriptions of Llama-3.1-8B-Instruct (Choi et al.
2024; layer and neuron are in one, description and polarity, 1 or −1, in another: join them, and
put the score beside them), and, but for the score, in Neuronpedia's exports (``layer``,
``index``, ``description``).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fnsft.artifacts.descriptions import Description, Sign
from fnsft.artifacts.rows import json_value
from fnsft.config.settings import nearest
from fnsft.data.row_readers import parquet_rows
from fnsft.data.text_lines import numbered_lines
from fnsft.errors import InputError

Field = Literal["layer", "neuron", "sign", "text", "score"]
COLUMNS: dict[Field, tuple[str, ...]] = {
    "layer": ("layer", "layer_index", "block"),
    "neuron": ("neuron", "neuron_index", "index"),
    "sign": ("sign", "polarity", "is_positive"),
    "text": ("description", "explanation", "text"),
    "score": ("score", "explanation_score"),
}
MAX_DIGITS = 18  # of a layer or a neuron: int() reads no more than thousands
SIGN_WORDS: dict[str, Sign] = {
    **dict.fromkeys(("+", "1", "true", "pos", "positive", "max"), "+"),
    **dict.fromkeys(("-", "−", "-1", "0", "false", "neg", "negative", "min"), "-"),
}


@dataclass(frozen=True)
class Published:
    """Descriptions in order; ``n_invalid`` of them had no text or no score of at least 0."""

    descriptions: list[Description]
    n_invalid: int


def read_published(path: Path, widths: Sequence[int], columns: Sequence[str] = ()) -> Published:
    """Read a dump; what is not valid scores 0.

    Parameters
    ----------
    path
        A file in ``.parquet``, ``.jsonl`` or ``.jsonl.gz``. It is read a few rows at a time; what
        it says is in memory, about 0.5 kB a description.
    widths
        Neurons of every layer of the model.
    columns
        Columns that are not recognised, such as ``layer=block``.

    Raises
    ------
    InputError
        For a column that is not there, and for a row with a neuron that the model does not
        have, a sign that is none, a score above 1, or what another row describes; the row is named.
    """
    named = _named(columns)
    names: dict[Field, str] = {}
    found: dict[tuple[int, int, int], Description] = {}
    n_invalid = 0
    for where, row in _rows(path):
        names = names or _columns(row, named, where)
        description, valid = _description(row, names, where)
        _require_neuron(description, widths, where)
        if description.place in found:
            raise InputError(
                f"{where}: expected one description a sign, found another of layer "
                f"{description.layer}, neuron {description.neuron}, sign {description.sign}"
            )
        found[description.place] = description
        n_invalid += not valid
    if not found:
        raise InputError(f"{path}: expected at least one description, found none")
    return Published([found[place] for place in sorted(found)], n_invalid)


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield rows and where they are. NaN, which is no JSON, is let through: it is no score."""
    if path.suffix == ".parquet":
        for number, row in parquet_rows(path):
            yield f"{path} row {number}", row
        return
    if not path.name.endswith((".jsonl", ".jsonl.gz")):
        raise InputError(
            f"{path}: expected .parquet, .jsonl or .jsonl.gz, found another kind of file"
        )
    for number, line in numbered_lines(path):
        where = f"{path} line {number}"
        if not line.strip():
            continue
        row = json_value(line, where)
        if not isinstance(row, dict):
            raise InputError(f"{where}: expected an object, found {row!r:.60}")
        yield where, row


def _named(columns: Sequence[str]) -> dict[str, str]:
    named = dict(word.partition("=")[::2] for word in columns)
    for field, column in named.items():
        if field not in COLUMNS or not column:
            raise InputError(
                f"columns: expected such as layer=block, for {', '.join(COLUMNS)}, found "
                f"{field}={column}"
            )
    return named


def _columns(row: Mapping[str, Any], named: Mapping[str, str], where: str) -> dict[Field, str]:
    """Return which column holds each field, by the first row."""
    known = {name.lower(): name for name in row}
    found: dict[Field, str] = {}
    for field, usual in COLUMNS.items():
        candidates = [named[field]] if field in named else [known.get(name, "") for name in usual]
        column = next((name for name in candidates if name in row), None)
        if column is not None:
            found[field] = column
        elif field in named:
            raise InputError(
                f"{where}: columns: no column {named[field]!r}; {nearest(named[field], [*row])}"
            )
        elif field != "sign":
            raise InputError(
                f"{where}: expected a column for the {field} ({', '.join(usual)}), found "
                f"{', '.join(row)}; name it: --columns {field}=NAME"
            )
    return found


def _description(
    row: Mapping[str, Any], names: Mapping[Field, str], where: str
) -> tuple[Description, bool]:
    """Return a row's description and whether it is valid."""
    values = {field: row.get(name) for field, name in names.items()}
    text, score = values["text"], _score(values["score"], where)
    text = text.strip() if isinstance(text, str) else ""
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise InputError(
            f"{where}: {names['text']}: expected text, found half a character {text!a:.60}; mend it"
        )
    valid = bool(text) and score is not None
    word = str(values.get("sign", "+")).strip().lower().removesuffix(".0")
    if (sign := SIGN_WORDS.get(word)) is None:
        raise InputError(
            f"{where}: {names['sign']}: expected a sign ({', '.join(SIGN_WORDS)}), found {word!r}"
        )
    description = Description(
        layer=_whole(values["layer"], f"{where}: {names['layer']}"),
        neuron=_whole(values["neuron"], f"{where}: {names['neuron']}"),
        sign=sign,
        text=text,
        score=score if valid and score is not None else 0.0,
    )
    return description, valid


def _score(value: Any, where: str) -> float | None:
    """Return a score of at least 0; None where there is none."""
    if isinstance(value, bool):
        raise InputError(f"{where}: expected a score in [0, 1], found {value}; name its column")
    try:
        score = float(value)
    except OverflowError:  # a whole number of hundreds of digits
        score = float("inf") if value > 0 else -1.0
    except (TypeError, ValueError):
        return None
    if score > 1:
        raise InputError(f"{where}: expected a score of at most 1, found {score:g}; divide them")
    return score if score >= 0 else None  # NaN is neither


def _whole(value: Any, where: str) -> int:
    text = str(value).strip().removesuffix(".0")
    if isinstance(value, bool) or not text.isdecimal() or len(text) > MAX_DIGITS:
        raise InputError(f"{where}: expected a whole number from 0, found {value!r:.60}")
    return int(text)


def _require_neuron(description: Description, widths: Sequence[int], where: str) -> None:
    layer, neuron = description.layer, description.neuron
    if layer >= len(widths) or neuron >= widths[layer]:
        raise InputError(
            f"{where}: expected one of {len(widths)} layers of {max(widths):,} neurons, found "
            f"layer {layer}, neuron {neuron}; is it another model's?"
        )
