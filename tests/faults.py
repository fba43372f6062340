"""Faults that tests inject, and commands in processes of their own to inject them into."""

import contextlib
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fnsft.cli.main import entry_point

# Each command is forked from a process that has imported what stages need, and run nothing.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["fnsft.training.finetuning", "fnsft.evaluation.loading"])


class Command:
    """``fnsft`` in a process of its own; what it prints goes to ``log``.

    ``spare_memory`` bytes are all that it may have beside what it has imported.
    """

    def __init__(self, words: list[str], log: Path, spare_memory: int | None = None) -> None:
        self.log = log
        log.unlink(missing_ok=True)
        self.process = SERVER.Process(target=_run, args=(words, str(log), spare_memory))
        self.process.start()

    @property
    def said(self) -> str:
        """What it has printed."""
        return self.log.read_text() if self.log.exists() else ""

    def signal(self, number: int) -> None:
        """Send a signal to the process, if it lives."""
        assert self.process.pid is not None
        if self.process.is_alive():
            os.kill(self.process.pid, number)

    def code(self, seconds: float = 300) -> int:
        """Wait for the end and return the exit code, negative of a signal."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, f"it goes on: {self.said}"
        return self.process.exitcode

    def until(self, is_so: Callable[[], object], seconds: float = 300) -> None:
        """Wait until something is so while the command lives."""
        wait_until(lambda: is_so() or not self.process.is_alive(), seconds)
        assert self.process.is_alive(), self.said


def _run(words: list[str], log: str, spare_memory: int | None) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    if spare_memory is not None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + spare_memory,) * 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
    sys.argv = ["fnsft", *words]
    entry_point()


def wait_until(is_so: Callable[[], object], seconds: float = 300) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.005)


def one_line(said: str, stage: str) -> str:
    """Return the one line that a command ends with; there is no traceback above it."""
    assert "Traceback" not in said, said
    line = said.splitlines()[-1]
    assert line.startswith(f"fnsft {stage}: "), said
    return line


class Disk:
    """A small disk of its own, and how full it is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    def fill(self, free: int) -> None:
        """Leave this many bytes free."""
        found = os.statvfs(self.folder)
        self._filler.write_bytes(bytes(max(0, found.f_bavail * found.f_frsize - free)))

    def clear(self) -> None:
        """Take away what fills it."""
        self._filler.unlink()

    def files(self) -> dict[str, bytes]:
        """Return all files on it but the filler."""
        return {name: found for name, found in files_in(self.folder).items() if name != "filler"}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Eight MiB of memory as a disk."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "fnsft-faults", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}; run as root")
    yield Disk(folder)
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def memory_group() -> Iterator[Path]:
    """A control group: processes that are put into it get 4 MiB more, and no byte beyond."""
    hierarchies = {"/sys/fs/cgroup/memory": "memory.limit_in_bytes", "/sys/fs/cgroup": "memory.max"}
    for parent, limit in hierarchies.items():
        folder = Path(parent) / f"fnsft-faults-{os.getpid()}"
        with contextlib.suppress(OSError):
            folder.mkdir()
            (folder / limit).write_text(str(4 << 20))
            break
        with contextlib.suppress(OSError):
            folder.rmdir()
    else:
        pytest.skip("no control group of memory can be made here; run as root")
    yield folder
    folder.rmdir()


def files_in(folder: Path) -> dict[str, bytes]:
    """Return the files below a folder by their names there, manifests left out."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in files
        if not path.name.endswith(".manifest.json")
    }
