"""Anyone's rows become a folder of prepared splits, once a run."""

import dataclasses
import hashlib
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from fnsft.artifacts import prompt_formats
from fnsft.artifacts.manifest import recorded_stage
from fnsft.artifacts.storage import existing, manifest_path, read_json, sha256_of
from fnsft.config.presets import TaskPreset
from fnsft.config.settings import fields_of, flag_of
from fnsft.config.stages import DataSettings, PrepareSettings
from fnsft.data.origins import rows_of
from fnsft.data.preparation import prepare
from fnsft.data.row_files import Rows
from fnsft.data.tokens import load_tokenizer, stop_ids_of
from fnsft.errors import InputError
from fnsft.hub import registry as registry_file

TOKENIZER_FILES = {".json", ".model", ".txt", ".jinja"}  # suffixes of what decides the rendering


@dataclass(frozen=True)
class Source:
    """What a run's data is made of: a file, folder or name, and how it is read.

    ``data`` is a path, a name in the ``registry``, or one of the hub.
    """

    data: str
    settings: DataSettings
    preset: TaskPreset | None = None
    validation: Path | None = None
    registry: Path | None = None

    @property
    def reading(self) -> DataSettings:
        """The settings, with the preset's configuration of its data set on the hub."""
        if self.preset is None or self.data != self.preset.preset.hub_name:
            return self.settings
        config = self.settings.data_config or self.preset.preset.hub_config
        return dataclasses.replace(self.settings, data_config=config)

    @property
    def files(self) -> dict[str, Path]:
        """The local files that decide what comes out, by what they are."""
        data = Path(self.data)
        named: dict[str, Path | None] = {"data": data, "validation": self.validation}
        if not data.exists():
            named["registry"] = self.registry or registry_file.DEFAULT
        return {name: path for name, path in named.items() if path is not None and path.exists()}


def is_prepared(folder: Path) -> bool:
    """Tell a folder of prepared splits from one of rows.

    It has the two splits, and a format of prompts, or a manifest of ``fnsft prepare`` beside it.
    """
    if not all((folder / f"{name}.jsonl").is_file() for name in ("train", "validation")):
        return False
    manifest = manifest_path(folder)
    staged = manifest.is_file() and read_json(manifest).get("stage") == PrepareSettings.stage
    return staged or (folder / prompt_formats.NAME).is_file()


def require_plain(source: Source) -> None:
    """Refuse settings of raw data for a folder that is prepared already."""
    given = [
        flag_of(name)
        for name, field in fields_of(DataSettings).items()
        if getattr(source.settings, name) != field.default
    ]
    for flag, value in (("--preset", source.preset), ("--validation", source.validation)):
        given += [flag] if value is not None else []
    if given:
        raise InputError(
            f"{given[0]}: is about raw data, and {source.data} is prepared already; leave it off"
        )


def prepare_once(source: Source, model: Path, checkpoints: Path) -> Path:
    """Render and split a run's data into its checkpoints, if it is not there; return the folder.

    The folder's name is made of all that decides its content, so that a run that resumes reads
    the same samples, and one with other data is told apart.

    Raises
    ------
    InputError
        When rows or settings are not what they should be; nothing is written then.
    """
    settings, files = source.reading, source.files
    folder = checkpoints / f"data-{_identity(source, model)}"
    if folder.is_dir() and manifest_path(folder).is_file():
        print(f"{folder}: prepared before", file=sys.stderr)
        return folder
    shutil.rmtree(folder, ignore_errors=True)  # what a kill has left without a manifest
    held_out = validation_rows(source.validation) if source.validation else None
    with recorded_stage(settings, {"model": model} | files, folder) as record:
        rows = rows_of(source.data, settings, source.registry)
        tokenizer = load_tokenizer(model)
        preparation = prepare(
            rows, held_out, source.preset, settings, tokenizer, folder, stop_ids_of(model)
        )
        record.note(
            source=source.data,
            preset=source.preset.name if source.preset else None,
            **preparation.notes,
        )
    print(*preparation.lines(), sep="\n", file=sys.stderr)
    return folder


def validation_rows(path: Path) -> Rows:
    """Return the rows of a file that validates.

    Raises
    ------
    InputError
        When it is not there, or has several splits.
    """
    splits = rows_of(str(existing(path)), DataSettings())
    if len(splits) > 1:
        raise InputError(
            f"validation: expected rows of one split, found {', '.join(splits)} in {path}; name "
            "one file"
        )
    return next(iter(splits.values()))


def _identity(source: Source, model: Path) -> str:
    """Return 16 hex digits of settings, sources and tokenizer."""
    tokenizer = [path for path in sorted(model.iterdir()) if path.suffix in TOKENIZER_FILES]
    parts = {
        "version": DataSettings.version,
        "settings": dataclasses.asdict(source.reading),
        "preset": dataclasses.asdict(source.preset) if source.preset else None,
        "data": source.data if "data" not in source.files else None,
        "files": {name: sha256_of(path) for name, path in source.files.items()},
        "tokenizer": {path.name: sha256_of(path) for path in tokenizer},
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
