"""Which sandbox a machine has: the first that a trial of what is forbidden finds closed."""

import os
import socket
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from fnsft.errors import InputError
from fnsft.evaluation.sandbox.bubblewrap import bubblewrap, bubblewrap_without_proc
from fnsft.evaluation.sandbox.candidate import Candidate
from fnsft.evaluation.sandbox.landlock import landlock, unconfined
from fnsft.evaluation.sandbox.process import Limits, Sandbox, Unavailable

BACKENDS: tuple[Callable[[], Sandbox], ...] = (bubblewrap, bubblewrap_without_proc, landlock)
TRIAL_LIMITS = Limits(seconds=20, processes=8, memory_mib=1_024)

# What it returns went through: each line tries one thing that a sandbox has to refuse.
TRIAL = """
import os, socket, time

def attempt(name, action):
    try:
        action()
        return [name]
    except OSError:
        return []

def processes(most):
    children = []
    try:
        for _ in range(most):
            children.append(os.fork())
            if children[-1] == 0:
                time.sleep(5)
                os._exit(0)
    finally:
        for child in children:
            os.kill(child, 9)

def trial(written, read, port, pid, most):
    return [
        *attempt("writing files", lambda: open(written, "w").close()),
        *attempt("reading files", lambda: open(read).close()),
        *attempt("changing modes", lambda: os.chmod(read, 0o666)),
        *attempt("connecting", lambda: socket.create_connection(("127.0.0.1", port), 1).close()),
        *attempt("signals", lambda: os.kill(pid, 0)),
        *attempt("processes without limit", lambda: processes(most)),
    ]
"""


def choose_sandbox(
    allow_unsandboxed: bool, backends: Sequence[Callable[[], Sandbox]] = BACKENDS
) -> Sandbox:
    """Return the first sandbox of this machine that holds.

    Parameters
    ----------
    allow_unsandboxed
        Without any, return none: programs can then do what this user can. It is said on stderr.
    backends
        What is tried, in this order; ours are bubblewrap and Landlock.

    Raises
    ------
    InputError
        When none holds, with the reason of each; and elsewhere than on Linux.
    """
    if sys.platform != "linux":
        raise InputError(
            f"programs of a model: expected Linux, found {sys.platform}; score them there"
        )
    reasons = []
    for backend in backends:
        try:
            sandbox = backend()
            open_doors = _open_doors(sandbox)
        except (Unavailable, InputError) as error:
            reasons.append(str(error))
            continue
        except OSError as error:
            reasons.append(f"no trial: {error}")
            continue
        if not open_doors:
            return sandbox
        reasons.append(f"{sandbox.name} does not refuse {', '.join(open_doors)}")
    found = "; ".join(dict.fromkeys(reasons))
    if not allow_unsandboxed:
        raise InputError(
            f"programs of a model: expected a sandbox to run them in, found none ({found}); "
            "install bubblewrap, or set allow_unsandboxed: true where nothing can be lost"
        )
    print(f"fnsft: programs of a model run WITHOUT A SANDBOX ({found})", file=sys.stderr)
    return unconfined()


def _open_doors(sandbox: Sandbox) -> list[str]:
    """Return what a program in the sandbox could do and should not, by trying it."""
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as server:
        # Another user could otherwise be refused for a wrong reason.
        Path(folder).chmod(0o777)
        secret = Path(folder, "secret")
        secret.touch(0o666)
        port, most = server.getsockname()[1], TRIAL_LIMITS.processes + 50
        args = [str(Path(folder, "written")), str(secret), port, os.getpid(), most]
        with Candidate(sandbox, TRIAL, "trial", TRIAL_LIMITS) as candidate:
            outcome = candidate.call(args, seconds=10)
    if outcome.kind != "returned" or not isinstance(outcome.value, list):
        raise Unavailable(f"{sandbox.name}: a trial ended as {outcome.kind} {outcome.message}")
    return [str(door) for door in outcome.value]
