"""The process that runs one program: it loads it, calls its function, and tells what came of it.

``python worker.py SPECIFICATION`` runs inside, with the standard library alone. It knows no
expected value: whatever the program does to it, all that leaves is data.

A message is four bytes of length and JSON. ``{"code", "entry_point", "seconds"}`` loads a program,
``{"call", "args", "seconds"}`` calls it; the answer is [call, kind, seconds, message, value].
"""

import contextlib
import json
import os
import signal
import struct
import sys
import time
import types
from collections.abc import Callable
from typing import Any

# The names of the packages around, without what they would import.
for _name in ("fnsft", "fnsft.evaluation", "fnsft.evaluation.sandbox"):
    sys.modules[_name] = types.ModuleType(_name)
    sys.modules[_name].__path__ = [os.path.dirname(os.path.abspath(__file__))]
from fnsft.evaluation.sandbox import confinement, file_rules, seccomp, values  # noqa: E402

MESSAGE_CHARACTERS = 300


class TimeLimit(BaseException):
    """The time of one call is over; no ``Exception``, which programs catch."""


def main() -> None:
    """Confine this process as its specification says, then serve."""
    specification = json.loads(sys.argv[1])
    answers = specification["answers"]
    if specification["supervised"]:
        _supervise(specification)
    try:
        _confine(specification)
    except OSError as error:
        _send(answers, [-1, "unconfined", 0.0, str(error), None])
        os._exit(1)
    silence = os.open("/dev/null", os.O_RDWR)
    for stream in range(3):
        os.dup2(silence, stream)
    sys.path.append(specification["packages"])
    _send(answers, [-1, "ready", 0.0, "", None])
    _serve(specification["requests"], answers, specification["limits"]["output_mib"] * 2**20)
    os._exit(0)


def _supervise(specification: dict) -> None:
    """Go on as a child; this process waits for its end, and ends whatever it leaves."""

    def end(*_: object) -> None:
        os.killpg(0, signal.SIGKILL)

    signal.signal(signal.SIGTERM, end)
    confinement.prctl(confinement.PR_SET_PDEATHSIG, signal.SIGTERM)
    if not (specification["landlock"] and confinement.leave_namespaces()) and os.getuid() != 0:
        # The kernel counts what else this user runs.
        specification["limits"]["processes"] += confinement.threads_of_user()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        return
    os.close(specification["answers"])
    os.close(specification["requests"])
    os.waitpid(child, 0)
    end()


def _confine(specification: dict) -> None:
    limits, landlock = specification["limits"], specification["landlock"]
    confinement.limit_resources(limits)
    confinement.drop_privileges(specification["number"], specification["supervised"])
    confinement.prctl(confinement.PR_SET_PDEATHSIG, signal.SIGKILL)  # another user's loses it
    if landlock is not None:
        file_rules.restrict_files(**landlock)
    if specification["forbid_calls"] and not seccomp.forbid_calls() and landlock is not None:
        raise OSError("the numbers of this machine's system calls are not known")
    with open(os.__file__):  # what another user cannot read fails here, with its path
        pass


def _serve(requests: int, answers: int, output_bytes: int) -> None:
    function: Callable[..., Any] | None = None
    own = os.getpid()
    while (request := _receive(requests)) is not None:
        if "code" in request:
            function, answer = _load(request)
        else:
            answer = _call(function, request)
        if os.getpid() != own:
            os._exit(0)  # a copy of this process that the program made: one of us answers
        _send_limited(answers, [request["call"], *answer], output_bytes)


def _load(request: dict) -> tuple[Callable[..., Any] | None, list]:
    module = types.ModuleType("candidate")
    sys.modules["candidate"] = module  # where dataclasses look for the names of a class

    def load() -> Callable[..., Any]:
        if "numpy" in request["code"]:  # no call pays for it, as none does in EvalPlus
            with contextlib.suppress(ImportError):
                import numpy  # noqa: F401
        exec(compile(request["code"], "<candidate>", "exec"), module.__dict__)
        if request["entry_point"] not in module.__dict__:
            raise NameError(f"no {request['entry_point']!r} in the program")
        return module.__dict__[request["entry_point"]]

    outcome = _timed(load, request["seconds"])
    function = outcome[3] if outcome[0] == "returned" else None
    return function, [*outcome[:3], None]


def _call(function: Callable[..., Any] | None, request: dict) -> list:
    assert function is not None
    args = values.decode(request["args"])
    outcome = _timed(lambda: function(*args), request["seconds"])
    if outcome[0] != "returned":
        return outcome
    try:
        return [*outcome[:3], values.encode(outcome[3])]
    except BaseException as error:
        return ["raised", outcome[1], f"unserialisable: {_told(error)}", None]


def _timed(
    action: Callable[[], Any],
    seconds: float,
    # What a program puts in the modules' places later changes nothing here.
    clock: Callable[[], float] = time.perf_counter,
    set_timer: Callable[..., object] = signal.setitimer,
) -> list:
    """Return [kind, seconds, message, value] of an action."""
    signal.signal(signal.SIGALRM, _time_is_over)
    start = clock()
    try:
        set_timer(signal.ITIMER_REAL, seconds)
        try:
            value = action()
        finally:
            set_timer(signal.ITIMER_REAL, 0)
    except TimeLimit:
        return ["timeout", clock() - start, f"over {seconds:g} s", None]
    except BaseException as error:
        return ["raised", clock() - start, f"{type(error).__name__}: {_told(error)}", None]
    return ["returned", clock() - start, "", value]


def _time_is_over(*_: object) -> None:
    raise TimeLimit


def _told(error: BaseException) -> str:
    try:
        return str(error)[:MESSAGE_CHARACTERS]
    except BaseException:
        return "(an error that cannot be told)"


def _receive(requests: int) -> Any:
    """Return the next request; None when nobody asks any more."""
    header = _read(requests, 4)
    return json.loads(_read(requests, struct.unpack(">I", header)[0])) if header else None


def _read(descriptor: int, length: int) -> bytes:
    parts = []
    while length and (part := os.read(descriptor, length)):
        parts.append(part)
        length -= len(part)
    return b"" if length else b"".join(parts)


def _send_limited(answers: int, answer: list, output_bytes: int) -> None:
    """Send an answer, of a larger value its digest alone."""
    try:
        text = json.dumps(answer)
    except (RecursionError, ValueError, MemoryError) as error:
        text = json.dumps([answer[0], "raised", answer[2], f"unserialisable: {error}", None])
    if len(text) > output_bytes:
        digest = values.digest_of(answer[4])
        text = json.dumps([answer[0], "too-large", answer[2], f"{len(text)} bytes", digest])
    _write(answers, text.encode())


def _send(answers: int, answer: list) -> None:
    _write(answers, json.dumps(answer).encode())


def _write(answers: int, content: bytes) -> None:
    data = memoryview(struct.pack(">I", len(content)) + content)
    while data:
        data = data[os.write(answers, data) :]


if __name__ == "__main__":
    main()
