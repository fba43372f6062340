"""What lies beside the weights in a model folder: what may be passed on, and what is carried on."""

import re
import shutil
from pathlib import Path
from typing import Any

from fnsft.artifacts.forward_masks import FILE as FORWARD_MASK
from fnsft.artifacts.prompt_formats import NAME as PROMPT_FORMAT
from fnsft.artifacts.storage import manifest_path, read_json, write_json
from fnsft.artifacts.telemetry import MASKS_FILE_NAME, UPDATES_FILE_NAME
from fnsft.artifacts.training import FILE_NAME as TRAINING

TOKENIZER = (
    *("tokenizer*.json", "vocab.json", "vocab.txt", "merges.txt", "*.model", "*.tiktoken"),
    *("special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "chat_template.json"),
)
# Known files, not all that lies there: manifests name files of this machine, and the rest may be
# anything of the user's.
BESIDE = (
    *("config.json", "generation_config.json", *TOKENIZER),
    *(TRAINING, MASKS_FILE_NAME, UPDATES_FILE_NAME, FORWARD_MASK, "quantised_base.json"),
    *(PROMPT_FORMAT, "networks.safetensors", "networks.json"),
)
TRAINING_MANIFEST, DATA_MANIFEST = "training.manifest.json", "data.manifest.json"


def beside_weights(folder: Path, patterns: tuple[str, ...] = BESIDE) -> list[Path]:
    """Return the files of a model folder that go where its weights go: settings, records."""
    files = (path for path in folder.iterdir() if path.is_file())
    return sorted(path for path in files if any(path.match(pattern) for pattern in patterns))


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy the tokenizer's files as they are, with the chat template."""
    for path in beside_weights(source, TOKENIZER):
        shutil.copyfile(path, target / path.name)


def training_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a model's training: beside its folder, or carried on in it, or {}."""
    for file in (manifest_path(folder), folder / TRAINING_MANIFEST):
        found = read_json(file) if file.is_file() else {}
        if isinstance(found, dict) and found.get("stage") in ("train", "pretrain"):
            return found
    return {}


def carry_manifests(source: Path, target: Path) -> None:
    """Write into a model made of another what a card says of the training and its data."""
    if manifest := training_manifest(source):
        write_json(target / TRAINING_MANIFEST, without_places(manifest))
    if (source / DATA_MANIFEST).is_file():
        write_json(target / DATA_MANIFEST, without_places(read_json(source / DATA_MANIFEST)))


def without_places(value: Any) -> Any:
    """Return JSON in which a path on this machine is only its last part."""
    if isinstance(value, dict):
        return {name: without_places(part) for name, part in value.items()}
    if isinstance(value, list):
        return [without_places(part) for part in value]
    if isinstance(value, str) and re.match(r"[/~.]|[A-Za-z]:\\", value):
        return re.split(r"[/\\]", value.rstrip("/\\"))[-1]
    return value
