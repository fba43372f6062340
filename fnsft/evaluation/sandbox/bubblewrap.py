"""Bubblewrap: a process in namespaces of its own, with the few files that it needs, read-only."""

import os
import re
import shutil
import subprocess
from pathlib import Path

from fnsft.evaluation.sandbox.interpreter import (
    FLAGS,
    FOLDER,
    interpreter,
    numpy_folders,
    readable,
)
from fnsft.evaluation.sandbox.process import ENVIRONMENT, SIZE, Sandbox, Unavailable

INSIDE = "/inside"
PACKAGES = "/packages"


def bubblewrap(own_proc: bool = True) -> Sandbox:
    """Return the sandbox of the ``bwrap`` in PATH.

    There is no home, no working directory, no data and no network in it, and no process but its
    own. What it writes to ``/tmp`` is in memory, small, and ends with it; a bubblewrap that cannot
    bound it has nowhere to write.

    Parameters
    ----------
    own_proc
        Mount a ``/proc`` of its own; many containers do not allow it, and few programs need it.

    Raises
    ------
    Unavailable
        When there is none.
    """
    program = shutil.which("bwrap")
    if program is None:
        raise Unavailable("no bwrap in PATH")
    version = _said(program, "--version")
    name = f"bubblewrap {re.sub('[^0-9.]', '', version)}"
    sized = "--size" in _said(program, "--help")
    command = [program, *_namespaces(), *_files(), *(_temporary() if sized else [])]
    command += ["--proc", "/proc"] if own_proc else []
    command += ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/tmp", "--clearenv"]
    for variable, value in ENVIRONMENT.items():
        command += ["--setenv", variable, value]
    command += ["--", str(interpreter()), *FLAGS, f"{INSIDE}/worker.py"]
    inside = {"supervised": False, "landlock": None, "forbid_calls": True, "packages": PACKAGES}
    return Sandbox(name, tuple(command), inside)


def bubblewrap_without_proc() -> Sandbox:
    """Return the same without a ``/proc``."""
    return bubblewrap(own_proc=False)


def _said(program: str, flag: str) -> str:
    return subprocess.run([program, flag], capture_output=True, text=True, check=False).stdout


def _namespaces() -> list[str]:
    """Return the flags; root has no namespace of users, in which its processes would be root's.

    RLIMIT_NPROC does not bind root's processes, whatever number they have inside: the worker
    becomes another user for real, which a namespace of one user does not let it.
    """
    shared = "--die-with-parent --new-session --hostname sandbox --unshare-ipc --unshare-pid"
    shared += " --unshare-net --unshare-uts --unshare-cgroup-try"
    users = "" if os.getuid() == 0 else " --unshare-user --uid 65534 --gid 65534"
    return (shared + users).split()


def _files() -> list[str]:
    mounts = {path: path for path in readable()} | {INSIDE: str(FOLDER)}
    mounts |= {f"{PACKAGES}/{folder.name}": str(folder) for folder in numpy_folders()}
    flags = []
    # Bubblewrap takes the mode of a parent from the host, where it may be root's alone.
    for parent in sorted({str(parent) for path in mounts for parent in Path(path).parents} - {"/"}):
        flags += ["--dir", parent]
    for path, source in mounts.items():
        flags += ["--ro-bind", source, path]
    return [*flags, "--dev", "/dev", "--dir", "/tmp"]


def _temporary() -> list[str]:
    flags = []
    for folder in ("/tmp", "/dev/shm"):
        flags += ["--perms", "1777", "--size", SIZE, "--tmpfs", folder]
    return flags
