"""Conversations, as chat data sets write them, and the samples that their answers are.

A turn is ``{"role", "content"}`` or ShareGPT's ``{"from", "value"}``; its content is text, or a
list of parts ``{"type": "text", "text": …}``. Turns of one role in a row are one turn, with a
blank line between. Tools and images are refused.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal

from fnsft.data.samples import Role, Sample, Turn
from fnsft.errors import InputError

ROLES: dict[str, Role] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}
ASKING = ("user", "human")
# Reasons for which a row gives no sample.
UNANSWERED = "without an answer to a question"
EQUAL = "with two equal answers"
TOOL_ROLES = {"tool", "function", "function_call", "tool_call", "observation", "ipython"}


def read_turns(messages: list[Any], system: str | None, where: str) -> list[Turn]:
    """Read the turns of a conversation; ``system`` begins one that has no system message.

    Blank system messages are dropped, and answers that stand before any question.

    Raises
    ------
    InputError
        For a role that is not one of :data:`ROLES`, tools, and content that is no text.
    """
    read = [_turn(turn, f"{where} turn {n}") for n, turn in enumerate(messages, start=1)]
    turns = [turn for turn in read if turn.role != "system" or turn.content.strip()]
    if system and system.strip() and not any(turn.role == "system" for turn in turns):
        turns.insert(0, Turn("system", system))
    joined: list[Turn] = []
    for turn in turns:
        if joined and joined[-1].role == turn.role:
            turn = Turn(turn.role, f"{joined.pop().content}\n\n{turn.content}")
        elif turn.role == "assistant" and not any(t.role == "user" for t in joined):
            continue
        joined.append(turn)
    return joined


def reason_against(turns: list[Turn]) -> str | None:
    """Say why a conversation gives no sample, or None when it gives one."""
    if not any(turn.role == "assistant" for turn in turns):
        return UNANSWERED
    if any(turn.role == "system" for turn in turns[1:]):
        return "with a system message after its beginning"
    if not all(turn.content.strip() for turn in turns):
        return "with an empty turn"
    return None


def samples_of(turns: list[Turn], which: Literal["all", "last"]) -> list[Sample]:
    """Make every answer, or the last one, a sample with all turns before it."""
    answers = [i for i, turn in enumerate(turns) if turn.role == "assistant"]
    return [
        Sample(
            "conversation",
            turns[i].content,
            question=turns[i - 1].content,
            before=tuple(turns[: i - 1]),
        )
        for i in (answers if which == "all" else answers[-1:])
    ]


def reason_against_pair(chosen: list[Turn], rejected: list[Turn]) -> str | None:
    """Say why two conversations are no pair of answers to one question, or None when they are."""
    if reason := reason_against(chosen) or reason_against(rejected):
        return reason
    if chosen == rejected:
        return EQUAL
    if chosen[:-1] != rejected[:-1] or {chosen[-1].role, rejected[-1].role} != {"assistant"}:
        return "whose conversations differ in more than the last answer"
    return None


def pair_of(chosen: list[Turn], rejected: list[Turn]) -> Sample:
    """Make the last answers of two conversations a pair."""
    (sample,) = samples_of(chosen, "last")
    return dataclasses.replace(sample, rejected=rejected[-1].content)


def _turn(turn: Any, where: str) -> Turn:
    if not isinstance(turn, dict):
        raise InputError(f"{where}: expected an object with role and content, found {turn!r:.60}")
    role = turn.get("role", turn.get("from"))
    if role in TOOL_ROLES or turn.get("tool_calls") or turn.get("function_call"):
        raise InputError(f"{where}: calls a tool, which is not supported; leave such rows out")
    if role not in ROLES:
        expected = "system, user (human) or assistant (gpt)"
        raise InputError(f"{where}: role: expected {expected}, found {role!r:.60}")
    content = turn.get("content", turn.get("value"))
    if isinstance(content, list):
        content = "".join(_parts(content, where))
    if content is not None and not isinstance(content, str):
        raise InputError(f"{where}: content: expected text, found {content!r:.60}")
    return Turn(ROLES[role], content or "")


def _parts(content: list[Any], where: str) -> Iterator[str]:
    for part in content:
        text = part if isinstance(part, str) else None
        if isinstance(part, dict) and part.get("type", "text") == "text":
            text = part.get("text")
        if not isinstance(text, str):
            raise InputError(f"{where}: content: expected parts of text, found {part!r:.60}")
        yield text
