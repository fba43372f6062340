"""Word problems in GSM8K's form, their worked answers, stories, and sums without words.

A :class:`Template` is a question and the steps that answer it. ``{A}`` and ``{B}`` are two
people. A number is named by the range that it is drawn from (see ``_numbers``), or ``step1``,
``step2`` for the result of an earlier step.
"""

import operator
import random
import re
from dataclasses import dataclass

NAMES = tuple(
    """
    Tom Anna Ben Lily Sam Mia Max Zoe Leo Eva Dan Kate Jack Nina Paul Rosa
    """.split()  # noqa: SIM905
)
ITEMS = tuple(
    """
    apples books coins cards pens stamps cookies balls shells stones candies toys
    """.split()  # noqa: SIM905
)
BOXES = ("boxes", "bags", "jars", "baskets", "shelves", "trays")
SUM = re.compile(r"(\d+)([-+*])(\d+)=<<.*?>>\d+")  # what `equation` writes
OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul}

# Shares of one-, two- and three-step problems in the training and the test set (ours).
STEP_SHARES = {1: 0.35, 2: 0.57, 3: 0.08}
# Share of amounts with two digits (ours).
LARGE_SHARE = 0.35


@dataclass(frozen=True)
class Step:
    """One computation and the sentence that tells it; ``{sum}`` is the annotated equation."""

    left: str
    operator: str
    right: str
    sentence: str


@dataclass(frozen=True)
class Template:
    """Phrasings of one question, and the steps of its answer."""

    questions: tuple[str, ...]
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Problem:
    """A word problem: its question, the sentences of its worked answer, and the result."""

    question: str
    steps: tuple[str, ...]
    answer: int

    def row(self) -> dict[str, str]:
        """Return the problem as a row of GSM8K."""
        return {
            "question": self.question,
            "answer": "\n".join((*self.steps, f"#### {self.answer}")),
        }


IN_EACH = "{A} has {groups} {boxes} with {each} {items} in each"
IN_ALL = Step("groups", "*", "each", "The {boxes} have {sum} {items}.")
MORE_THAN = "{A} has {start} {items}. {B} has {amount} more {items} than {A}."

PROBLEMS = {
    1: (
        Template(
            (
                "{A} has {start} {items}. {B} gives {A} {amount} more. "
                "How many {items} does {A} have now?",
                "{A} has {start} {items} and buys {amount} more {items}. "
                "How many {items} does {A} have?",
            ),
            (Step("start", "+", "amount", "{A} has {sum} {items}."),),
        ),
        Template(
            (
                "{A} has {stock} {items}. {A} gives {amount} to {B}. How many {items} are left?",
                "{A} has {stock} {items} and loses {amount} of them. How many {items} are left?",
            ),
            (Step("stock", "-", "amount", "{A} has {sum} {items} left."),),
        ),
        Template(
            (IN_EACH + ". How many {items} does {A} have?",),
            (Step("groups", "*", "each", "{A} has {sum} {items}."),),
        ),
        Template(
            (MORE_THAN + " How many {items} does {B} have?",),
            (Step("start", "+", "amount", "{B} has {sum} {items}."),),
        ),
    ),
    2: (
        Template(
            (
                "{A} has {start} {items}. {A} buys {amount} more and then gives {other} to {B}. "
                "How many {items} does {A} have now?",
            ),
            (
                Step("start", "+", "amount", "First {A} has {sum} {items}."),
                Step("step1", "-", "other", "Then {A} has {sum} {items}."),
            ),
        ),
        Template(
            (IN_EACH + " and {amount} more {items} on the table. How many {items} does {A} have?",),
            (IN_ALL, Step("step1", "+", "amount", "{A} has {sum} {items}.")),
        ),
        Template(
            (IN_EACH + ". {B} takes {few} {items}. How many {items} are left?",),
            (IN_ALL, Step("step1", "-", "few", "There are {sum} {items} left.")),
        ),
        Template(
            (MORE_THAN + " How many {items} do they have together?",),
            (
                Step("start", "+", "amount", "{B} has {sum} {items}."),
                Step("step1", "+", "start", "Together they have {sum} {items}."),
            ),
        ),
    ),
    3: (
        Template(
            (
                IN_EACH + ". {A} buys {amount} more {items} and gives {other} to {B}. "
                "How many {items} does {A} have now?",
            ),
            (
                IN_ALL,
                Step("step1", "+", "amount", "Then {A} has {sum} {items}."),
                Step("step2", "-", "other", "At the end {A} has {sum} {items}."),
            ),
        ),
    ),
}

