"""Small Python functions: what each is asked to do, its body, and tests for it.

The whole set is enumerated, so that a share of it can be held out by key. A function has no
name of its own: names are drawn from a few that say nothing, since a name that did would
give the body away.
"""

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

ENTRY_POINTS = ("solve", "compute", "run", "process", "apply", "func")
CONSTANTS = range(2, 10)
LETTERS = "abcdefgh"
# Each differs from itself in upper case, in lower case and reversed.
WORDS = ("Apple", "Banana", "Cat", "Door", "Fish", "Green", "Hello", "Moon", "Sun", "Tree")
INSTRUCTION = "Complete the function."

# How often a family is drawn (ours). "aggregate" has no constant: nothing to generalise over.
FAMILIES = {
    "unary": 10,
    "chained": 20,
    "comparison": 10,
    "map": 10,
    "filter": 20,
    "aggregate": 4,
    "aggregate-shifted": 6,
    "slice": 10,
    "text": 10,
}


@dataclass(frozen=True)
class Function:
    """One function: its family, a key unique in it, its argument, task and body."""

    family: str
    key: str
    argument: str
    task: str
    body: str

    def signature(self, name: str) -> str:
        """Return the line that begins the definition."""
        return f"def {name}({self.argument}):\n"

    def prompt(self, name: str) -> str:
        """Return the signature and the docstring: what HumanEval calls the prompt."""
        return f'{self.signature(name)}    """{self.task}"""\n'

    def instruction_row(self, name: str) -> dict[str, str]:
        """Return the function as a row of CodeAlpaca."""
        return {
            "instruction": INSTRUCTION,
            "input": self.prompt(name).rstrip("\n"),
            "output": self.body.rstrip("\n"),
        }

    def tests(self, name: str, rng: random.Random) -> str:
        """Return HumanEval's ``check(candidate)``: what the body gives for drawn arguments."""
        scope: dict[str, Any] = {}
        exec(self.signature(name) + self.body, scope)
        asserts = (
            f"    assert candidate({argument!r}) == {scope[name](argument)!r}\n"
            for argument in _arguments(self.argument, rng)
        )
        return "def check(candidate):\n" + "".join(asserts)


def _arguments(kind: str, rng: random.Random) -> list[Any]:
    """Draw arguments on both sides of every constant, and long enough for every slice."""
    if kind == "x":
        return [*rng.sample(range(-20, 0), 2), *range(1, 12), *rng.sample(range(12, 40), 2)]
    if kind == "s":
        return rng.sample(WORDS, 3)
    return [rng.sample([*range(-5, 0), *CONSTANTS, 15, 30], rng.randint(11, 14)) for _ in range(3)]


def all_functions() -> dict[str, list[Function]]:
    """Enumerate the functions of every family."""
    functions: dict[str, list[Function]] = {family: [] for family in FAMILIES}
    for function in itertools.chain(
        _unary(),
        _chained(),
        _comparisons(),
        _maps(),
        _filters(),
        _aggregates(),
        _slices(),
        _texts(),
    ):
        functions[function.family].append(function)
    return functions


def draw_function(rng: random.Random, functions: dict[str, list[Function]]) -> Function:
    """Draw a family by its weight, then one of its functions."""
    families = [family for family in functions if functions[family]]
    weights = [FAMILIES[family] for family in families]
    return rng.choice(functions[rng.choices(families, weights)[0]])


# name, task, what follows "and then", expression
OPERATIONS = (
    ("add", "Add {k} to {it}", "add {k}", "{it} + {k}"),
    ("subtract", "Subtract {k} from {it}", "subtract {k}", "{it} - {k}"),
    ("multiply", "Multiply {it} by {k}", "multiply by {k}", "{it} * {k}"),
)
# name, words, symbol
COMPARISONS = (("above", "greater than", ">"), ("below", "less than", "<"))


def _returned(expression: str) -> str:
    return f"    return {expression}\n"


def _unary() -> Iterator[Function]:
    plain = [(name, task, expression) for name, task, _, expression in OPERATIONS]
    divisions = [
        ("remainder", "Return the remainder of {it} divided by {k}", "{it} % {k}"),
        ("quotient", "Divide {it} by {k} and round down", "{it} // {k}"),
    ]
    for (name, task, expression), k in itertools.product(plain + divisions, CONSTANTS):
        words = {"it": "x", "k": k}
        yield Function(
            "unary",
            f"{name} {k}",
            "x",
            task.format(**words) + ".",
            _returned(expression.format(**words)),
        )


