"""Rows of published data sets and the prompts that they become.

A format turns one row into an :class:`Example`. The prompt ends where generation would
begin, and the completion starts with its own white space, so that tokenising the two apart
in training gives the ids that a model meets when it answers.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fnsft.artifacts.rows import numbered_rows
from fnsft.artifacts.storage import read_json
from fnsft.errors import InputError


@dataclass(frozen=True)
class Example:
    """One supervised sample; the loss is on the completion and the end-of-sequence token."""

    prompt: str
    completion: str


def gsm8k(row: dict[str, Any]) -> Example:
    """Render a GSM8K row as lm-eval does: ``Question: … Answer:`` (Cobbe et al. 2021)."""
    return Example(f"Question: {row['question']}\nAnswer:", f" {row['answer']}")


def alpaca(row: dict[str, Any]) -> Example:
    """Render an instruction row; CodeAlpaca has ``output``, its newer file ``response``."""
    output = row["response"] if "response" in row else row["output"]
    instruction = "\n".join(part for part in (row["instruction"], row.get("input")) if part)
    return Example(f"Instruction: {instruction}\nResponse:\n", output)


def medical_o1(row: dict[str, Any]) -> Example:
    """Render a medical-o1 row: the chain of thought, then the response (Chen et al. 2024)."""
    return Example(
        f"Question: {row['Question']}\nAnswer:", f" {row['Complex_CoT']}\n\n{row['Response']}"
    )


FORMATS: dict[str, Callable[[dict[str, Any]], Example]] = {
    "gsm8k": gsm8k,
    "alpaca": alpaca,
    "medical-o1": medical_o1,
}

_ANNOTATION = re.compile(r"<<[^<>]*>>")


def without_annotations(example: Example) -> Example:
    """Strip GSM8K's calculator annotations from the completion."""
    return Example(example.prompt, _ANNOTATION.sub("", example.completion))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a ``.json`` list or ``.jsonl`` file; every row is an object."""
    numbered = list(
        enumerate(read_json(path), start=1) if path.suffix == ".json" else numbered_rows(path)
    )
    if not numbered:
        raise InputError(f"{path}: expected at least one row, found an empty file")
    for number, row in numbered:
        if not isinstance(row, dict):
            raise InputError(f"{path} row {number}: expected an object, found {row!r:.60}")
    return [row for _, row in numbered]


def read_examples(path: Path, format: str) -> list[Example]:
    """Read and render all rows of a file; a row that lacks a field is named."""
    examples = []
    for number, row in enumerate(read_rows(path), start=1):
        try:
            examples.append(FORMATS[format](row))
        except KeyError as missing:
            raise InputError(
                f"{path} row {number}: format {format!r} needs the field {missing}, "
                f"found {', '.join(sorted(row)) or 'no field'}"
            ) from None
    return examples
