"""One confined process, from outside: it is started, asked with a deadline, and ended."""

import contextlib
import itertools
import json
import os
import select
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from fnsft.errors import InputError

SIZE = "SIZE"  # in a command: the bytes that files may have
START_SECONDS = 30.0
REASON_BYTES = 4_096
# What an answer may take beside its value, and what one read takes at most.
MESSAGE_BYTES = 16 * 1024
CHUNK_BYTES = 1 << 20
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/tmp",
    "LC_ALL": "C.UTF-8",
    "PYTHONHASHSEED": "0",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
# The kernel takes it and all that it starts first when the machine has no memory left: a courtesy
# to the others. It is done before the command, which may have no /proc inside.
VOLUNTEER = '{ echo 1000 > /proc/self/oom_score_adj; } 2> /dev/null; exec "$@"'
_numbers = itertools.count()


@dataclass(frozen=True)
class Limits:
    """What one program may use; memory and file sizes are those of each of its processes.

    So all memory of a program is bounded by ``processes`` times ``memory_mib`` alone.
    """

    seconds: float = 60.0  # for loading and for all calls together
    load_seconds: float = 10.0
    memory_mib: int = 4_096
    processes: int = 16  # and threads
    file_mib: int = 64
    output_mib: int = 16  # of one call, as it travels


@dataclass(frozen=True)
class Sandbox:
    """How confined processes are started: a name for the records, a command, and what it adds.

    ``command`` ends with the script that runs inside, ``specification`` says what that script
    does by itself: ``supervised`` (a process watches over it), ``landlock`` (the rules of files),
    ``forbid_calls``, and ``packages``, the folder that holds numpy.
    """

    name: str
    command: tuple[str, ...]
    specification: dict[str, Any]

    def command_for(self, limits: Limits, requests: int, answers: int) -> list[str]:
        """Return the command line of one process that talks over two descriptors."""
        number = os.getpid() % 10_000 * 1_000 + next(_numbers) % 1_000
        inside = {"limits": asdict(limits), "number": number, **self.specification}
        inside |= {"requests": requests, "answers": answers}
        size = str(limits.file_mib * 2**20)
        command = [size if part == SIZE else part for part in self.command]
        return ["/bin/sh", "-c", VOLUNTEER, "sh", *command, json.dumps(inside)]


class Unavailable(Exception):
    """A kind of sandbox that this machine does not have, with the reason."""


class Died(Exception):
    """The process ended, or said what no honest one says."""


class TookTooLong(Exception):
    """The process did not answer in time."""


class Process:
    """A started process; :meth:`kill` ends it and whatever it has started.

    Raises
    ------
    InputError
        When it does not start, with what it said.
    """

    def __init__(self, sandbox: Sandbox, limits: Limits) -> None:
        self.most_bytes = limits.output_mib * 2**20 + MESSAGE_BYTES
        inner_requests, self._requests = os.pipe()
        self._answers, inner_answers = os.pipe()
        try:
            self._popen = subprocess.Popen(
                sandbox.command_for(limits, inner_requests, inner_answers),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                cwd="/",
                env=ENVIRONMENT,
                pass_fds=(inner_requests, inner_answers),
                start_new_session=True,
            )
        except BaseException:
            os.close(self._requests)
            os.close(self._answers)
            raise
        finally:
            os.close(inner_requests)
            os.close(inner_answers)
        os.set_blocking(self._requests, False)
        self._open = [self._requests, self._answers]
        try:
            self._ended = self._watched(sandbox.name)
            self._open.append(self._ended)
            self._wait_until_ready(sandbox.name)
        except BaseException:
            self.kill()
            raise

    def ask(self, message: Any, seconds: float) -> Any:
        """Send a message and return the answer to it.

        Raises
        ------
        Died, TookTooLong
            When none arrives, or one that is too long or no JSON.
        """
        deadline = time.monotonic() + seconds
        content = json.dumps(message).encode()
        self._send(struct.pack(">I", len(content)) + content, deadline)
        return self._receive(deadline)

    def kill(self) -> None:
        """End the process and all that it started; once is enough."""
        if not self._open:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        self._popen.wait()
        while self._open:
            os.close(self._open.pop())
        assert self._popen.stderr is not None
        self._popen.stderr.close()

    def _watched(self, name: str) -> int:
        try:
            return os.pidfd_open(self._popen.pid)
        except OSError as error:  # refused by some containers
            raise InputError(
                f"sandbox {name}: expected that the end of a process can be waited for, found: "
                f"pidfd_open: {error.strerror}"
            ) from None

    def _wait_until_ready(self, name: str) -> None:
        try:
            _, kind, _, message, _ = self._receive(time.monotonic() + START_SECONDS)
        except (Died, TookTooLong) as error:
            kind, message = "silent", self._reason() or str(error)
        if kind != "ready":
            raise InputError(
                f"sandbox {name}: expected that a process starts in it, found: {message}"
            )

    def _reason(self) -> str:
        """Return the last line that the process wrote to its standard error."""
        assert self._popen.stderr is not None
        self._popen.kill()
        os.set_blocking(self._popen.stderr.fileno(), False)
        with contextlib.suppress(BlockingIOError):
            lines = os.read(self._popen.stderr.fileno(), REASON_BYTES).decode(errors="replace")
            return lines.strip().rpartition("\n")[2]
        return ""

    def _send(self, content: bytes, deadline: float) -> None:
        data = memoryview(content)
        for _ in self._events(self._requests, select.POLLOUT, deadline):
            try:
                data = data[os.write(self._requests, data) :]
            except BrokenPipeError as error:
                raise Died("the process reads no more") from error
            if not data:
                return

    def _receive(self, deadline: float) -> Any:
        found = bytearray()
        expected = 4
        for _ in self._events(self._answers, select.POLLIN, deadline):
            wanted = expected - len(found)
            part = os.read(self._answers, min(wanted, CHUNK_BYTES))
            if not part:
                raise Died(f"the process ended{self._exit_text()}")
            found += part
            if len(found) == expected == 4:
                expected += struct.unpack(">I", found)[0]
                if expected > self.most_bytes:
                    raise Died(f"the process said that it writes {expected} bytes")
            if len(found) == expected:
                break
        try:
            return json.loads(found[4:])
        except (ValueError, RecursionError) as error:
            raise Died("the process wrote what is no answer") from error

    def _events(self, descriptor: int, event: int, deadline: float) -> Iterator[None]:
        """Yield whenever the descriptor is ready; leave when the process or the time ends."""
        poll = select.poll()
        poll.register(descriptor, event)
        poll.register(self._ended, select.POLLIN)
        while True:
            left = deadline - time.monotonic()
            ready = dict(poll.poll(max(left, 0) * 1_000))
            if descriptor in ready:
                yield
            elif self._ended in ready:
                raise Died(f"the process ended{self._exit_text()}")
            if left <= 0:
                raise TookTooLong

    def _exit_text(self) -> str:
        code = self._popen.poll()
        return "" if code is None else f" with code {code}"
