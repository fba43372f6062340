"""Locks that end with the process that holds them, however it ends.

They are the kernel's, on open files. Where a file system has none, nobody is kept out.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from fnsft.artifacts.storage import HOST
from fnsft.errors import InputError

_HEADS: list[IO[str]] = []  # open, and so locked, as long as this process lives


@contextlib.contextmanager
def held(file: Path, what: str) -> Iterator[None]:
    """Hold a lock file while the body runs; it is there as long as it is held.

    Raises
    ------
    InputError
        When another process holds it; ``what`` says what is in use.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = _acquired(file, what)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)  # before it is let go: who opens it later makes a new one
        lock.close()


def _acquired(file: Path, what: str) -> IO[str]:
    while True:
        lock = file.open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "another process"
            lock.close()
            raise InputError(
                f"{what}: expected nobody to use it, found {holder}; wait for its end or end it "
                "(kill, not kill -9), then run the same command again"
            ) from None
        except OSError:
            break
        if _is_still(file, lock):
            break
        lock.close()  # its last holder has removed it meanwhile
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {HOST}")
    lock.flush()
    return lock


def _is_still(file: Path, lock: IO[str]) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(file.stat(), os.fstat(lock.fileno()))
    return False


def join_heads(folder: Path) -> None:
    """Count this process among the live heads of a workflow, and clear locks that dead ones left.

    Snakemake's own locks outlive a head that is killed. Every head shares a lock here; one that
    can have it alone knows that no other lives. Where the last head ran on another machine, whose
    locks may not reach this one, all stays as it is.

    Parameters
    ----------
    folder
        ``.snakemake`` of the working directory.
    """
    with contextlib.suppress(OSError):  # a folder that cannot be written, or without locks
        folder.mkdir(exist_ok=True)
        heads = (folder / "fnsft.heads").open("a+")
        _HEADS.append(heads)
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(heads, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _clear(folder / "locks", heads)
        fcntl.flock(heads, fcntl.LOCK_SH)


def _clear(locks: Path, heads: IO[str]) -> None:
    """Remove Snakemake's locks, in the absence of other heads, if the last one was of this host."""
    found = list(locks.glob("*.lock"))
    heads.seek(0)
    if found and heads.read() != HOST:
        return
    for lock in found:
        lock.unlink(missing_ok=True)
    heads.truncate(0)
    heads.write(HOST)
    heads.flush()
