"""Landlock: of all files, a program reads those below some folders and writes none.

It runs inside, with the standard library alone. Source of the numbers:
linux/landlock.h and Documentation/userspace-api/landlock.rst.
"""

import ctypes
import os
import stat
import struct

from fnsft.evaluation.sandbox.confinement import (
    CREATE_RULESET,
    LIBC,
    checked,
    landlock_version,
)

ADD_RULE, RESTRICT_SELF, PATH_BENEATH = 445, 446, 1

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
# Rights of a version: bits of file access, of TCP, and what is kept to one's own (abstract
# sockets, signals).
FILE_BITS = {1: 13, 2: 14, 3: 15, 5: 16}
TCP_BITS, OWN_BITS = {4: 2}, {6: 2}


def restrict_files(readable: list[str], listable: list[str], writable: list[str]) -> None:
    """Refuse every file but ``readable`` and what is below, for good and in children too.

    ``listable`` are folders whose names may be listed, ``writable`` single files. From
    version 4 on TCP is refused too, from 6 on signals to others. It needs ``no_new_privs``.
    """
    version = landlock_version()
    handled = _newest(FILE_BITS, version)
    attributes = struct.pack("QQQ", handled, _newest(TCP_BITS, version), _newest(OWN_BITS, version))
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = checked(
        LIBC.syscall(CREATE_RULESET, attributes, ctypes.c_size_t(size), ctypes.c_uint(0)), "ruleset"
    )
    for path in readable:
        _allow(ruleset, path, EXECUTE | READ_FILE | READ_DIR)
    for path in listable:
        _allow(ruleset, path, READ_DIR)
    for path in writable:
        _allow(ruleset, path, READ_FILE | WRITE_FILE)
    checked(LIBC.syscall(RESTRICT_SELF, ruleset, ctypes.c_uint(0)), "landlock_restrict_self")
    os.close(ruleset)


def _newest(bits: dict[int, int], version: int) -> int:
    return (1 << max((n for since, n in bits.items() if since <= version), default=0)) - 1


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # what is not there needs no right
    try:
        if not stat.S_ISDIR(os.fstat(handle).st_mode):
            rights &= ~READ_DIR
        rule = struct.pack("=Qi", rights, handle)
        arguments = (ctypes.c_uint(PATH_BENEATH), rule, ctypes.c_uint(0))
        checked(LIBC.syscall(ADD_RULE, ruleset, *arguments), f"landlock rule for {path}")
    finally:
        os.close(handle)
