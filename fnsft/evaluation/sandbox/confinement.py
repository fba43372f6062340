"""What a process gives up before it runs somebody's program: Linux, by ctypes alone.

It runs inside, before the program, with the standard library alone. A step that the kernel
refuses raises OSError, unless the step says otherwise.
"""

import contextlib
import ctypes
import os
import resource
import struct

LIBC = ctypes.CDLL(None, use_errno=True)

# prctl's options, and unshare's flags (linux/prctl.h, linux/sched.h).
PR_SET_PDEATHSIG, PR_SET_KEEPCAPS, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 8, 22, 38
NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
CAP_DAC_READ_SEARCH = 2
# Landlock's numbers of calls are alike on every architecture (linux/landlock.h).
CREATE_RULESET, WANT_VERSION = 444, 1

# Numbers that no login, service or container range has; a kernel without them has nobody.
FIRST_UID, NOBODY = 2_000_000_000, 65_534


def checked(result: int, step: str) -> int:
    """Return the result of a C function; raise OSError when it is negative."""
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{step}: {os.strerror(error)}")
    return result


def prctl(option: int, *arguments: int) -> None:
    """Set one property of this process."""
    padded = [ctypes.c_ulong(value) for value in (*arguments, 0, 0, 0, 0)[:4]]
    checked(LIBC.prctl(option, *padded), f"prctl {option}")


def landlock_version() -> int:
    """Return the kernel's version of Landlock; 0 when it has none."""
    version = LIBC.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint(WANT_VERSION))
    return max(int(version), 0)


def limit_resources(limits: dict) -> None:
    """Set the limits that bind one process and its children, each for itself but processes."""
    mib = 2**20
    wanted = {
        resource.RLIMIT_AS: limits["memory_mib"] * mib,
        resource.RLIMIT_CPU: int(limits["seconds"]) + 10,
        resource.RLIMIT_NPROC: limits["processes"],
        resource.RLIMIT_FSIZE: limits["file_mib"] * mib,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    for what, value in wanted.items():
        hard = resource.getrlimit(what)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(what, (value, value))


def leave_namespaces() -> bool:
    """Leave the host's network, processes and messages, for children; False: not allowed."""
    uid, gid = os.getuid(), os.getgid()
    flags = NEWNET | NEWIPC | NEWPID | NEWUTS
    if LIBC.unshare(flags if uid == 0 else flags | NEWUSER) != 0:
        return False
    maps = {"setgroups": "deny", "uid_map": f"{uid} {uid} 1", "gid_map": f"{gid} {gid} 1"}
    for name, text in maps.items() if uid != 0 else ():
        with contextlib.suppress(OSError), open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    return True


def threads_of_user() -> int:
    """Return how many threads the user of this process has: those that RLIMIT_NPROC counts."""
    total = 0
    for process in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if os.stat(f"/proc/{process}").st_uid == os.getuid():
                total += len(os.listdir(f"/proc/{process}/task"))
    return total


def drop_privileges(number: int, keep_reading: bool) -> None:
    """Become a user that owns nothing, where this is root, and lose every capability.

    RLIMIT_NPROC does not bind root. A container may have a single user, who stays itself: whether
    limits bind it is for a trial to tell. ``keep_reading`` leaves root the capability to read what
    others may not, where it has it: an interpreter may lie in its home. It is for processes that
    Landlock confines to some folders.
    """
    kept = 0
    if os.getuid() == 0:
        kept = keep_reading << CAP_DAC_READ_SEARCH
        prctl(PR_SET_KEEPCAPS, keep_reading)
        with contextlib.suppress(OSError):
            os.setgroups([])
            _become(FIRST_UID + number)
    try:
        _set_capabilities(kept)
    except PermissionError:
        _set_capabilities(0)
    prctl(PR_SET_NO_NEW_PRIVS, 1)


def _become(uid: int) -> None:
    try:
        os.setresgid(uid, uid, uid)
    except OSError:  # a container that maps few users
        uid = NOBODY
        os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def _set_capabilities(mask: int) -> None:
    version_3 = struct.pack("II", 0x20080522, 0)
    low = struct.pack("III", mask, mask, 0)  # effective, permitted, inheritable
    checked(LIBC.capset(version_3, low + bytes(12)), "capset")
