"""What stands around a run: packages, disks, the hub, TeX, the workflow's profile."""

import importlib.metadata
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from fnsft.artifacts.storage import size_in_words
from fnsft.training.machine import Finding

if TYPE_CHECKING:
    from packaging.requirements import Requirement

DISTRIBUTION = "fnsft"
DISK_BYTES = 10 << 30  # a model of 1B parameters in float32 with the checkpoints of a run (ours)
EXTRAS = {  # those a user may want; the others are for who works on the package
    "gguf": "to read GGUF files",
    "quantised": "to train on bases in 4 or 8 bits",
    "gpu": "to see the load of CUDA devices",
    "sentence": "to compare descriptions by a sentence model",
}
TEX_PROGRAMS = ("latexmk", "pdflatex", "tectonic")  # as fnsft typeset takes them
TEX_PACKAGES = ("booktabs", "multirow", "threeparttable", "adjustbox", "graphicx", "geometry")


def packages() -> Iterable[Finding]:
    """Compare installed versions with the ranges that this package declares."""
    needed, optional = _requirements()
    good = 0
    for requirement in needed:
        if _fits(requirement):
            good += 1
        else:
            yield _misfit(requirement)
    yield Finding("packages", "ok", f"{good} of {len(needed)} in range; torch {_version('torch')}")
    for extra, requirements in optional.items():
        lacking = [requirement for requirement in requirements if not _fits(requirement)]
        if not requirements:
            continue
        if lacking:
            remedy = f"pip install '{DISTRIBUTION}[{extra}]' {EXTRAS[extra]}"
            found = ", ".join(f"{r.name} {_version(r.name) or 'is not there'}" for r in lacking)
            yield Finding(f"[{extra}]", "missing", found, remedy)
        else:
            found = ", ".join(f"{r.name} {_version(r.name)}" for r in requirements)
            yield Finding(f"[{extra}]", "ok", found)


def _requirements() -> "tuple[list[Requirement], dict[str, list[Requirement]]]":
    """Return what is needed by default, and by each of the extras."""
    from packaging.requirements import Requirement

    declared = importlib.metadata.requires(DISTRIBUTION) or []
    found = [Requirement(text) for text in declared]
    needed = [r for r in found if r.marker is None or r.marker.evaluate({"extra": ""})]
    of_extras = [r for r in found if r not in needed]
    optional = {
        extra: [r for r in of_extras if r.marker and r.marker.evaluate({"extra": extra})]
        for extra in EXTRAS
    }
    return needed, optional


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _fits(requirement: "Requirement") -> bool:
    version = _version(requirement.name)
    return version is not None and requirement.specifier.contains(version, prereleases=True)


def _misfit(requirement: "Requirement") -> Finding:
    version = _version(requirement.name)
    wanted = f"{requirement.name}{requirement.specifier}"
    return Finding(
        requirement.name,
        "warning" if version else "missing",
        f"{version or 'not installed'}; expected {requirement.specifier or 'any version'}",
        f"pip install '{wanted}'",
        needed=True,
    )


def disks() -> Iterable[Finding]:
    """Say how much room there is where runs and the hub's files go."""
    from huggingface_hub import constants

    for subject, folder in (("disk", Path.cwd()), ("hub cache", Path(constants.HF_HOME))):
        place = next(p for p in (folder, *folder.parents) if p.exists())
        free = shutil.disk_usage(place).free
        found = f"{folder}: {size_in_words(free)} free"
        if not os.access(place, os.W_OK):
            remedy = "choose a folder of yours" + (" by HF_HOME" if subject == "hub cache" else "")
            yield Finding(subject, "warning", f"{found}, but may not be written", remedy)
        elif free < DISK_BYTES:
            remedy = f"{size_in_words(DISK_BYTES)} are soon used: make room, or use another disk"
            yield Finding(subject, "warning", found, remedy)
        else:
            yield Finding(subject, "ok", found)


def hub() -> Iterable[Finding]:
    """Say whether the hub may be reached, and where a token comes from; never the token."""
    from fnsft.hub.access import is_offline
    from fnsft.hub.tokens import HOW_TO_LOG_IN, find_token

    yield Finding("hub", "ok", f"HF_HUB_OFFLINE is {'on' if is_offline() else 'off'}")
    token = find_token()
    if token is not None:
        yield Finding("hub token", "ok", f"from {token.source}; fnsft check-hf-token tries it")
    else:
        remedy = f"open models need none; for others {HOW_TO_LOG_IN}"
        yield Finding("hub token", "missing", "none", remedy)


def tex() -> Iterable[Finding]:
    """Say whether the tables and the paper can be typeset."""
    program = next((name for name in TEX_PROGRAMS if shutil.which(name)), None)
    if program is None:
        programs = ", ".join(TEX_PROGRAMS)
        remedy = f"tables are written, but typesetting them or the paper needs one of {programs}"
        yield Finding("TeX", "missing", "no program", remedy)
        return
    lacking = list(_lacking_styles()) if program != "tectonic" else []  # which fetches them itself
    if lacking:
        remedy = "install them by the TeX distribution's own package manager"
        yield Finding("TeX", "warning", f"{program} without {', '.join(lacking)}", remedy)
    else:
        yield Finding("TeX", "ok", program)


def _lacking_styles() -> Iterator[str]:
    for name in TEX_PACKAGES:
        command = ["kpsewhich", f"{name}.sty"]
        if subprocess.run(command, capture_output=True, timeout=20).returncode:
            yield name


def profile() -> Iterable[Finding]:
    """Suggest the workflow's profile for this machine."""
    import torch

    if shutil.which("sbatch"):
        name = "slurm"
    else:
        device = torch.accelerator.current_accelerator(check_available=True)
        name = device.type if device is not None and device.type in ("cuda", "mps") else "cpu"
    yield Finding("workflow", "ok", f"snakemake --profile {name}")
