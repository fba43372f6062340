"""Samples of a prepared split as questions whose answers are scored."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from fnsft.artifacts.rows import numbered_rows, typed_row
from fnsft.data.formats import Example
from fnsft.data.tokens import Encoder
from fnsft.errors import InputError
from fnsft.evaluation import gsm8k


def read_examples(path: Path, limit: int | None) -> list[tuple[str, Example]]:
    """Read the first samples of a prepared split, each with where it stands."""
    examples = []
    for number, row in islice(numbered_rows(path), limit):
        where = f"{path} line {number}"
        try:
            examples.append((where, typed_row(Example, row, where)))
        except InputError as error:
            raise InputError(f"{error}; give a split of fnsft prepare") from None
    if not examples:
        raise InputError(f"{path}: expected at least one problem, found none")
    return examples


def scored_problems(problems: Sequence[tuple[str, Example]]) -> list[Example]:
    """Return the problems, of which each has a gold number."""
    for where, problem in problems:
        if gsm8k.gold_answer(problem.completion) is None:
            raise InputError(
                f"{where}: completion: expected a number after ####, "
                f"found {problem.completion[-60:]!r}"
            )
    return [problem for _, problem in problems]


def scored_questions(questions: Sequence[tuple[str, Example]], encoder: Encoder) -> list[Example]:
    """Return the questions, of which each has an answer."""
    for where, question in questions:
        if not answer_of(question, encoder).strip():
            raise InputError(f"{where}: completion: expected an answer, found none")
    return [question for _, question in questions]


def answer_of(example: Example, encoder: Encoder) -> str:
    """Return the answer in a completion, without the token that a chat template ends it with."""
    if example.special_tokens:
        return example.completion
    ids = encoder.encode(example).completion_ids[:-1]
    return encoder.tokenizer.decode(
        ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
