"""Where a run leaves off: its folder belongs to one set of settings and inputs."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from transformers.trainer import TRAINER_STATE_NAME

from fnsft.artifacts.identity import identity_of_input
from fnsft.artifacts.storage import read_json, write_json
from fnsft.config.stages import TrainSettings
from fnsft.errors import InputError


def claim(
    folder: Path, settings: TrainSettings, inputs: dict[str, Path], main: bool = True
) -> Path | None:
    """Claim a checkpoint folder for a run; return the checkpoint to resume from, or None.

    A checkpoint that a kill has cut short is not resumed from. Of several processes the
    ``main`` one writes the claim.

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
    record = folder / "run.json"
    if record.exists():
        found = read_json(record)
        different = [key for key in owner if found.get(key) != owner[key]]
        if different:
            raise InputError(
                f"{folder}: holds the checkpoints of a run with other "
                f"{_differences(found, owner)}; remove the folder to start anew, or go back to "
                "those settings"
            )
    elif main:
        write_json(record, owner)
    saved = sorted(
        (path for path in folder.glob("checkpoint-*") if _is_complete(path)),
        key=lambda path: int(path.name.split("-")[1]),
    )
    return saved[-1] if saved else None


def _is_complete(checkpoint: Path) -> bool:
    """Return whether the trainer has written its state, which it does last."""
    try:
        json.loads((checkpoint / TRAINER_STATE_NAME).read_text())
    except (OSError, ValueError):
        return False
    return True


def _content(path: Path) -> str:
    return next(value for key, value in identity_of_input(path).items() if key != "path")


def _differences(found: dict[str, Any], owner: dict[str, Any]) -> str:
    for section in ("settings", "inputs"):
        old, new = found.get(section, {}), owner[section]
        changed = sorted(key for key in new.keys() | old.keys() if old.get(key) != new.get(key))
        if changed:
            return f"{section} ({', '.join(changed)})"
    return "stage version"
