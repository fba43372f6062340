r"""A program in a model's text.

EvalPlus's own ``sanitize`` parses every pair of lines, which takes tens of seconds on long prose.
Here the text is read in a fixed order of ways, each of which parses a bounded number of times;
a program that needs none of them fails alike in both.
"""

import ast
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from fnsft.evaluation.code.definitions import MAX_CHARACTERS, compiles, defines, parsed

Found = Literal["fence", "open-fence", "text", "continuation", "body", "nothing"]

_FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})[ \t]*([\w+.#-]*)[^\n`]*$", re.MULTILINE)
_STATEMENT = re.compile(r"^(?:@|(?:async +)?def |class |import |from )", re.MULTILINE)
_MAX_TRIMMED_LINES = 60  # of a tail that is no Python; each costs one parse


@dataclass(frozen=True)
class Program:
    """A program that defines what was asked for, None where there is none, and where it stood.

    ``fence`` and ``open-fence``: in Markdown; ``text``: all of the text, or its end;
    ``continuation``: the prompt goes on; ``body``: the same, once its indentation was mended.
    """

    code: str | None
    found: Found


def continued(text: str, prompt: str, entry_point: str) -> Program:
    """Find the program that a prompt begins and a text goes on with.

    Where the prompt has begun the function (HumanEval), the text is cut at the first line
    that begins a new statement at the top level once the function is whole. Otherwise (MBPP,
    whose prompt is a docstring) all of the text counts, but for a tail that is no Python.
    """
    text = _plain(text)
    begun = defines(f"{prompt.rstrip()}\n    pass\n", entry_point)
    code = (_until_next_statement if begun else _joined)(prompt, text)
    grown = not begun or _statements(code, entry_point) > _statements(prompt, entry_point)
    if grown and defines(code, entry_point):
        return Program(code, "continuation")
    return _answered_apart(text, entry_point) or Program(None, "nothing")


def answered(text: str, prompt: str, entry_point: str) -> Program:
    """Find the program in an answer to an instruction that held a prompt.

    The last complete fence that defines the function; else one that does not end; else the text
    itself, prose around it left out; else the body of the function, which the prompt begins.
    """
    text = _plain(text)
    if apart := _answered_apart(text, entry_point):
        return apart
    beginning = f"{prompt.rstrip()}\n"
    parts = [part for part, _ in reversed(list(_fences(text)))] or [text]
    ways = [(found, body) for part in parts for found, body in _bodies(part)]
    for found, body in ways:
        if _returns(beginning + body, entry_point):
            return Program(beginning + body, found)
    for found, body in ways:  # with something behind the function that is no part of it
        if _returns(code := _until_next_statement(beginning, body), entry_point):
            return Program(code, found)
    return Program(None, "nothing")


def _plain(text: str) -> str:
    """Return a text's beginning with tabs as four columns, as EvalPlus writes them."""
    return text[:MAX_CHARACTERS].replace("\r\n", "\n").replace("\t", "    ")


def _answered_apart(text: str, entry_point: str) -> Program | None:
    """Find a program that needs no prompt."""
    for part, closed in sorted(reversed(list(_fences(text))), key=lambda fence: not fence[1]):
        code = part if closed else _without_tail(part)
        if defines(code, entry_point):
            return Program(code, "fence" if closed else "open-fence")
    # Each start costs parses: prose seldom has more than a few lines that begin like Python.
    starts = [0, *(match.start() for match in _STATEMENT.finditer(text))]
    for start in dict.fromkeys(starts[:8]):
        code = _without_tail(text[start:])
        if defines(code, entry_point):
            return Program(code, "text")
    return None


def _fences(text: str) -> Iterator[tuple[str, bool]]:
    """Yield what stands in Markdown fences, dedented, and whether the fence ends."""
    opening: re.Match[str] | None = None
    for match in _FENCE.finditer(text):
        if opening is None:
            opening = match
        elif not match[2] and match[1].startswith(opening[1]):
            yield _dedented(text[opening.end() + 1 : match.start()]), True
            opening = None
    if opening is not None:
        yield _dedented(text[opening.end() + 1 :]), False


def _dedented(block: str) -> str:
    # As it stands wherever possible: dedenting also touches blank lines in texts.
    return textwrap.dedent(block) if block.lstrip("\n")[:1] == " " else block


def _until_next_statement(prompt: str, text: str) -> str:
    """Return prompt and text up to the first top-level line before which they compile."""
    place = 0
    for line in text.splitlines(keepends=True):
        if place and line[:1].strip("# \n") and compiles(prompt + text[:place]):
            return prompt + text[:place]
        place += len(line)
    return _joined(prompt, text)


def _joined(prompt: str, text: str) -> str:
    return prompt + _without_tail(text, prompt)


def _without_tail(text: str, prompt: str = "") -> str:
    """Return the longest beginning, of whole lines, that compiles behind a prompt."""
    lines = text.split("\n")
    for end in range(len(lines), max(0, len(lines) - _MAX_TRIMMED_LINES), -1):
        if compiles(prompt + (code := "\n".join(lines[:end]))):
            return code
    return ""


def _bodies(part: str) -> list[tuple[Found, str]]:
    """Return a function's body as it stands, and four columns in: its first line, or all of it."""
    lines = part.strip("\n")
    return [
        ("continuation", part),
        ("body", f"    {lines.lstrip()}"),
        ("body", textwrap.indent(textwrap.dedent(lines), "    ")),
    ]


def _statements(code: str, entry_point: str) -> int:
    """Count the statements of a function, its docstring among them; 0 where it is not defined."""
    return len(_body(code, entry_point))


def _returns(code: str, entry_point: str) -> bool:
    """Return whether a function gives something back, or raises, itself."""
    nodes: list[ast.AST] = list(_body(code, entry_point))
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Return | ast.Raise | ast.Yield | ast.YieldFrom):
            return True
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            nodes += ast.iter_child_nodes(node)
    return False


def _body(code: str, entry_point: str) -> list[ast.stmt]:
    tree = parsed(code)
    bodies = [
        node.body
        for node in (tree.body if tree else [])
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == entry_point
    ]
    return bodies[-1] if bodies else []
