"""What a row says, before any template has written it."""

from dataclasses import dataclass
from typing import Literal

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Turn:
    """One message of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True)
class Sample:
    """An answer and what it answers, or a text (kind ``text``: ``answer`` alone is filled).

    ``before`` are the turns that precede the question in a conversation (kind
    ``conversation``); ``context`` is what stands with a question or an instruction. Of a pair
    ``answer`` is the chosen one, and ``rejected`` the other; else it is empty.
    """

    kind: Literal["plain", "question", "instruction", "conversation", "text"]
    answer: str
    question: str = ""
    context: str = ""
    before: tuple[Turn, ...] = ()
    rejected: str = ""
