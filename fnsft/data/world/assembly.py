"""A world put together from its settings, and the folder that it becomes.

Test sets are drawn first and kept out of everything else: a word problem by its question,
a function by its task and body. Each part has a random stream of its own, so that a longer corpus
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
from fnsft.data.world.word_problems import STEP_SHARES, Problem, draw_problem, with_slip

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
    preferences_train: list[Row]
    preferences_test: list[Row]


def make_world(settings: WorldSettings) -> World:
    """Draw a world; the same settings give the same world."""

    def stream(part: str) -> random.Random:
        return random.Random(f"{settings.seed} {part}")

    facts = draw_facts(stream("facts"))
    test_problems = draw_problems(stream("math test"), settings.math_test, frozenset())
    held_out = frozenset(problem.question for problem in test_problems)
    train_problems = draw_problems(stream("math train"), settings.math_train, held_out)
    functions, test_functions = hold_out(stream("held-out functions"), settings.code_test)
    paired_problems = draw_problems(stream("preferences"), settings.preferences_train, held_out)
    slips = stream("slips")
    code_rng, test_rng, cloze_rng = stream("code train"), stream("code test"), stream("cloze")
    return World(
        corpus=draw_corpus(stream("corpus"), Known(facts, functions, held_out), settings.documents),
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
        preferences_test=[pair_row(problem, slips) for problem in test_problems],
        preferences_train=[pair_row(problem, slips) for problem in paired_problems],
    )


def draw_problems(rng: random.Random, n_problems: int, held_out: frozenset[str]) -> list[Problem]:
    """Draw problems in the shares of ``STEP_SHARES``, in random order, no question twice."""
    one, two = (round(STEP_SHARES[steps] * n_problems) for steps in (1, 2))
    n_steps = [1] * one + [2] * two + [3] * (n_problems - one - two)
    rng.shuffle(n_steps)
    problems: dict[str, Problem] = {}
    for steps in n_steps:
        problem = draw_problem(rng, steps)
        while problem.question in problems or problem.question in held_out:
            problem = draw_problem(rng, steps)
        problems[problem.question] = problem
    return list(problems.values())


def hold_out(
    rng: random.Random, n_functions: int
) -> tuple[dict[str, list[Function]], list[Function]]:
    """Split all functions into those that may be shown, by family, and the held-out ones.

    Half of the held-out functions are chained ones, as most functions are.
    """
    shown = all_functions()
    others = [f for name in shown if name not in ("chained", "aggregate") for f in shown[name]]
    n_chained = n_functions // 2
    test = rng.sample(shown["chained"], n_chained) + rng.sample(others, n_functions - n_chained)
    rng.shuffle(test)
    hidden = set(test)
    return {family: [f for f in shown[family] if f not in hidden] for family in shown}, test


def humaneval_row(number: int, function: Function, rng: random.Random) -> Row:
    """Return a function as a row of HumanEval."""
    name = rng.choice(ENTRY_POINTS)
    return {
        "task_id": f"World/{number}",
        "prompt": function.prompt(name),
        "entry_point": name,
        "canonical_solution": function.body,
        "test": function.tests(name, rng),
    }


def pair_row(problem: Problem, rng: random.Random) -> Row:
    """Return a problem with its answer, and one that a slip has led astray."""
    right, wrong = problem.row(), with_slip(rng, problem).row()
    return {"question": problem.question, "chosen": right["answer"], "rejected": wrong["answer"]}


def write_world(folder: Path, world: World) -> None:
    """Write the world's files, the whole folder or nothing."""
    with written_whole(folder) as partial:
        write_jsonl(partial / "corpus.jsonl", [dataclasses.asdict(d) for d in world.corpus])
        write_jsonl(partial / "math" / "train.jsonl", world.math_train)
        write_jsonl(partial / "math" / "test.jsonl", world.math_test)
        write_json(partial / "code" / "train.json", world.code_train)
        write_jsonl(partial / "code" / "test.jsonl", world.code_test)
        write_jsonl(partial / "facts" / "test.jsonl", world.facts_test)
        write_jsonl(partial / "preferences" / "train.jsonl", world.preferences_train)
        write_jsonl(partial / "preferences" / "test.jsonl", world.preferences_test)
