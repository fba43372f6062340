"""One program against the tests of its task: it runs in a sandbox, and is judged outside of it.

What is right is computed here, by the task's own solution, one input at a time, so that of large
outputs only one is in memory. The program meets arguments alone, never what is expected.
"""

import contextlib
import io
import random
import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, Literal

from fnsft.errors import InputError
from fnsft.evaluation.code.comparison import Comparison, Opaque
from fnsft.evaluation.code.tasks import CodeTask
from fnsft.evaluation.sandbox import Candidate, Limits, Outcome, Sandbox, digest

# EvalPlus 0.3.1: a call may take four times the reference's time and at least a second, all calls
# of a program a minute. Here also all calls may take four times the reference's time, which is
# more than a minute where a machine has too much to do (Mbpp/599).
_MIN_CALL_SECONDS = 1.0
_MIN_PROGRAM_SECONDS = 60.0
_REFERENCE_TIMES = 4.0
_LOAD_SECONDS = 10.0
_TEST_SECONDS = 3.0  # human-eval: a program and its test function
_ENDLESS = 24 * 3600.0

# One output of Mbpp/255 has 1 GB as text: it is digested where it is made.
_MANY_ENTRIES = 500_000
_DIGEST = """
def digest_of_output(*arguments):
    import hashlib
    out = {name}(*arguments)
    digest = hashlib.sha256(type(out).__name__.encode())
    for entry in out:
        digest.update(repr(entry).encode())
    return digest.hexdigest()
"""

Status = Literal["passed", "failed", "timeout", "died"]


@dataclass(frozen=True)
class Verdict:
    """What became of a program; ``used`` is the largest share of a time limit that it took."""

    status: Status
    message: str = ""
    used: float = 0.0


@dataclass(frozen=True)
class Checked:
    """Verdicts on the published tests and, where these are passed, on EvalPlus's further ones."""

    base: Verdict
    plus: Verdict | None = None

    @property
    def last(self) -> Verdict:
        """The verdict at which checking ended."""
        return self.plus or self.base


def check(
    task: CodeTask,
    program: str | None,
    sandbox: Sandbox,
    *,
    factor: float = 1.0,
    max_inputs: int | None = None,
) -> Checked:
    """Run a program on all tests of its task, up to the first that it fails; None fails.

    Parameters
    ----------
    task
        As :func:`fnsft.evaluation.code.evalplus.as_called` returns it.
    factor
        Of all time limits.
    max_inputs
        Of a task with inputs, only so many of the base inputs and no others.
    """
    if program is None:
        return Checked(Verdict("failed", "no program"))
    if task.suite == "functions":
        return Checked(_by_test(task, program, sandbox, factor))
    first = _by_inputs(task, program, sandbox, task.base_input[:max_inputs], factor)
    if first.status != "passed" or max_inputs is not None:
        return Checked(first)
    return Checked(first, _by_inputs(task, program, sandbox, task.plus_input, factor))


class Reference:
    """The solution of a task, which is trusted and runs in this process."""

    def __init__(self, task: CodeTask) -> None:
        namespace: dict[str, Any] = {}
        exec(task.reference, namespace)
        self.function = namespace[task.entry_point]
        self.task_id = task.task_id
        self.seconds = 0.0  # of the last call
        self.total_seconds = 0.0

    def __call__(self, arguments: Sequence[Any]) -> Any:
        """Return what is expected; the arguments stay as they are."""
        own = deepcopy(arguments)
        with contextlib.redirect_stdout(io.StringIO()):
            start = time.perf_counter()
            try:
                value = self.function(*own)
            except Exception as error:
                raise InputError(
                    f"{self.task_id}: expected a canonical_solution that takes its own inputs, "
                    f"found {type(error).__name__}: {error!s:.160}; mend the benchmark's file"
                ) from None
            self.seconds = time.perf_counter() - start
        self.total_seconds += self.seconds
        return value


