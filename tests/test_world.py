import json
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from fnsft.artifacts.manifest import manifest_path
from fnsft.cli.main import main
from fnsft.config.presets import TaskPreset
from fnsft.config.stages import WorldSettings
from fnsft.data.formats import read_examples
from fnsft.data.row_files import read_rows
from fnsft.data.world.assembly import World, draw_problems, make_world
from fnsft.data.world.corpus import SHARES, Known, draw_corpus
from fnsft.data.world.functions import all_functions
from fnsft.data.world.people import draw_facts

SMALL = WorldSettings(documents=3_000, math_train=300, math_test=100, code_train=300, code_test=80)
EQUATION = re.compile(r"<<(\d+)([-+*])(\d+)=(\d+)>>(\d+)")


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(SMALL)


def defined(prompt: str, body: str, name: str) -> Any:
    scope: dict[str, Any] = {}
    exec(prompt + body, scope)
    return scope[name]


def passes(test: str, candidate: Any) -> bool:
    scope: dict[str, Any] = {}
    exec(test, scope)
    try:
        scope["check"](candidate)
    except (AssertionError, TypeError, AttributeError):
        return False
    return True


def test_a_world_is_fixed_by_its_settings(world: World) -> None:
    assert make_world(SMALL) == world
    assert make_world(WorldSettings(seed=1, documents=3_000)).corpus != world.corpus


def test_a_longer_corpus_leaves_all_other_files_as_they_were(world: World) -> None:
    longer = make_world(
        WorldSettings(documents=3_100, math_train=300, math_test=100, code_train=300, code_test=80)
    )
    assert (longer.math_train, longer.math_test) == (world.math_train, world.math_test)
    assert (longer.code_train, longer.code_test) == (world.code_train, world.code_test)
    assert longer.facts_test == world.facts_test


QUESTION = re.compile(r"Question: (.*)\nAnswer:")


def test_no_held_out_problem_is_in_the_corpus_or_the_training_set(world: World) -> None:
    held_out = {row["question"] for row in world.math_test}
    assert len(held_out) == 100
    assert held_out.isdisjoint(row["question"] for row in world.math_train)
    questions = {m.group(1) for d in world.corpus if (m := QUESTION.match(d.text))}
    assert len(questions) > 300
    assert held_out.isdisjoint(questions)


def test_a_held_out_problem_is_drawn_again_even_from_the_same_stream() -> None:
    # The world's streams hardly ever meet by chance; the same stream meets itself.
    first = draw_problems(random.Random(7), 200, frozenset())
    held_out = frozenset(problem.question for problem in first)
    second = draw_problems(random.Random(7), 200, held_out)
    assert held_out.isdisjoint(problem.question for problem in second)

    def asked(held_out: frozenset[str]) -> frozenset[str]:
        known = Known(draw_facts(random.Random(0)), all_functions(), held_out)
        corpus = draw_corpus(random.Random(7), known, 500)
        return frozenset(QUESTION.match(d.text)[1] for d in corpus if d.kind == "question")

    assert asked(frozenset())
    assert asked(asked(frozenset())).isdisjoint(asked(frozenset()))


def test_no_held_out_function_is_in_the_corpus_or_the_training_set(world: World) -> None:
    assert len(world.code_test) == 80
    texts = [d.text.rstrip("\n") for d in world.corpus if d.kind in ("code", "instruction")]
    texts += [f"{row['input']}\n{row['output']}" for row in world.code_train]
    for row in world.code_test:
        body, task = row["canonical_solution"].rstrip("\n"), row["prompt"].split('"""')[1]
        assert not any(text.endswith(f"\n{body}") or f'"""{task}"""' in text for text in texts)


def test_every_function_has_a_task_and_a_body_of_its_own() -> None:
    functions = [f for family in all_functions().values() for f in family]
    assert len({f.task for f in functions}) == len({f.body for f in functions}) == len(functions)


@pytest.mark.parametrize(
    ("task", "argument", "result"),
    [
        ("Divide x by 4 and round down.", 11, 2),
        ("Return the remainder of x divided by 4.", 11, 3),
        ("Subtract 3 from x and then multiply by 5.", 10, 35),
        ("Check if x is greater than 7.", 7, False),
        ("Multiply each number in xs by 2.", [1, -3], [2, -6]),
        ("Count the numbers in xs less than 5.", [5, 4, -1], 2),
        ("Sum the numbers in xs greater than 5.", [5, 6, 9], 15),
        ("Return xs reversed.", [3, 1, 2], [2, 1, 3]),
        ("Return the largest number in xs times 3.", [3, 1, 2], 9),
        ("Return the last 2 numbers in xs.", [3, 1, 2], [1, 2]),
        ("Return all but the first 2 numbers in xs.", [3, 1, 2], [2]),
        ("Return s reversed followed by 'c'.", "ab", "bac"),
        ("Return s in upper case repeated 2 times.", "ab", "ABAB"),
    ],
)
def test_a_function_does_what_its_task_says(task: str, argument: Any, result: Any) -> None:
    (function,) = (f for family in all_functions().values() for f in family if f.task == task)
    assert defined(function.prompt("solve"), function.body, "solve")(argument) == result


