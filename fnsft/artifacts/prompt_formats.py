"""How prompts were written in training, kept beside data and models: ``prompt_format.json``."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fnsft.artifacts.rows import typed_row
from fnsft.artifacts.storage import read_json, write_json

NAME = "prompt_format.json"
Kind = Literal["plain", "question", "instruction", "conversation", "text"]


@dataclass(frozen=True)
class PromptFormat:
    """What is needed to write a bare prompt exactly as in training.

    ``template`` is never ``auto``. ``chat_template`` is Jinja where it is ours (alpaca and
    chatml, as written for one tokenizer); with ``chat`` the tokenizer has its own, and
    ``basic`` needs none. ``spaced`` says that the answers to plain prompts in ``basic`` begin with
    white space of their own, so that no line break stands before them.
    """

    template: Literal["chat", "alpaca", "chatml", "basic"]
    kind: Kind
    system: str = ""
    chat_template: str | None = None
    spaced: bool = False


def write_prompt_format(folder: Path, format: PromptFormat) -> None:
    """Write the format into a folder of prepared data or of a model."""
    write_json(folder / NAME, dataclasses.asdict(format))


def read_prompt_format(folder: Path) -> PromptFormat | None:
    """Read the format of a folder; None when it has none.

    Raises
    ------
    InputError
        For a file that is damaged or of another shape.
    """
    path = folder / NAME
    return typed_row(PromptFormat, read_json(path), str(path)) if path.is_file() else None
