"""Compiled kernels that are kept: found again, never another one's, and never in the way."""

import fcntl
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from numba.core.caching import IndexDataCacheFile
from numba.core.dispatcher import Dispatcher

from fnsft.compilation import LOCK

SOURCE = """
from fnsft.compilation import kernel

@kernel()
def twice(number):
    return {factor} * number

for number in ({numbers}):
    print(twice(number), twice._cache_hits.total())
"""


def run(folder: Path, numbers: str, factor: int = 2, **environment: str) -> list[str]:
    """Run a module with a kernel in a process of its own, and return what it prints."""
    module = folder / "doubling.py"
    text = SOURCE.format(factor=factor, numbers=numbers)
    if not module.exists() or module.read_text() != text:
        module.write_text(text)
    done = subprocess.run(
        [sys.executable, "-c", "import doubling"],
        cwd=folder,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"} | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[:-1]


def cached(folder: Path, kind: str) -> list[Path]:
    return sorted((folder / "__pycache__").glob(f"*.{kind}"))


def test_a_second_process_compiles_nothing_and_another_source_is_noticed(tmp_path: Path) -> None:
    assert run(tmp_path, "3, 4") == ["6 0", "8 0"]
    assert run(tmp_path, "3, 4") == ["6 1", "8 1"]
    assert run(tmp_path, "3, 4", factor=5) == ["15 0", "20 0"]


@pytest.mark.parametrize(("kind", "content"), [("nbi", b""), ("nbc", b"\x80\x05half")])
def test_a_damaged_file_is_compiled_anew_and_replaced(
    tmp_path: Path, kind: str, content: bytes
) -> None:
    assert run(tmp_path, "3,") == ["6 0"]
    (damaged,) = cached(tmp_path, kind)
    damaged.write_bytes(content)
    assert run(tmp_path, "3,") == ["6 0"]
    assert run(tmp_path, "3,") == ["6 1"]


def test_one_process_at_a_time_saves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "doubling_here.py").write_text(SOURCE.format(factor=2, numbers="3,"))
    monkeypatch.syspath_prepend(tmp_path)
    save, seen = IndexDataCacheFile.save, []

    def look(self: IndexDataCacheFile, *arguments: object) -> None:
        with open(tmp_path / "__pycache__" / LOCK) as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        seen.append(arguments)
        save(self, *arguments)

    monkeypatch.setattr(IndexDataCacheFile, "save", look)
    importlib.import_module("doubling_here")
    assert len(seen) == len(cached(tmp_path, "nbc")) == 1


def test_where_nothing_can_be_saved_kernels_compile_all_the_same(tmp_path: Path) -> None:
    assert run(tmp_path, "3,") == ["6 0"]
    for path in cached(tmp_path, "nb?"):
        path.unlink()
    (tmp_path / "__pycache__" / LOCK).unlink()
    (tmp_path / "__pycache__" / LOCK).mkdir()  # root may write anywhere, but not into this
    assert run(tmp_path, "3,") == ["6 0"]
    assert not cached(tmp_path, "nb?")


def test_kernels_call_kernels_of_their_own_file_alone(repository: Path) -> None:
    kernels: list[Dispatcher] = []
    for path in (repository / "fnsft").rglob("*.py"):
        if n_kernels := len(re.findall(r"^@kernel\(", path.read_text(), re.M)):
            name = ".".join(path.relative_to(repository).with_suffix("").parts)
            found = vars(importlib.import_module(name)).values()
            of_file = [value for value in found if isinstance(value, Dispatcher)]
            assert len(of_file) == n_kernels
            kernels += of_file
    assert kernels
    for dispatcher in kernels:
        function = dispatcher.py_func
        called = [function.__globals__.get(name) for name in function.__code__.co_names]
        for other in called:
            if isinstance(other, Dispatcher):
                assert other.py_func.__module__ == function.__module__, function.__name__
