"""Runs a script as where little is installed: what ``benchmarks/gpu.py`` may need, and fnsft.

    python bare_imports.py SCRIPT [ARGUMENT ...]

Packages that are not found are those that none of ``INSTALLED`` requires.
"""

import re
import runpy
import sys
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from typing import Any

INSTALLED = ("torch", "triton", "transformers", "numpy", "numba", "setuptools")


def with_requirements(names: tuple[str, ...]) -> set[str]:
    """Return the distributions and all that they require, without extras."""
    found, wanted = set(), list(names)
    while wanted:
        name = normalised(wanted.pop())
        if name in found:
            continue
        found.add(name)
        try:
            lines = requires(name) or []
        except PackageNotFoundError:  # for another system
            continue
        wanted += [re.match(r"[\w.-]+", line)[0] for line in lines if "extra ==" not in line]
    return found


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


class Bare:
    """Finds what is on the path, but for the top of packages that count as not installed."""

    def __init__(self) -> None:
        installed = with_requirements(INSTALLED)
        self.find_distributions = PathFinder.find_distributions
        self.hidden = {
            package
            for package, owners in packages_distributions().items()
            if not installed & {normalised(owner) for owner in owners}
        } - {"fnsft"}

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if path is None and name in self.hidden:
            return None
        return PathFinder.find_spec(name, path, target)


def main() -> None:
    place = sys.meta_path.index(PathFinder)
    sys.meta_path[place] = Bare()
    sys.argv = sys.argv[1:]
    sys.path[0] = sys.argv[0].rpartition("/")[0]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
