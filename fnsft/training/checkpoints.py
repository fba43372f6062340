"""Where a run leaves off: its folder belongs to one set of settings and inputs."""

import contextlib
import dataclasses
import json
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

from transformers.trainer import TRAINER_STATE_NAME

from fnsft.artifacts.identity import identity_of_input
from fnsft.artifacts.locks import held
from fnsft.artifacts.storage import read_json, write_json
from fnsft.artifacts.tensors import is_whole
from fnsft.config.stages import TrainSettings
from fnsft.errors import InputError
from fnsft.training.files import GRAPH_FOLDER

# What a run makes before it claims the folder; later ``run.json`` is there.
PREPARED = rf"data-[0-9a-f]{{16}}(\.manifest\.json)?|{GRAPH_FOLDER}"
UNCLAIMED = re.compile(rf"{PREPARED}|\..*\.partial-.+|\..*\.unfinished")
CLAIM = "run.json"


def is_claimed(folder: Path) -> bool:
    """Tell whether a checkpoint folder belongs to a run, by its settings and inputs."""
    try:
        found = json.loads((folder / CLAIM).read_text())
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and {"stage_version", "settings", "inputs"} <= found.keys()


def require_ours(folder: Path) -> None:
    """Refuse a folder with files that no run has made, since it goes at a run's end.

    Raises
    ------
    InputError
        For such a folder, and for a file.
    """
    if is_claimed(folder) or not folder.exists():
        return
    names = [folder.name] if folder.is_file() else sorted(path.name for path in folder.iterdir())
    if others := [name for name in names if not UNCLAIMED.fullmatch(name)]:
        raise InputError(
            f"{folder}: expected a folder of checkpoints or none, found {others[0]!r} in it; a "
            "run removes the folder at its end, so name one of its own"
        )


def saved_checkpoint(folder: Path) -> Path | None:
    """Return the last checkpoint that is whole; one that a kill or a disk has cut short is not."""
    saved = sorted(
        (path for path in folder.glob("checkpoint-*") if _is_complete(path)),
        key=lambda path: int(path.name.split("-")[1]),
    )
    return saved[-1] if saved else None


def claim(
    folder: Path, settings: TrainSettings, inputs: dict[str, Path], main: bool = True
) -> Path | None:
    """Claim a checkpoint folder for a run; return the checkpoint to resume from, or None.

    Of several processes the ``main`` one writes the claim.

    Raises
    ------
    InputError
        When the folder holds the checkpoints of other settings, inputs or stage version.
    """
    owner: dict[str, Any] = {
        "stage_version": settings.version,
        "settings": json.loads(json.dumps(dataclasses.asdict(settings))),  # tuples become lists
        "inputs": {name: _content(path) for name, path in inputs.items()},
    }
    record = folder / CLAIM
    if record.exists():
        found = read_json(record)
        different = [key for key in owner if found.get(key) != owner[key]]
        if different:
            raise InputError(
                f"{folder}: holds the checkpoints of a run with other "
                f"{_differences(found, owner)}; go back to those, or start anew with --resume "
                "never, which removes what is there"
            )
    elif main:
        write_json(record, owner)
    return saved_checkpoint(folder)


def clear(folder: Path, before: set[Path] | None) -> None:
    """Remove what a run with bad input leaves behind: all, if there is nothing to resume from.

    Of a folder that another run has claimed, of which ``before`` was there, only what this one
    has prepared.
    """
    if before is not None:
        for path in set(folder.glob("*")) - before:
            if re.fullmatch(PREPARED, path.name):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    elif not any(folder.glob("checkpoint-*")):
        shutil.rmtree(folder, ignore_errors=True)


def locked(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Keep others out of a checkpoint folder, which is there or will be, for as long as it lasts.

    Raises
    ------
    InputError
        When another run uses it, on entering.
    """
    return held(folder.with_name(f".{folder.name}.lock"), str(folder))


def _is_complete(checkpoint: Path) -> bool:
    """Return whether the trainer has written its state, which it does last, and all is whole."""
    try:
        json.loads((checkpoint / TRAINER_STATE_NAME).read_text())
    except (OSError, ValueError):
        return False
    return all(_is_whole(file) for file in checkpoint.rglob("*"))


def _is_whole(file: Path) -> bool:
    """Tell whether a file of weights or states ends where it should, by its format."""
    if file.suffix == ".safetensors":
        return is_whole(file)
    # torch's are zip archives, whose directory comes last.
    return file.suffix not in (".pt", ".pth", ".bin") or zipfile.is_zipfile(file)


def _content(path: Path) -> str:
    return next(value for key, value in identity_of_input(path).items() if key != "path")


def _differences(found: dict[str, Any], owner: dict[str, Any]) -> str:
    for section in ("settings", "inputs"):
        old, new = found.get(section, {}), owner[section]
        changed = sorted(key for key in new.keys() | old.keys() if old.get(key) != new.get(key))
        if changed:
            return f"{section} ({', '.join(changed)})"
    return "stage version"