def test_the_tests_pass_their_own_solution_and_fail_every_other(world: World) -> None:
    solutions = [
        (row, defined(row["prompt"], row["canonical_solution"], row["entry_point"]))
        for row in world.code_test
    ]
    assert all(passes(row["test"], solution) for row, solution in solutions)
    # Adding 2 and then 3 is adding 5: chained functions may do the same as others.
    single = [(row, solution) for row, solution in solutions if "and then" not in row["prompt"]]
    for row, _ in single:
        assert sum(passes(row["test"], solution) for _, solution in single) == 1


def test_a_worked_answer_computes_its_last_line_step_by_step(world: World) -> None:
    for row in world.math_train + world.math_test:
        *steps, last = row["answer"].split("\n")
        known = set(re.findall(r"\d+", row["question"]))
        for step in steps:
            ((left, symbol, right, inside, outside),) = EQUATION.findall(step)
            assert {left, right} <= known
            assert inside == outside == str(eval(left + symbol + right))
            known.add(outside)
        assert last == f"#### {outside}"
        assert int(outside) > 0


def test_problems_have_one_to_three_steps_and_the_corpus_asks_for_one(world: World) -> None:
    steps = Counter(len(EQUATION.findall(row["answer"])) for row in world.math_test)
    assert steps == {1: 35, 2: 57, 3: 8}
    asked = [d.text for d in world.corpus if d.kind == "question"]
    assert {len(EQUATION.findall(text)) for text in asked} == {1}


def test_the_kinds_of_documents_have_their_shares(world: World) -> None:
    counts = Counter(d.kind for d in world.corpus)
    assert {k: counts[k] / 3_000 for k in SHARES} == pytest.approx(SHARES, abs=0.02)
    assert sum(SHARES.values()) == pytest.approx(1)


def test_a_cloze_item_has_one_true_choice_which_alone_is_told(world: World) -> None:
    told = " ".join(d.text for d in world.corpus if d.kind == "facts")
    n_told = 0
    for row in world.facts_test:
        assert len(set(row["choices"])) == 4
        statements = [row["prompt"] + choice + "." for choice in row["choices"]]
        true = statements.pop(row["answer"])
        n_told += true in told
        assert not any(false in told for false in statements)
    assert n_told > 200


def test_the_command_writes_files_in_the_formats_that_it_names(tmp_path: Path) -> None:
    counts = {"documents": 50, "math-train": 9, "math-test": 5, "code-train": 7, "code-test": 6}
    flags = [f"--{name}={count}" for name, count in counts.items()]
    folder = tmp_path / "world"
    assert main(["world", "--output", str(folder), *flags]) == 0
    fields = {
        "corpus.jsonl": {"kind", "text"},
        "code/test.jsonl": {"task_id", "prompt", "entry_point", "canonical_solution", "test"},
        "facts/test.jsonl": {"prompt", "choices", "answer", "subject"},
    }
    rows = {name: [row for _, row in read_rows(folder / name)] for name in fields}
    assert {name: len(rows[name]) for name in ("corpus.jsonl", "code/test.jsonl")} == {
        "corpus.jsonl": 50,
        "code/test.jsonl": 6,
    }
    assert all(set(row) == fields[name] for name in fields for row in rows[name])
    presets = {
        "math/train.jsonl": ("gsm8k", 9),
        "math/test.jsonl": ("gsm8k", 5),
        "code/train.json": ("codealpaca", 7),
    }
    for name, (preset, n_examples) in presets.items():
        read = read_examples(folder / name, TaskPreset.read(preset))
        assert (len(read.examples), read.said) == (n_examples, ())
    assert json.loads(manifest_path(folder).read_text())["settings"]["documents"] == 50


def test_more_held_out_functions_than_there_are_to_spare_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["world", "--output", str(tmp_path / "world"), "--code-test", "9999"]) == 2
    assert "code_test: expected a value above 0, at most 280" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
