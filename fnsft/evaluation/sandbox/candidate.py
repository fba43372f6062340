"""A program of unknown intent, called with arguments: what comes back is data or a failure.

The comparison with what is expected is the caller's, in this process: a program never sees an
expected value, so that it cannot forge a verdict.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from fnsft.evaluation.sandbox.process import Died, Limits, Process, Sandbox, TookTooLong
from fnsft.evaluation.sandbox.values import decode, encode

OutcomeKind = Literal["returned", "raised", "timeout", "died", "too-large"]
KINDS = ("returned", "raised", "timeout", "too-large")  # what a living process answers
# Beyond its time a call may stop itself, and what it returned has to travel.
GRACE_SECONDS = 1.0


@dataclass(frozen=True)
class Outcome:
    """What one call came to; ``value`` when it returned, ``digest`` of a value too large to travel.

    ``seconds`` is what the call took as it was measured inside, never more than outside.
    """

    kind: OutcomeKind
    value: Any = None
    digest: str | None = None
    seconds: float = 0.0
    message: str = ""


class Candidate:
    """A program that is loaded once, at its first call, and anew after it was killed.

    Use it in a ``with`` statement, in one thread: it ends with either. When the program cannot be
    loaded, every call has that outcome.

    Parameters
    ----------
    sandbox
        What :func:`choose_sandbox` chose.
    code, entry_point
        The program's source, and the name of the function that is called.
    limits
        What the program may use.
    """

    def __init__(
        self, sandbox: Sandbox, code: str, entry_point: str, limits: Limits | None = None
    ) -> None:
        self._sandbox = sandbox
        self._program = {"code": code, "entry_point": entry_point}
        self._limits = limits or Limits()
        self._seconds_left = self._limits.seconds
        self._process: Process | None = None
        self._unusable: Outcome | None = None
        self._calls = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the program, and whatever it has started."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def call(self, args: Sequence[Any], seconds: float) -> Outcome:
        """Call the function with a copy of ``args``, for at most ``seconds``.

        Raises
        ------
        TypeError
            When the arguments cannot travel; see :mod:`fnsft.evaluation.sandbox.values`.
        InputError
            When the sandbox does not start any more.
        """
        encoded = encode(list(args))
        if self._process is None and self._unusable is None:
            self._process = Process(self._sandbox, self._limits)
            loaded = self._ask(self._program, self._limits.load_seconds)
            if loaded.kind != "returned":
                self._unusable = loaded
                self.close()
        return self._unusable or self._ask({"args": encoded}, seconds)

    def _ask(self, request: dict[str, Any], seconds: float) -> Outcome:
        """Return the outcome of a request; without a process afterwards where it went wrong."""
        assert self._process is not None
        seconds = min(seconds, self._seconds_left)
        if seconds <= 0:
            return Outcome("timeout", message=f"all {self._limits.seconds:g} s were used before")
        self._calls += 1
        start = time.monotonic()
        try:
            request = request | {"call": self._calls, "seconds": seconds}
            answer = self._process.ask(request, seconds + GRACE_SECONDS)
            outcome = _outcome(answer, self._calls, time.monotonic() - start)
        except TookTooLong:
            outcome = Outcome("timeout", seconds=seconds, message=f"killed after {seconds:g} s")
        except Died as error:
            outcome = Outcome("died", seconds=time.monotonic() - start, message=str(error))
        except BaseException:
            self.close()
            raise
        self._seconds_left -= time.monotonic() - start
        if outcome.kind in ("timeout", "died"):
            self.close()
        return outcome


def _outcome(answer: Any, call: int, elapsed: float) -> Outcome:
    """Check an answer, which may be the program's own words."""
    try:
        number, kind, seconds, message, value = answer
        if number != call or kind not in KINDS or not isinstance(message, str):
            raise ValueError
        seconds = float(seconds)
        seconds = min(seconds, elapsed) if math.isfinite(seconds) and seconds >= 0 else elapsed
        returned = decode(value) if kind == "returned" else None
    except (ValueError, TypeError, KeyError, IndexError, RecursionError, OverflowError) as error:
        raise Died("the process wrote what is no answer") from error
    digest = str(value)[:64] if kind == "too-large" else None
    return Outcome(kind, returned, digest, seconds, message[:400])
