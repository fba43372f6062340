"""What every stage writes beside its output: how it came to be, and what it cost."""

import contextlib
import dataclasses
import importlib.metadata
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fnsft import __version__
from fnsft.artifacts.identity import identity_of_input
from fnsft.artifacts.storage import (
    manifest_path,
    require_elsewhere,
    unfinished_path,
    write_json,
)
from fnsft.config.settings import Settings

RECORDED_PACKAGES = ("torch", "transformers", "trl", "peft", "numpy", "numba", "scikit-learn")


@dataclasses.dataclass
class StageRun:
    """A stage while it runs; ``notes`` are counts and findings that belong to its output."""

    notes: dict[str, Any] = dataclasses.field(default_factory=dict)

    def note(self, **findings: Any) -> None:
        """Record findings (JSON values) in the manifest."""
        self.notes.update(findings)


@contextlib.contextmanager
def recorded_stage(
    settings: Settings, inputs: dict[str, Path], output: Path, main: bool = True
) -> Iterator[StageRun]:
    """Run a stage's body and, when it went well, write the manifest of its output.

    Of several processes that share a stage the ``main`` one writes it. Wall time is in
    seconds; peak memory is the process's largest resident set, in MiB.

    Raises
    ------
    InputError
        For an output that would take the place of an input, before anything is done.
    """
    require_elsewhere(output, *inputs.values())
    started = time.time()
    clock = time.perf_counter()
    run = StageRun()
    yield run
    if not main:
        return
    write_json(
        manifest_path(output),
        {
            "stage": settings.stage,
            "stage_version": settings.version,
            "settings": dataclasses.asdict(settings),
            "inputs": {name: identity_of_input(path) for name, path in inputs.items()},
            "notes": run.notes,
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
            "wall_seconds": round(time.perf_counter() - clock, 3),
            "peak_memory_mib": peak_memory_mib(),
            "fnsft": __version__,
            "git_commit": _git_commit(),
            "packages": _package_versions(),
        },
    )
    unfinished_path(output).unlink(missing_ok=True)


def peak_memory_mib() -> float:
    """Return the largest resident set of this process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1 << 20 if sys.platform == "darwin" else 1 << 10), 1)


def _package_versions() -> dict[str, str]:
    versions = {"python": sys.version.split()[0]}
    for package in RECORDED_PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


def _git_commit() -> str | None:
    source = Path(__file__).parent
    command = ["git", "-C", str(source), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None
