"""Landlock: a process that gives up files, network and calls by itself; and no sandbox at all."""

import os
from typing import Any

from fnsft.evaluation.sandbox.confinement import landlock_version
from fnsft.evaluation.sandbox.interpreter import (
    FLAGS,
    FOLDER,
    interpreter,
    numpy_folders,
    readable,
)
from fnsft.evaluation.sandbox.process import Sandbox, Unavailable


def landlock() -> Sandbox:
    """Return the sandbox of the kernel's Landlock, without a program's help.

    A program reads the interpreter and numpy, and writes nothing. A filter of system calls
    refuses sockets and what Landlock leaves open. Where the kernel allows it, network, processes
    and messages are a namespace of its own; else signals to others are what Landlock refuses from
    version 6 on, or what another user may not send. Names, sizes and times of the host's files
    stay visible.

    Raises
    ------
    Unavailable
        When the kernel has none.
    """
    version = landlock_version()
    if version == 0:
        raise Unavailable("the kernel has no Landlock")
    packages = numpy_folders()
    rules: dict[str, Any] = {
        "readable": [*readable(), *map(str, packages), "/dev/urandom", "/dev/zero"],
        "listable": [str(packages[0].parent)],
        "writable": ["/dev/null"],
    }
    return _by_itself(f"landlock abi {version}", rules)


def unconfined() -> Sandbox:
    """Return what is no sandbox: another user where this is root, and limits of resources."""
    return _by_itself("none", None)


def _by_itself(name: str, rules: dict[str, Any] | None) -> Sandbox:
    inside = {
        "supervised": True,
        "landlock": rules,
        "forbid_calls": rules is not None,
        "packages": str(numpy_folders()[0].parent),
    }
    command = (str(interpreter()), *FLAGS, os.fspath(FOLDER / "worker.py"))
    return Sandbox(name, command, inside)