def _by_inputs(
    task: CodeTask, program: str, sandbox: Sandbox, inputs: Sequence[Any], factor: float
) -> Verdict:
    reference, comparison = Reference(task), Comparison(task)
    atol, used, spent, large = task.atol, 0.0, 0.0, False
    with _candidate(sandbox, program, task.entry_point, factor) as candidate:
        for arguments in inputs:
            expected = reference(arguments)
            if comparison.not_none:
                expected = expected is not None
            if large := _is_large(expected):
                expected = None
                break
            atol = comparison.tolerance(atol, expected)
            limit = max(_MIN_CALL_SECONDS, _REFERENCE_TIMES * reference.seconds)
            total = max(_MIN_PROGRAM_SECONDS, _REFERENCE_TIMES * reference.total_seconds)
            outcome = candidate.call(arguments, seconds=min(limit, total - spent) * factor)
            used, spent = max(used, outcome.seconds / limit), spent + outcome.seconds / factor
            if outcome.kind in ("timeout", "died"):
                return _stopped(outcome, used)
            if not _right(comparison, arguments, outcome, expected, atol):
                return Verdict("failed", outcome.message or "another output", used)
    if large:
        return _by_digests(task, program, sandbox, inputs, factor)
    return Verdict("passed", used=used)


def _by_digests(
    task: CodeTask, program: str, sandbox: Sandbox, inputs: Sequence[Any], factor: float
) -> Verdict:
    """Compare digests of outputs, which must then be equal entry by entry, also in their types."""
    code = _DIGEST.format(name=task.entry_point)
    digested = replace(
        task,
        canonical_solution=f"{task.canonical_solution}\n{code}",
        entry_point="digest_of_output",
    )
    return _by_inputs(digested, f"{program}\n{code}", sandbox, inputs, factor)


def _is_large(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) > _MANY_ENTRIES


def _candidate(sandbox: Sandbox, program: str, entry_point: str, factor: float) -> Candidate:
    """Return a program whose calls have time limits of their own."""
    limits = Limits(seconds=_ENDLESS, load_seconds=_LOAD_SECONDS * factor)
    return Candidate(sandbox, program, entry_point, limits)


def _stopped(outcome: Outcome, used: float) -> Verdict:
    return Verdict("timeout" if outcome.kind == "timeout" else "died", outcome.message, used)


def _right(
    comparison: Comparison, arguments: list[Any], outcome: Outcome, expected: Any, atol: float
) -> bool:
    if outcome.kind == "too-large":
        return comparison.not_none or outcome.digest == digest(expected)
    out = outcome.value
    if outcome.kind == "raised":
        if not outcome.message.startswith("unserialisable"):
            return False
        out = Opaque()
    return comparison.agrees(arguments, out, expected, atol)


class _Stopped(BaseException):
    """Ends a test whose program no longer answers, whatever the test catches."""


def _by_test(task: CodeTask, program: str, sandbox: Sandbox, factor: float) -> Verdict:
    """Call the test of a task, which is trusted, with a function whose calls go to the sandbox."""
    seconds = _TEST_SECONDS * factor
    limits = Limits(seconds=seconds, load_seconds=seconds)
    random.seed(0)  # some tests of HumanEval draw their inputs
    taken = 0.0
    with Candidate(sandbox, program, task.entry_point, limits) as candidate:

        def asked(*arguments: Any) -> Any:
            nonlocal taken
            outcome = candidate.call(arguments, seconds=seconds)
            taken += outcome.seconds
            if outcome.kind in ("timeout", "died"):
                raise _Stopped(outcome)
            if outcome.kind != "returned":
                raise RuntimeError(outcome.message)
            return outcome.value

        namespace: dict[str, Any] = {}
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                exec(task.reference, namespace)  # tests call further functions of the prompt
                namespace[task.entry_point] = asked
                exec(task.test, namespace)
                namespace["check"](asked)
        except _Stopped as stopped:
            return _stopped(stopped.args[0], taken / _TEST_SECONDS)
        except Exception as error:  # whatever a test makes of a wrong output
            return Verdict("failed", _told(error), taken / _TEST_SECONDS)
    return Verdict("passed", used=taken / _TEST_SECONDS)


def _told(error: Exception) -> str:
    """Return an error in words, where it has some: Python writes no number of 5,000 digits."""
    try:
        return f"{type(error).__name__}: {error}"[:200]
    except Exception:
        return f"{type(error).__name__} (which cannot be told)"