def _chained() -> Iterator[Function]:
    for first, k, second, m in itertools.product(OPERATIONS, CONSTANTS, OPERATIONS, CONSTANTS):
        yield Function(
            "chained",
            f"{first[0]} {k} {second[0]} {m}",
            "x",
            f"{first[1].format(it='x', k=k)} and then {second[2].format(k=m)}.",
            f"    y = {first[3].format(it='x', k=k)}\n" + _returned(second[3].format(it="y", k=m)),
        )


def _comparisons() -> Iterator[Function]:
    for (name, words, symbol), k in itertools.product(
        (*COMPARISONS, ("equal", "equal to", "==")), CONSTANTS
    ):
        yield Function(
            "comparison",
            f"{name} {k}",
            "x",
            f"Check if x is {words} {k}.",
            _returned(f"x {symbol} {k}"),
        )


def _maps() -> Iterator[Function]:
    for (name, task, _, expression), k in itertools.product(OPERATIONS, CONSTANTS):
        yield Function(
            "map",
            f"{name} {k}",
            "xs",
            task.format(it="each number in xs", k=k) + ".",
            _returned(f"[{expression.format(it='x', k=k)} for x in xs]"),
        )


def _filters() -> Iterator[Function]:
    actions = (("Keep", "{}"), ("Count", "len({})"), ("Sum", "sum({})"))
    for (verb, around), (name, words, symbol), k in itertools.product(
        actions, COMPARISONS, CONSTANTS
    ):
        yield Function(
            "filter",
            f"{verb.lower()} {name} {k}",
            "xs",
            f"{verb} the numbers in xs {words} {k}.",
            _returned(around.format(f"[x for x in xs if x {symbol} {k}]")),
        )


def _aggregates() -> Iterator[Function]:
    numbers = (
        ("total", "Return the sum of xs", "sum(xs)"),
        ("largest", "Return the largest number in xs", "max(xs)"),
        ("smallest", "Return the smallest number in xs", "min(xs)"),
        ("size", "Return the length of xs", "len(xs)"),
    )
    lists = (
        ("ordered", "Return xs sorted", "sorted(xs)"),
        ("backward", "Return xs reversed", "xs[::-1]"),
    )
    for name, task, expression in (*numbers, *lists):
        yield Function("aggregate", name, "xs", f"{task}.", _returned(expression))
    for (name, task, expression), (word, symbol), k in itertools.product(
        numbers, (("plus", "+"), ("times", "*")), CONSTANTS
    ):
        yield Function(
            "aggregate-shifted",
            f"{name} {word} {k}",
            "xs",
            f"{task} {word} {k}.",
            _returned(f"{expression} {symbol} {k}"),
        )


def _slices() -> Iterator[Function]:
    kinds = (
        ("first", "Return the first {k} numbers in xs.", "xs[:{k}]"),
        ("last", "Return the last {k} numbers in xs.", "xs[-{k}:]"),
        ("skip", "Return all but the first {k} numbers in xs.", "xs[{k}:]"),
    )
    for (name, task, expression), k in itertools.product(kinds, CONSTANTS):
        yield Function(
            "slice", f"{name} {k}", "xs", task.format(k=k), _returned(expression.format(k=k))
        )


def _texts() -> Iterator[Function]:
    kinds = (
        ("upper", "Return s in upper case", "s.upper()"),
        ("lower", "Return s in lower case", "s.lower()"),
        ("flip", "Return s reversed", "s[::-1]"),
        ("same", "Return s", "s"),
    )
    for name, task, expression in kinds:
        for k in CONSTANTS:
            yield Function(
                "text",
                f"{name} times {k}",
                "s",
                f"{task} repeated {k} times.",
                _returned(f"{expression} * {k}"),
            )
        for letter in LETTERS:
            yield Function(
                "text",
                f"{name} plus {letter}",
                "s",
                f"{task} followed by '{letter}'.",
                _returned(f"{expression} + '{letter}'"),
            )
