"""Small Python functions: what each is asked to do, its body, and tests for it.

The whole set is enumerated, so that a share of it can be held out. A function has no
name of its own: names are drawn from a few that say nothing, since a name that did would
give the body away.
"""

import itertools
import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

ENTRY_POINTS = ("solve", "compute", "run", "process", "apply", "func")
CONSTANTS = range(2, 10)
LETTERS = "abcdefgh"
# Each differs from itself in upper case, in lower case and reversed.
WORDS = ("Apple", "Banana", "Cat", "Door", "Fish", "Green", "Hello", "Moon", "Sun", "Tree")
INSTRUCTION = "Complete the function."


@dataclass(frozen=True)
class Function:
    """One function: its family, argument, task and body. The task is its key."""

    family: str
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


@dataclass(frozen=True)
class Pattern:
    """A task and the expression that does it, for every constant ``{k}``."""

    task: str
    expression: str
    constants: Iterable[int | str] = CONSTANTS


@dataclass(frozen=True)
class Family:
    """Functions of one kind: how often it is drawn, what it is given, what it can do."""

    weight: int
    argument: str
    patterns: tuple[Pattern, ...]

    def functions(self, name: str) -> list[Function]:
        """Enumerate the functions, each constant of each pattern in turn."""
        return [
            Function(
                name,
                self.argument,
                pattern.task.format(k=k) + ".",
                f"    return {pattern.expression}\n".format(k=k),
            )
            for pattern in self.patterns
            for k in pattern.constants
        ]


# task, what follows "and then", expression
OPERATIONS = (
    ("Add {k} to {it}", "add {k}", "{it} + {k}"),
    ("Subtract {k} from {it}", "subtract {k}", "{it} - {k}"),
    ("Multiply {it} by {k}", "multiply by {k}", "{it} * {k}"),
)
COMPARISONS = (("greater than", ">"), ("less than", "<"))
NUMBERS_OF_LISTS = (
    ("Return the sum of xs", "sum(xs)"),
    ("Return the largest number in xs", "max(xs)"),
    ("Return the smallest number in xs", "min(xs)"),
    ("Return the length of xs", "len(xs)"),
)
LISTS_OF_LISTS = (("Return xs sorted", "sorted(xs)"), ("Return xs reversed", "xs[::-1]"))
TEXTS_OF_TEXTS = (
    ("Return s in upper case", "s.upper()"),
    ("Return s in lower case", "s.lower()"),
    ("Return s reversed", "s[::-1]"),
    ("Return s", "s"),
)

# Weights are ours. "aggregate" has no constant: there is nothing in it to generalise over.
FAMILIES = {
    "unary": Family(
        10,
        "x",
        (
            *(
                Pattern(task.format(it="x", k="{k}"), expression.format(it="x", k="{k}"))
                for task, _, expression in OPERATIONS
            ),
            Pattern("Return the remainder of x divided by {k}", "x % {k}"),
            Pattern("Divide x by {k} and round down", "x // {k}"),
        ),
    ),
    "chained": Family(20, "x", ()),
    "comparison": Family(
        10,
        "x",
        tuple(
            Pattern(f"Check if x is {words} {{k}}", f"x {symbol} {{k}}")
            for words, symbol in (*COMPARISONS, ("equal to", "=="))
        ),
    ),
    "map": Family(
        10,
        "xs",
        tuple(
            Pattern(
                task.format(it="each number in xs", k="{k}"),
                f"[{expression.format(it='x', k='{k}')} for x in xs]",
            )
            for task, _, expression in OPERATIONS
        ),
    ),
    "filter": Family(
        20,
        "xs",
        tuple(
            Pattern(
                f"{verb} the numbers in xs {words} {{k}}",
                around.format(f"[x for x in xs if x {symbol} {{k}}]"),
            )
            for verb, around in (("Keep", "{}"), ("Count", "len({})"), ("Sum", "sum({})"))
            for words, symbol in COMPARISONS
        ),
    ),
    "aggregate": Family(
        4,
        "xs",
        tuple(Pattern(*pair, constants=("",)) for pair in (*NUMBERS_OF_LISTS, *LISTS_OF_LISTS)),
    ),
    "aggregate-shifted": Family(
        6,
        "xs",
        tuple(
            Pattern(f"{task} {word} {{k}}", f"{expression} {symbol} {{k}}")
            for task, expression in NUMBERS_OF_LISTS
            for word, symbol in (("plus", "+"), ("times", "*"))
        ),
    ),
    "slice": Family(
        10,
        "xs",
        (
            Pattern("Return the first {k} numbers in xs", "xs[:{k}]"),
            Pattern("Return the last {k} numbers in xs", "xs[-{k}:]"),
            Pattern("Return all but the first {k} numbers in xs", "xs[{k}:]"),
        ),
    ),
    "text": Family(
        10,
        "s",
        tuple(
            pattern
            for task, expression in TEXTS_OF_TEXTS
            for pattern in (
                Pattern(f"{task} repeated {{k}} times", f"{expression} * {{k}}"),
                Pattern(f"{task} followed by '{{k}}'", f"{expression} + '{{k}}'", LETTERS),
            )
        ),
    ),
}


def all_functions() -> dict[str, list[Function]]:
    """Enumerate the functions of every family."""
    functions = {name: family.functions(name) for name, family in FAMILIES.items()}
    return functions | {"chained": _chained()}


def _chained() -> list[Function]:
    """Enumerate one operation after another: the one family with two constants."""
    return [
        Function(
            "chained",
            "x",
            f"{task.format(it='x', k=k)} and then {then.format(k=m)}.",
            f"    y = {first.format(it='x', k=k)}\n    return {second.format(it='y', k=m)}\n",
        )
        for (task, _, first), k, (_, then, second), m in itertools.product(
            OPERATIONS, CONSTANTS, OPERATIONS, CONSTANTS
        )
    ]


def draw_function(rng: random.Random, functions: dict[str, list[Function]]) -> Function:
    """Draw a family by its weight, then one of its functions."""
    families = [name for name in functions if functions[name]]
    weights = [FAMILIES[name].weight for name in families]
    return rng.choice(functions[rng.choices(families, weights)[0]])
