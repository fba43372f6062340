"""The pretraining corpus: what its documents are, and in which shares.

It teaches facts, arithmetic and code, and both prompt formats, but only one-step word
problems: more steps are left for fine-tuning to teach.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from fnsft.data.formats import basic
from fnsft.data.samples import Sample
from fnsft.data.world.functions import ENTRY_POINTS, Function, draw_function
from fnsft.data.world.people import Facts, draw_fact, draw_statements
from fnsft.data.world.word_problems import draw_drill, draw_problem, draw_story

# Shares of the kinds of documents (ours, by trial).
SHARES = {
    "facts": 0.25,
    "drill": 0.22,
    "code": 0.20,
    "story": 0.12,
    "question": 0.09,
    "instruction": 0.07,
    "recall": 0.05,
}
# Instructions in the corpus use these families alone: the others are left for fine-tuning.
INSTRUCTED_FAMILIES = ("unary", "comparison", "aggregate", "aggregate-shifted")
DOCSTRING_SHARE = 0.25


@dataclass(frozen=True)
class Document:
    """One text of the corpus."""

    kind: str
    text: str


@dataclass(frozen=True)
class Known:
    """What the corpus may tell: the facts, the functions, and no held-out question."""

    facts: Facts
    functions: dict[str, list[Function]]
    held_out_questions: frozenset[str]


def draw_corpus(rng: random.Random, known: Known, n_documents: int) -> list[Document]:
    """Draw ``n_documents`` documents in the shares of :data:`SHARES`."""
    writers: dict[str, Callable[[], str]] = {
        "facts": lambda: draw_statements(rng, known.facts),
        "drill": lambda: draw_drill(rng),
        "code": lambda: _code(rng, known.functions),
        "story": lambda: draw_story(rng),
        "question": lambda: _question(rng, known.held_out_questions),
        "instruction": lambda: _instruction(rng, known.functions),
        "recall": lambda: _asked(draw_fact(rng, known.facts).question()),
    }
    kinds = rng.choices(list(SHARES), list(SHARES.values()), k=n_documents)
    return [Document(kind, writers[kind]()) for kind in kinds]


def _asked(row: dict[str, str]) -> str:
    return _written(Sample("question", row["answer"], question=row["question"]))


def _written(sample: Sample) -> str:
    example = basic(sample)
    return example.prompt + example.completion


def _question(rng: random.Random, held_out: frozenset[str]) -> str:
    problem = draw_problem(rng, 1)
    while problem.question in held_out:
        problem = draw_problem(rng, 1)
    return _asked(problem.row())


def _code(rng: random.Random, functions: dict[str, list[Function]]) -> str:
    function, name = draw_function(rng, functions), rng.choice(ENTRY_POINTS)
    head = function.prompt if rng.random() < DOCSTRING_SHARE else function.signature
    return head(name) + function.body


def _instruction(rng: random.Random, functions: dict[str, list[Function]]) -> str:
    instructed = {family: functions[family] for family in INSTRUCTED_FAMILIES}
    row = draw_function(rng, instructed).instruction_row(rng.choice(ENTRY_POINTS))
    return _written(Sample("instruction", row["output"], row["instruction"], row["input"]))