STORIES = (
    Template(
        ("{A} has {start} {items} and buys {few} more,",),
        (Step("start", "+", "few", "so now {A} has {sum} {items}."),),
    ),
    Template(
        ("{A} has {stock} {items} and gives {few} to {B},",),
        (Step("stock", "-", "few", "so there are {sum} {items} left."),),
    ),
    Template(("{A} puts {each} {items} in each of {groups} {boxes}.",), (IN_ALL,)),
    Template(
        ("{A} has {start} {items} and {B} has {few} more than {A},",),
        (Step("start", "+", "few", "so {B} has {sum} {items}."),),
    ),
)


def draw_problem(rng: random.Random, n_steps: int) -> Problem:
    """Draw a word problem whose answer takes ``n_steps`` steps (1, 2 or 3)."""
    return _fill(rng, rng.choice(PROBLEMS[n_steps]))


def with_slip(rng: random.Random, problem: Problem) -> Problem:
    """Return a problem with a slip of at most 9 in one of its sums, with which later ones go on."""
    sums = [SUM.search(step) for step in problem.steps]
    slip_at, results = rng.randrange(len(sums)), [0]
    while min(results) < 1:
        slip, steps, results = rng.choice((-1, 1)) * rng.randint(1, 9), [], []
        for place, (step, found) in enumerate(zip(problem.steps, sums, strict=True)):
            assert found is not None
            # The left number of a later step is the result of the one before.
            left, symbol, right = results[-1] if results else int(found[1]), found[2], int(found[3])
            results.append(OPERATORS[symbol](left, right) + slip * (place == slip_at))
            steps.append(step.replace(found[0], equation(left, symbol, right, results[-1])))
    return Problem(problem.question, tuple(steps), results[-1])


def draw_story(rng: random.Random) -> str:
    """Draw one or two sentences that tell a sum and its result."""
    stories = (_fill(rng, rng.choice(STORIES)) for _ in range(rng.randint(1, 2)))
    return " ".join(" ".join((story.question, *story.steps)) for story in stories)


def draw_drill(rng: random.Random) -> str:
    """Draw six to ten sums, one a line, half of them as annotated equations."""
    return "\n".join(_drill_line(rng) for _ in range(rng.randint(6, 10)))


def equation(left: int, symbol: str, right: int, result: int | None = None) -> str:
    """Return ``2+3=<<2+3=5>>5``: GSM8K's annotation inside the equation that it computes.

    A ``result`` that is given may be wrong.
    """
    result = OPERATORS[symbol](left, right) if result is None else result
    return f"{left}{symbol}{right}=<<{left}{symbol}{right}={result}>>{result}"


def _fill(rng: random.Random, template: Template) -> Problem:
    names = rng.sample(NAMES, 2)
    words = {"A": names[0], "B": names[1], "items": rng.choice(ITEMS), "boxes": rng.choice(BOXES)}
    numbers = _numbers(rng, template.steps)
    while min(numbers.values()) < 1:
        numbers = _numbers(rng, template.steps)
    sentences = [
        step.sentence.format(
            sum=equation(numbers[step.left], step.operator, numbers[step.right]), **words
        )
        for step in template.steps
    ]
    question = rng.choice(template.questions).format(**words, **numbers)
    return Problem(question, tuple(sentences), numbers[f"step{len(template.steps)}"])


def _numbers(rng: random.Random, steps: tuple[Step, ...]) -> dict[str, int]:
    """Draw the numbers that the steps name, and compute the results of the steps."""
    numbers = {
        "start": rng.randint(2, 20),
        "stock": rng.randint(3, 50),
        "amount": _amount(rng),
        "other": _amount(rng),
        "few": rng.randint(2, 9),
        "groups": rng.randint(2, 6),
        "each": rng.randint(2, 9),
    }
    for number, step in enumerate(steps, start=1):
        left, right = numbers[step.left], numbers[step.right]
        numbers[f"step{number}"] = OPERATORS[step.operator](left, right)
    return numbers


def _amount(rng: random.Random) -> int:
    return rng.randint(10, 30) if rng.random() < LARGE_SHARE else rng.randint(2, 9)


def _drill_line(rng: random.Random) -> str:
    symbol = rng.choice("+-*")
    left, right = rng.randint(1, 60), _amount(rng)
    if symbol == "-":
        left += right
    elif symbol == "*":
        left, right = rng.randint(2, 6), rng.randint(2, 9)
    elif rng.random() < 0.3:
        left, right = right, left
    line = equation(left, symbol, right)
    return line if rng.random() < 0.5 else line.partition("<<")[2].partition(">>")[0]
