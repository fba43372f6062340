"""Samples, written as the prompts and completions that a model is trained on.

The prompt ends where generation would begin, and the completion starts with its own white
space, so that tokenising the two apart in training gives the ids that a model meets when it
answers.
"""

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fnsft.config.presets import TaskPreset
from fnsft.data.row_files import read_rows
from fnsft.data.samples import Sample
from fnsft.data.schemas import reader_of
from fnsft.errors import InputError


@dataclass(frozen=True)
class Example:
    """One supervised sample; the loss is on the completion and the end-of-sequence token.

    ``special_tokens`` is False when the prompt already holds the beginning of sequence, which
    the tokenizer then does not add. Of a pair of answers the completion is the chosen one;
    ``rejected`` is None where there is no other.
    """

    prompt: str
    completion: str
    special_tokens: bool = True
    rejected: str | None = None

    def row(self) -> dict[str, Any]:
        """Return the sample as a row of a prepared split."""
        row: dict[str, Any] = {"prompt": self.prompt, "completion": self.completion}
        row |= {} if self.rejected is None else {"rejected": self.rejected}
        return row if self.special_tokens else row | {"special_tokens": False}


def basic(sample: Sample) -> Example:
    r"""Write a sample in plain text, without a chat template.

    A question becomes ``Question: …\nAnswer:``, as lm-eval writes GSM8K (Cobbe et al. 2021), an
    instruction ``Instruction: …\nResponse:\n``; a context stands above the question, below the
    instruction. A plain prompt stays as it is, but for a line break where neither it nor the
    completion has white space at the seam (of a pair: both answers). A text has no prompt.

    Raises
    ------
    InputError
        For a conversation, which plain text cannot write.
    """
    question, answer, context = sample.question, sample.answer, sample.context
    rejected = sample.rejected or None
    if sample.kind == "text":
        return Example("", answer)
    if sample.kind == "question":
        above = f"Context: {context}\n" if context else ""
        prompt = f"{above}Question: {question}\nAnswer:"
        return Example(prompt, f" {answer}", rejected=rejected and f" {rejected}")
    if sample.kind == "instruction":
        instruction = "\n".join(part for part in (question, context) if part)
        prompt = f"Instruction: {instruction}\nResponse:\n"
        return Example(prompt, answer, rejected=rejected)
    if sample.kind == "plain":
        prompt = f"{context}\n\n{question}" if context else question
        apart = all(text[:1].isspace() for text in (answer, rejected or answer))
        touches = prompt[-1:].isspace() or apart
        return Example(prompt if touches else f"{prompt}\n", answer, rejected=rejected)
    raise InputError(
        "template: expected chatml or a chat template for conversations, found basic; use "
        "--template chatml"
    )


_ANNOTATION = re.compile(r"<<[^<>]*>>")


def without_annotations(example: Example) -> Example:
    """Strip GSM8K's calculator annotations from the answers."""
    rejected = example.rejected and _ANNOTATION.sub("", example.rejected)
    completion = _ANNOTATION.sub("", example.completion)
    return dataclasses.replace(example, completion=completion, rejected=rejected)


@dataclass(frozen=True)
class ReadExamples:
    """The samples of a file, and lines that tell the user what was found and left out."""

    examples: list[Example]
    said: tuple[str, ...]


def read_examples(path: Path, preset: TaskPreset, split: str = "train") -> ReadExamples:
    """Read and render all rows of a file or folder by a preset, in plain text.

    Raises
    ------
    InputError
        For rows that cannot be read, that lack a field of the preset, or of which none has both
        a prompt and an answer.
    """
    rows = read_rows(path, split)
    reader = reader_of(rows, preset, "")
    examples = [basic(s) for number, row in rows for s in reader.samples(number, row)]
    if not examples:
        raise InputError(f"{rows.where}: expected a row with an answer, found {reader.omitted()}")
    said = f"{rows.where}: left out {reader.omitted()}"
    return ReadExamples(examples, (*rows.said, *([said] if reader.left_out else [])))
