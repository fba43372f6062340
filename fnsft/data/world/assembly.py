"""A world put together from its settings, and the folder that it becomes.

Test sets are drawn first and kept out of everything else: a word problem by its question,
a function by its key. Each part has a random stream of its own, so that a longer corpus
leaves the test sets as they were.
"""

import dataclasses
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fnsft.artifacts.storage import write_json, write_jsonl, written_whole
from fnsft.config.stages import WorldSettings
from fnsft.data.world.corpus import Document, Known, draw_corpus
from fnsft.data.world.functions import (
    ENTRY_POINTS,
    Function,
    all_functions,
    draw_function,
)
from fnsft.data.world.people import draw_facts
from fnsft.data.world.word_problems import STEP_SHARES, Problem, draw_problem
from fnsft.errors import InputError

Row = dict[str, Any]


@dataclass(frozen=True)
class World:
    """Everything that a world's folder holds, as rows of the files' formats."""

    corpus: list[Document]
    math_train: list[Row]
    math_test: list[Row]
    code_train: list[Row]
    code_test: list[Row]
    facts_test: list[Row]


def make_world(settings: WorldSettings) -> World:
    """Draw a world; the same settings give the same world."""

    def stream(part: str) -> random.Random:
        return random.Random(f"{settings.seed} {part}")

    facts = draw_facts(stream("facts"))
    test_problems = draw_problems(stream("math test"), settings.math_test, frozenset())
    held_out = frozenset(problem.question for problem in test_problems)
    train_problems = draw_problems(stream("math train"), settings.math_train, held_out)
    functions, test_functions = held_apart(stream("held-out functions"), settings.code_test)
    code_rng, test_rng, cloze_rng = stream("code train"), stream("code test"), stream("cloze")
    return World(
        corpus=draw_corpus(
            stream("corpus"), Known(facts, functions, held_out), settings.documents
        ),
        math_train=[problem.row() for problem in train_problems],
        math_test=[problem.row() for problem in test_problems],
        code_train=[
            draw_function(code_rng, functions).instruction_row(code_rng.choice(ENTRY_POINTS))
            for _ in range(settings.code_train)
        ],
        code_test=[
            humaneval_row(number, function, test_rng)
            for number, function in enumerate(test_functions)
        ],
        facts_test=[fact.cloze_row(cloze_rng) for person in facts.values() for fact in person],
    )


def draw_problems(rng: random.Random, n_problems: int, held_out: frozenset[str]) -> list[Problem]:
    """Draw problems of one to three steps whose questions are new, in random order.

    The counts of one-, two- and three-step problems are ``STEP_SHARES`` of the whole, up to
    rounding.
    """
    steps = rng.choices([1], k=0)
    for n_steps, share in STEP_SHARES.items():
        steps += [n_steps] * round(share * n_problems)
    raise NotImplementedError
