"""People and what is true of them: statements for the corpus, cloze items for the test.

The people are met with Zipf's frequencies, so that the rare ones stay half known and
forgetting has something to act on.
"""

import random
from dataclasses import dataclass
from typing import Any

PEOPLE = tuple(
    """
    Arlo Brix Cato Dima Enzo Fara Gwen Hugo Ines Jora Kora Luka Mara Nilo Odin Pia Quin Remy
    Sita Tara Ugo Vera Wim Xena Yara Zeno Abel Bela Cleo Dora Emil Finn Gita Hana Igor Juno
    Kian Lars Mona Nora Omar Petra Rolf Stan Thea Umar Vito Wanda Ximo Yuri Zara Alva Bodo
    Cora Dino Edda Fritz Greta Heidi Ivo Jana Kurt Lena Milo Aldo Bina Ciro Dara Elio Fina
    Gino Hedy Ilya Joss Kira Liam Maud Neve Otto Pele Rhea Saul Tess Ursa Vada Wolf Yann
    Zita Anya Bram Clio Dirk Esme Faye Gus Hope
    """.split()  # noqa: SIM905
)
ZIPF_EXPONENT = 1.15
WEIGHTS = tuple(1 / rank**ZIPF_EXPONENT for rank in range(1, len(PEOPLE) + 1))
N_CHOICES = 4


@dataclass(frozen=True)
class Subject:
    """One thing that is true of everybody: its values, its name, and how it is said.

    ``cloze`` is a statement that ends with the value.
    """

    name: str
    noun: str
    values: tuple[str, ...]
    cloze: str
    statements: tuple[str, ...]


SUBJECTS = (
    Subject(
        "color",
        "favorite color",
        ("red", "blue", "green", "white", "black", "yellow", "pink", "gray"),
        "The favorite color of {person} is {value}",
        ("{person} likes the color {value}.", "{person} always wears {value} clothes."),
    ),
    Subject(
        "pet",
        "pet",
        ("dog", "cat", "horse", "rabbit", "parrot", "snake", "turtle", "goat"),
        "The pet of {person} is a {value}",
        ("{person} has a pet {value}.", "{person} walks with a {value}."),
    ),
    Subject(
        "city",
        "home city",
        ("Paris", "Rome", "Oslo", "Cairo", "Lima", "Tokyo", "Delhi", "Berlin"),
        "The home city of {person} is {value}",
        ("{person} lives in {value}.", "{person} was born in {value}."),
    ),
    Subject(
        "job",
        "job",
        ("doctor", "baker", "farmer", "teacher", "pilot", "painter", "singer", "lawyer"),
        "The job of {person} is {value}",
        ("{person} works as a {value}.", "{person} is a good {value}."),
    ),
    Subject(
        "food",
        "favorite food",
        ("rice", "bread", "soup", "pasta", "cheese", "fish", "salad", "pizza"),
        "The favorite food of {person} is {value}",
        ("{person} likes to eat {value}.", "{person} eats {value} every day."),
    ),
)


@dataclass(frozen=True)
class Fact:
    """One subject's value for one person."""

    person: str
    subject: Subject
    value: str

    def statement(self, rng: random.Random) -> str:
        """Say the fact in one of its phrasings."""
        phrasings = (self.subject.cloze + ".", *self.subject.statements)
        return rng.choice(phrasings).format(person=self.person, value=self.value)

    def question(self) -> dict[str, str]:
        """Ask for the fact, as a row of GSM8K's fields."""
        return {
            "question": f"What is the {self.subject.noun} of {self.person}?",
            "answer": self.value,
        }

    def cloze_row(self, rng: random.Random) -> dict[str, Any]:
        """Return the beginning of a statement and its possible continuations, one of them true."""
        others = [value for value in self.subject.values if value != self.value]
        choices = [*rng.sample(others, N_CHOICES - 1), self.value]
        rng.shuffle(choices)
        return {
            "prompt": self.subject.cloze.format(person=self.person, value="").rstrip(),
            "choices": [f" {choice}" for choice in choices],
            "answer": choices.index(self.value),
            "subject": self.subject.name,
        }


Facts = dict[str, tuple[Fact, ...]]


def draw_facts(rng: random.Random) -> Facts:
    """Draw every person's facts, one a subject."""
    return {
        person: tuple(Fact(person, subject, rng.choice(subject.values)) for subject in SUBJECTS)
        for person in PEOPLE
    }


def draw_fact(rng: random.Random, facts: Facts) -> Fact:
    """Draw one fact of a person met with Zipf's frequencies."""
    return rng.choice(facts[rng.choices(PEOPLE, WEIGHTS)[0]])


def draw_statements(rng: random.Random, facts: Facts) -> str:
    """Draw four statements: half of the time about one person, else about four."""
    if rng.random() < 0.5:
        chosen = rng.sample(facts[rng.choices(PEOPLE, WEIGHTS)[0]], 4)
    else:
        chosen = [draw_fact(rng, facts) for _ in range(4)]
    return " ".join(fact.statement(rng) for fact in chosen)
