"""Files that appear whole or not at all, and what identifies them."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from fnsft.artifacts.exhaustion import lack_of_room
from fnsft.errors import InputError

MIB = 1 << 20
HOST = re.sub(r"[^\w-].*", "", socket.gethostname())[:32]
PARTIAL = re.compile(r"\.(?P<name>.+)\.partial-(?P<host>[\w-]*)-(?P<pid>\d+)")
ABANDONED_SECONDS = 24 * 3600  # without a change, on a machine whose processes cannot be seen
SAMPLES = 64  # MiB of a large file that stand for it


def manifest_path(output: Path) -> Path:
    """Return where the manifest of ``output`` lies."""
    return output.with_name(output.name + ".manifest.json")


def unfinished_path(output: Path) -> Path:
    """Return what lies beside a folder from its renaming until its manifest is written."""
    return output.with_name(f".{output.name}.unfinished")


@contextlib.contextmanager
def written_whole(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary sibling of ``path`` (file or folder) and rename it when all went well.

    On an error the sibling is removed and ``path`` stays as it was. What killed processes have
    left of the same output is removed first.

    Raises
    ------
    InputError
        As :func:`require_replaceable`, unless ``replace`` says that ``path`` may go; and when the
        disk is full.
    """
    if not replace:
        require_replaceable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path)
    partial = path.with_name(f".{path.name}.partial-{HOST}-{os.getpid()}")
    _remove(partial)  # in a container, that of a process that had the same number
    try:
        with reported_room(path):
            yield partial
            _settle(partial)
        if path.exists() and path.is_dir() != partial.is_dir():
            kinds = ("a folder", "a file") if partial.is_dir() else ("a file", "a folder")
            raise InputError(f"{path}: expected {kinds[0]} or none, found {kinds[1]}; name another")
        if partial.is_dir() and not replace:
            # A kill from here on leaves a folder that is ours and has no manifest yet.
            unfinished_path(path).touch()
            manifest_path(path).unlink(missing_ok=True)
        if path.is_dir():
            shutil.rmtree(path)
        os.replace(partial, path)
    except BaseException:
        _remove(partial)
        raise


@contextlib.contextmanager
def reported_room(path: Path) -> Iterator[None]:
    """Turn a full disk, whichever library finds it, into a line that names ``path``."""
    try:
        yield
    except Exception as error:
        inside = any(PARTIAL.fullmatch(part) for part in path.parent.parts)
        reason = lack_of_room(error)
        if inside or reason is None:  # of what lies inside, the outermost is named
            raise
        raise InputError(
            f"{path}: expected room to write it, found none ({reason}); free some, and "
            "run the same command again"
        ) from error


def require_elsewhere(output: Path, *inputs: Path) -> None:
    """Refuse an output that would take the place of what it is made from."""
    for path in inputs:
        if path.resolve().is_relative_to(output.resolve()):
            raise InputError(f"{output}: expected another place than {path}; name another output")


def require_suffix(output: Path, suffix: str) -> None:
    """Refuse an output whose name ends otherwise: readers go by the name."""
    if output.suffix != suffix:
        raise InputError(f"{output}: expected a name that ends in {suffix}; rename it")


def require_replaceable(path: Path) -> None:
    """Refuse a folder with files that no stage made: there is no manifest beside it."""
    holds_files = path.is_dir() and any(file.is_file() for file in path.rglob("*"))
    if holds_files and not manifest_path(path).exists() and not unfinished_path(path).exists():
        raise InputError(f"{path}: holds files that fnsft did not make; name another folder")


def _settle(path: Path) -> None:
    """Give files the mode of new files, and have them on the disk before they get their name.

    Safetensors leaves files to their owner alone. A node that dies keeps names longer than
    contents, and some file systems say only here that they are full.
    """
    mask = os.umask(0)
    os.umask(mask)
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file():
            file.chmod(0o666 & ~mask)
            with file.open("rb") as stream:
                os.fsync(stream.fileno())


def _remove_abandoned(path: Path) -> None:
    """Remove what processes that are no more have left of this output."""
    for sibling in path.parent.iterdir():
        found = PARTIAL.fullmatch(sibling.name)
        if found and found["name"] == path.name and _is_abandoned(sibling, found):
            _remove(sibling)


def _is_abandoned(partial: Path, name: re.Match[str]) -> bool:
    if name["host"] == HOST:
        return not _lives(int(name["pid"]))
    with contextlib.suppress(OSError):  # it may go meanwhile
        changed = max(file.stat().st_mtime for file in (partial, *partial.rglob("*")))
        return time.time() - changed > ABANDONED_SECONDS
    return False


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def require_space(output: Path, n_bytes: int) -> None:
    """Refuse when the disk of ``output``, whose folder is there, has less than this free."""
    free = shutil.disk_usage(output.parent).free
    if n_bytes > free:
        raise InputError(
            f"{output}: expected room for {size_in_words(n_bytes)}, found {size_in_words(free)} "
            "free; use another disk, or less of the data"
        )


def size_in_words(n_bytes: int) -> str:
    """Return a size such as ``1.5 GiB``."""
    mib = n_bytes / MIB
    return f"{mib:,.1f} MiB" if mib < 1024 else f"{mib / 1024:,.1f} GiB"


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, whole."""
    with written_whole(path) as partial:
        partial.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_text(path: Path) -> str:
    """Read a text file; one that is missing or not UTF-8 is an ``InputError``."""
    try:
        return existing(path).read_text()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected text in UTF-8, found other bytes ({error})") from None


def read_json(path: Path) -> Any:
    """Read a JSON file; a missing or damaged one is an ``InputError``."""
    try:
        return json.loads(existing(path).read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: expected JSON, found damage ({error}); make it anew") from None


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object a line, whole."""
    with written_whole(path) as partial, partial.open("w") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def existing(path: Path) -> Path:
    """Return ``path``, or say that it is not there and what its folder does hold."""
    if path.exists():
        return path
    folder = path.parent
    while not folder.exists():
        folder = folder.parent
    neighbours = sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))[:5]
    listing = ", ".join(neighbours) or "nothing"
    raise InputError(f"{path}: no such file or folder; {folder}/ holds {listing}")


def sha256_of(path: Path) -> str:
    """Hash a file, or every file below a folder with its relative name."""
    digest = hashlib.sha256()
    for file in _files_of(path):
        if path.is_dir():
            digest.update(str(file.relative_to(path)).encode())
        with file.open("rb") as stream:
            while chunk := stream.read(MIB):
                digest.update(chunk)
    return digest.hexdigest()


def sampled_sha256_of(path: Path) -> str:
    """Hash, of every file, its relative name, its size and 64 evenly spaced MiB.

    Enough to tell apart what stages write, at a cost that does not grow with it.
    """
    digest = hashlib.sha256()
    for file in _files_of(path):
        size = file.stat().st_size
        digest.update(f"{file.relative_to(path) if path.is_dir() else ''} {size}".encode())
        with file.open("rb") as stream:
            for place in range(SAMPLES):
                stream.seek(max(0, size - MIB) * place // (SAMPLES - 1))
                digest.update(stream.read(MIB))
    return digest.hexdigest()


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files below a folder."""
    return sum(file.stat().st_size for file in _files_of(path))


def _files_of(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
