"""Samples as the model will see them, in lines for people."""

import unicodedata
from collections.abc import Iterable
from typing import TYPE_CHECKING

from fnsft.data.formats import Example
from fnsft.data.tokens import encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LONGEST = 800  # characters of a part that are shown whole
DIM, BOLD, PLAIN = "\x1b[2m", "\x1b[1m", "\x1b[0m"


def shown(
    tokenizer: "PreTrainedTokenizerBase",
    example: Example,
    terminal: bool,
    stop_ids: Iterable[int] = (),
) -> list[str]:
    """Return the prompt and the answers of a sample, each line with its part's name.

    Both are decoded from their token ids, special tokens included; long ones lose their
    middle. On a terminal the prompt and a rejected answer are dim and the answer bold.
    ``stop_ids`` end answers beside the tokenizer's end of sequence.
    """
    encoded = encode(tokenizer, example, stop_ids)
    lines = []
    for part, ids, style in (
        ("prompt", encoded.prompt_ids, DIM),
        ("answer", encoded.completion_ids, BOLD),
        ("rejected", encoded.rejected_ids, DIM),
    ):
        if part == "rejected" and not ids:
            continue
        text = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        found = [f"{part} | {line}" for line in _visible(_shortened(text)).split("\n")]
        lines += [f"{style}{line}{PLAIN}" for line in found] if terminal else found
    return lines


def _shortened(text: str) -> str:
    n_hidden = len(text) - LONGEST
    if n_hidden <= 0:
        return text
    half = LONGEST // 2
    return f"{text[:half]} […{n_hidden:,} characters…] {text[-half:]}"


def _visible(text: str) -> str:
    """Escape what a terminal would obey (data may hold anything), but for line breaks."""
    return "".join(
        c.encode("unicode_escape").decode() if c != "\n" and _is_control(c) else c for c in text
    )


def _is_control(character: str) -> bool:
    return unicodedata.category(character).startswith("C")
