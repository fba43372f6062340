"""Facts that a model still recalls: which of a few endings it finds likeliest."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from fnsft.artifacts.records import Measurement
from fnsft.artifacts.rows import numbered_rows
from fnsft.data.formats import Example
from fnsft.data.tokens import Encoded, encode
from fnsft.errors import InputError
from fnsft.evaluation.shares import share, shares_by
from fnsft.training.completion_loss import completion_loss

BENCHMARK = "cloze"


@dataclass(frozen=True)
class ClozeItem:
    """A statement's beginning and its possible endings; ``answer`` indexes ``choices``.

    Choices are appended as they stand, their leading space included.
    """

    prompt: str
    choices: tuple[str, ...]
    answer: int
    subject: str


def read_cloze(path: Path) -> list[ClozeItem]:
    """Read ``{"prompt", "choices", "answer", "subject"}`` rows; a bad one is named."""
    items = [_item(row, f"{path} line {number}") for number, row in numbered_rows(path)]
    if not items:
        raise InputError(f"{path}: expected at least one row, found none")
    return items


def _item(row: Any, where: str) -> ClozeItem:
    if not isinstance(row, dict):
        raise InputError(f"{where}: expected an object, found {row!r:.60}")
    if missing := [k for k in ("prompt", "choices", "answer", "subject") if k not in row]:
        raise InputError(f"{where}: the field {missing[0]!r} is missing")
    choices, answer = row["choices"], row["answer"]
    texts = [row["prompt"], row["subject"], *(choices if isinstance(choices, list) else [None])]
    if not all(isinstance(text, str) and text for text in texts) or len(texts) < 4:
        raise InputError(f"{where}: expected texts and two or more choices, found {row!r:.90}")
    if type(answer) is not int or not 0 <= answer < len(choices):
        raise InputError(
            f"{where}: answer: expected an index below {len(choices)}, found {answer!r}"
        )
    return ClozeItem(row["prompt"], tuple(choices), answer, row["subject"])


def log_probabilities(
    model: torch.nn.Module,
    items: Sequence[ClozeItem],
    tokenizer: PreTrainedTokenizerBase,
    batch_size: int,
) -> list[np.ndarray]:
    """Return each item's [choices] summed log-probabilities, in nats.

    Prompt and choice are tokenised as in training, but a choice has no end of sequence.
    """
    endings = []
    for item in items:
        for choice in item.choices:
            encoded = encode(tokenizer, Example(item.prompt, choice))
            endings.append(Encoded(encoded.prompt_ids, encoded.completion_ids[:-1]))
    total = -completion_loss(model, endings, batch_size).nll
    ends = np.cumsum([len(item.choices) for item in items])
    return np.split(total, ends[:-1])


def hits(items: Sequence[ClozeItem], scores: Sequence[np.ndarray]) -> list[bool]:
    """Return of each item whether its answer is the likeliest choice, the first of equals."""
    return [int(s.argmax()) == item.answer for item, s in zip(items, scores, strict=True)]


def measure(items: Sequence[ClozeItem], scores: Sequence[np.ndarray]) -> list[Measurement]:
    """Return accuracy (overall and by subject) and accuracy_norm; the first of equals is taken.

    ``accuracy_norm`` divides by a choice's characters, as lm-eval's ``acc_norm`` does.
    """
    answers = [item.answer for item in items]
    lengths = [np.array([len(choice) for choice in item.choices]) for item in items]
    summed = hits(items, scores)
    normed = [
        int((s / length).argmax()) == a
        for s, length, a in zip(scores, lengths, answers, strict=True)
    ]
    subjects = [item.subject for item in items]
    return [
        share(BENCHMARK, "accuracy", summed),
        *shares_by(BENCHMARK, "accuracy", summed, "subject", subjects),
        share(BENCHMARK, "accuracy_norm", normed),
    ]
