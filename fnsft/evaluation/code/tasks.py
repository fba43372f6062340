"""Programming tasks, read from the files of EvalPlus and HumanEval and checked."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from fnsft.data.text_lines import numbered_lines
from fnsft.errors import InputError
from fnsft.evaluation.code.definitions import defines

Suite = Literal["functions", "humaneval", "mbpp"]
_TEXTS = ("task_id", "prompt", "entry_point", "canonical_solution")
_IDS = {"humaneval": "HumanEval/", "mbpp": "Mbpp/"}  # EvalPlus's oracles go by the suite


@dataclass(frozen=True)
class CodeTask:
    """A function to be written, and what checks it.

    ``prompt`` and ``canonical_solution`` together are a right program. ``test`` (suite
    functions) defines ``check(candidate)``; the others have inputs, one list of arguments each:
    ``base_input`` as published first, ``plus_input`` added by EvalPlus, and ``atol``, the
    absolute tolerance of the outputs.
    """

    suite: Suite
    task_id: str
    prompt: str
    entry_point: str
    canonical_solution: str
    test: str = ""
    base_input: tuple[Any, ...] = ()
    plus_input: tuple[Any, ...] = ()
    atol: float = 0.0

    @property
    def reference(self) -> str:
        """The program that is known to be right."""
        return self.prompt + self.canonical_solution


def read_tasks(path: Path, suite: Suite, limit: int | None = None) -> list[CodeTask]:
    """Read the first tasks of a file of JSON lines, plain or gzipped.

    Arguments stand as JSON has them: :func:`fnsft.evaluation.code.evalplus.as_called` makes the
    tuples and sets of MBPP from them.

    Raises
    ------
    InputError
        For rows that are no tasks of the suite, an id that stands twice, and a file without any.
    """
    tasks: dict[str, CodeTask] = {}
    for where, row in islice(_rows(path), limit):
        task = _task(row, suite, where)
        if task.task_id in tasks:
            raise InputError(f"{where}: task_id: expected each once, found {task.task_id} again")
        tasks[task.task_id] = task
    if not tasks:
        raise InputError(f"{path}: expected at least one task, found none")
    return list(tasks.values())


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    for number, line in numbered_lines(path):
        if line.strip():
            where = f"{path} line {number}"
            try:
                yield where, json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(
                    f"{where}: expected a row of JSON lines, found {line!r:.60} ({error})"
                ) from None


def _task(row: Any, suite: Suite, where: str) -> CodeTask:
    if not isinstance(row, dict):
        raise InputError(f"{where}: expected an object, found {row!r:.60}")
    if suite != "functions" and "base_input" not in row and "test" in row:
        raise InputError(
            f"{where}: expected EvalPlus's base_input and plus_input, found a plain test; use "
            "kind=functions for this file"
        )
    texts: dict[str, Any] = {name: _field(row, name, str, where) for name in _TEXTS}
    if not texts["task_id"].startswith(prefix := _IDS.get(suite, "")):
        raise InputError(
            f"{where}: task_id: expected {prefix}…, found {texts['task_id']!r}; the file is of "
            "another kind"
        )
    if suite == "functions":
        task = CodeTask(suite, **texts, test=_field(row, "test", str, where))
        if not defines(task.test, "check"):
            raise InputError(f"{where}: test: expected check(candidate), found {task.test[:60]!r}")
    else:
        base, plus = (_inputs(row, name, where) for name in ("base_input", "plus_input"))
        atol = _field(row, "atol", (int, float), where)
        task = CodeTask(suite, **texts, base_input=base, plus_input=plus, atol=atol)
    if not defines(task.reference, task.entry_point):
        raise InputError(
            f"{where}: expected a prompt and canonical_solution that define {task.entry_point}, "
            "found a program that does not"
        )
    return task


def _inputs(row: dict[str, Any], name: str, where: str) -> tuple[list[Any], ...]:
    if row.get(name) == {}:  # how MBPP+ writes that there are none (Mbpp/793)
        return ()
    found = _field(row, name, list, where)
    if wrong := [entry for entry in found if not isinstance(entry, list)]:
        raise InputError(f"{where}: {name}: expected lists of arguments, found {wrong[0]!r:.60}")
    return tuple(found)


def _field(row: dict[str, Any], name: str, kind: type | tuple[type, ...], where: str) -> Any:
    if name not in row:
        raise InputError(f"{where}: the field {name!r} is missing; found {', '.join(row)}")
    value = row[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise InputError(f"{where}: {name}: found {value!r:.60}, which is of another type")
    return value
