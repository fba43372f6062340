"""What a tuned folder holds, for its model card."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from fnsft.artifacts.forward_masks import ForwardMask, read_forward_mask
from fnsft.artifacts.identity import ADAPTER
from fnsft.artifacts.model_files import DATA_MANIFEST, training_manifest
from fnsft.artifacts.records import Record, read_records
from fnsft.artifacts.storage import existing, read_json
from fnsft.artifacts.training import FILE_NAME, TrainingRecord, read_training
from fnsft.errors import InputError
from fnsft.hub.models import HUB_NAME
from fnsft.reporting.transfer import BENCHMARK as TRANSFER


@dataclasses.dataclass(frozen=True)
class Tuned:
    """What a tuned folder holds; empty or None where a file is absent."""

    repo: str
    base: str | None
    is_adapter: bool
    training: TrainingRecord | None
    manifest: dict[str, Any]
    data: dict[str, Any]
    prompt: dict[str, Any]
    packing: dict[str, Any]
    forward_mask: ForwardMask | None
    records: list[Record]

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the training, where its manifest is known."""
        return self.manifest.get("settings", {})

    @property
    def data_set(self) -> str | None:
        """The data set's name on the hub; None for files of this machine."""
        source = str(self.data.get("notes", {}).get("source"))
        is_local = "data" in self.data.get("inputs", {})
        return source if HUB_NAME.fullmatch(source) and not is_local else None


def read_tuned(folder: Path, repo: str, base: str | None) -> Tuned:
    """Read the files of ``fnsft train`` in a folder, and the records in it and beside it."""
    adapter = _json(existing(folder) / ADAPTER)
    named = str(adapter.get("base_model_name_or_path") or "")
    if base is None and HUB_NAME.fullmatch(named) and not Path(named).exists():
        base = named
    training = read_training(folder) if (folder / FILE_NAME).is_file() else None
    return Tuned(
        repo=repo,
        base=base,
        is_adapter=bool(adapter),
        training=training,
        manifest=training_manifest(folder),
        data=_json(folder / DATA_MANIFEST),
        prompt=_json(folder / "prompt_format.json"),
        packing=_json(folder / "quantised_base.json"),
        forward_mask=read_forward_mask(folder),
        records=_records(folder, training) if training else [],
    )


def _json(file: Path) -> dict[str, Any]:
    found = read_json(file) if file.is_file() else {}
    if not isinstance(found, dict):
        raise InputError(f"{file}: expected an object, found {found!r:.60}; make it anew")
    return found


def _records(folder: Path, training: TrainingRecord) -> list[Record]:
    """Return this run's records, of all files in the folder and beside it, each once.

    Files of ``fnsft transfer`` repeat those of the stages; its own measures are of many runs.
    """
    beside = folder.absolute().parent
    files = [*sorted(folder.glob("*.jsonl")), *sorted(beside.glob("*.jsonl"))]
    run = dataclasses.asdict(training.run)
    del run["learning_rate"]
    found: dict[tuple[str, str, str | None], Record] = {}
    for record in read_records(filter(_holds_records, files)):
        own = record.subset is None and run.items() <= dataclasses.asdict(record).items()
        if own and record.benchmark != TRANSFER:
            found.setdefault((record.benchmark, record.metric, record.forward_mask), record)
    return list(found.values())


def _holds_records(file: Path) -> bool:
    with file.open(errors="replace") as stream:
        try:
            row = json.loads(stream.readline())
        except json.JSONDecodeError:
            return False
    return isinstance(row, dict) and {f.name for f in dataclasses.fields(Record)} == set(row)
