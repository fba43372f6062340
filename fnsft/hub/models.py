"""Models of the hub as local folders, which is all that the other stages know."""

import re
from pathlib import Path

from fnsft.artifacts.storage import existing, manifest_path, read_json
from fnsft.errors import InputError
from fnsft.hub.access import hub_access, is_offline
from fnsft.hub.tokens import find_token

# What a model is read from. Pickled weights (*.bin) run code when they are loaded, and are no use
# to a reader of safetensors; consolidated*.safetensors are second copies of the weights.
MODEL_FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
PASSED_OVER = ("*/*", "consolidated*")
HUB_NAME = re.compile(r"[A-Za-z0-9]\w*(?:[.-]\w+)*/[A-Za-z0-9_]\w*(?:[.-]\w+)*")
SNAPSHOT = re.compile(r"models--(?P<org>.+?)--(?P<name>.+)/snapshots/[0-9a-f]{40}")


def local_model(name_or_folder: str | Path, revision: str = "main") -> Path:
    """Return a model's folder: as it stands, or the snapshot of a hub name in the hub's cache.

    What is in the cache is asked for anew where there is a network, and used as it is with
    ``HF_HUB_OFFLINE=1`` or where the hub cannot be reached.

    Parameters
    ----------
    name_or_folder
        An existing folder, which comes first, or ``org/name``.
    revision
        Branch, tag or commit on the hub.

    Raises
    ------
    InputError
        When neither is there, access is refused, or the model has no safetensors.
    """
    name, folder = str(name_or_folder), Path(name_or_folder)
    if HUB_NAME.fullmatch(name) and not folder.exists():
        return snapshot(name, revision)
    if re.fullmatch(r"\w[\w.-]*", name) and not folder.exists():
        raise InputError(
            f"{name}: no such folder here; the hub's models are named with their owner, org/name"
        )
    return existing(folder)


def snapshot(name: str, revision: str = "main", folder: Path | None = None) -> Path:
    """Bring a model of the hub to ``folder``, or to the hub's cache, and return where it is."""
    from huggingface_hub import snapshot_download

    token, what = find_token(), f"model {name}"
    with hub_access(what, token, revision):
        found = snapshot_download(
            name,
            revision=revision,
            local_dir=folder,
            allow_patterns=list(MODEL_FILES),
            ignore_patterns=list(PASSED_OVER),
            token=token.value if token else None,
            local_files_only=is_offline(),
        )
    if not any(Path(found).glob("*.safetensors")):
        raise InputError(
            f"{what}: expected weights in *.safetensors, found none; load it with transformers "
            "once, save it with save_pretrained, and name that folder"
        )
    return Path(found)


def hub_name_of(folder: Path) -> str | None:
    """Return the hub name of a folder of the hub's cache or of ``fnsft fetch``, else None."""
    resolved = folder.resolve()
    if found := SNAPSHOT.search(resolved.as_posix()):
        return f"{found['org']}/{found['name']}"
    if not manifest_path(resolved).is_file():
        return None
    manifest = read_json(manifest_path(resolved))
    settings = manifest.get("settings", {}) if isinstance(manifest, dict) else {}
    fetched = manifest.get("stage") == "fetch" and settings.get("kind") == "model"
    return settings["name"] if fetched else None
