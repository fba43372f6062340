"""Bare prompts, written for a model as its training wrote them."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fnsft.artifacts.prompt_formats import PromptFormat, read_prompt_format
from fnsft.artifacts.rows import numbered_rows, typed_row
from fnsft.artifacts.storage import read_text
from fnsft.config.stages import GenerateSettings
from fnsft.data.formats import Example
from fnsft.data.templates import choose_format, render_prompt
from fnsft.data.tokens import Encoder
from fnsft.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# What a template of its own name is made for, where no training says another kind.
KINDS = {"alpaca": "instruction", "basic": "question"}


@dataclasses.dataclass(frozen=True)
class Prompt:
    """What is asked, and what stands with it; ``special_tokens`` as in a prepared split."""

    prompt: str
    context: str = ""
    special_tokens: bool = True


def read_prompts(path: Path) -> list[Prompt]:
    """Read prompts: the lines of a .txt that are not blank, or rows with a ``prompt``.

    A row may have a ``context``, and ``special_tokens`` in a prepared split; the rest of it is not
    looked at.
    """
    if path.suffix not in (".jsonl", ".txt"):
        raise InputError(f"{path}: expected rows in .jsonl or lines in .txt, found {path.suffix!r}")
    if path.suffix == ".txt":
        prompts = [Prompt(line) for line in read_text(path).splitlines() if line.strip()]
    else:
        prompts = [_prompt(row, f"{path} line {number}") for number, row in numbered_rows(path)]
    if not prompts:
        raise InputError(f"{path}: expected at least one prompt, found none")
    return prompts


def _prompt(row: Any, where: str) -> Prompt:
    if isinstance(row, dict):
        known = {field.name for field in dataclasses.fields(Prompt)}
        row = {name: value for name, value in row.items() if name in known}
    return typed_row(Prompt, row, where)


def format_of(
    folder: Path, tokenizer: "PreTrainedTokenizerBase", settings: GenerateSettings
) -> PromptFormat | None:
    """Return how prompts are written for the model in a folder; None: as they stand.

    ``auto`` is what the folder's training recorded, else the tokenizer's chat template, else none.
    """
    recorded = read_prompt_format(folder)
    if settings.template == "none" or (
        settings.template == "auto" and recorded is None and not tokenizer.chat_template
    ):
        if settings.system:
            raise InputError("system: a prompt as it stands has no place for it; use --template")
        return None
    if settings.template == "auto" and recorded is not None:
        if settings.system and recorded.template == "basic":
            raise InputError(
                "system: the model was trained without a place for it; leave it off, or use "
                "--template"
            )
        return dataclasses.replace(recorded, system=settings.system or recorded.system)
    kind = recorded.kind if recorded else KINDS.get(settings.template, "plain")
    return choose_format(settings.template, kind, settings.system, tokenizer)  # type: ignore[arg-type]


def encode_prompts(
    prompts: Sequence[Prompt],
    format: PromptFormat | None,
    tokenizer: "PreTrainedTokenizerBase",
    longest: int | None,
) -> list[tuple[int, ...]]:
    """Write and tokenise prompts, of which none may be longer than ``longest`` tokens."""
    encoder = Encoder.of(tokenizer)
    found = []
    for number, prompt in enumerate(prompts, start=1):
        where = f"prompt {number}"
        if not prompt.prompt.strip():
            raise InputError(f"{where}: expected some text, found none")
        ids = encoder.encode(_written(prompt, format, tokenizer)).prompt_ids
        if longest is not None and len(ids) > longest:
            raise InputError(
                f"{where}: expected at most {max(longest, 0):,} tokens, so that it and "
                f"max_new_tokens fit into the model's positions, found {len(ids):,}; shorten it, "
                "or lower --max-new-tokens"
            )
        found.append(ids)
    return found


def _written(
    prompt: Prompt, format: PromptFormat | None, tokenizer: "PreTrainedTokenizerBase"
) -> Example:
    if format is not None:
        return render_prompt(format, tokenizer, prompt.prompt, prompt.context)
    text = f"{prompt.context}\n\n{prompt.prompt}" if prompt.context else prompt.prompt
    return Example(text, "", prompt.special_tokens)
