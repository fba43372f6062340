"""What a Python needs to run a program: its own files, the system's libraries, and numpy."""

import importlib.util
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent  # worker.py lies in it, which runs inside
# Without site-packages but numpy's, without the user's, and without the script's own folder.
FLAGS = ("-S", "-s", "-P")
SYSTEM = ("/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache")


def interpreter() -> Path:
    """Return the interpreter itself, which in a virtual environment is a link."""
    return Path(sys.executable).resolve()


def readable() -> list[str]:
    """Return the folders and files that it reads, without numpy."""
    own = sorted({sys.base_prefix, str(Path(sys.base_prefix).resolve())})
    outside = [] if any(map(interpreter().is_relative_to, own)) else [str(interpreter())]
    return [path for path in (*SYSTEM, *own, *outside) if Path(path).exists()]


def numpy_folders() -> list[Path]:
    """Return numpy's own folder and the one of the libraries that its wheels bring along."""
    found = importlib.util.find_spec("numpy")
    assert found is not None and found.origin is not None  # a dependency of this package
    package = Path(found.origin).resolve().parent
    libraries = package.with_name("numpy.libs")
    return [package, libraries] if libraries.is_dir() else [package]
