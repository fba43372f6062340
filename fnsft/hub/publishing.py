"""What of a tuned model's folder goes to the hub, and sending it.

What goes is a list of known files, not all that lies there, and whatever goes is searched for
paths of this machine first.
"""

import fnmatch
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fnsft.artifacts.identity import ADAPTER
from fnsft.artifacts.model_files import BESIDE
from fnsft.artifacts.storage import existing, read_json, read_text
from fnsft.config.stages import PushSettings
from fnsft.errors import InputError
from fnsft.hub.access import hub_access, is_offline
from fnsft.hub.models import HUB_NAME, hub_name_of
from fnsft.hub.tokens import Token

CARD, INDEX = "README.md", "model.safetensors.index.json"
FILES = (ADAPTER, INDEX, "model*.safetensors", "adapter_model*.safetensors", *BESIDE)
# Files of text pieces, which may well begin with a slash.
VOCABULARIES = ("tokenizer.json", "vocab.json", "added_tokens.json", "special_tokens_map.json")
PATH = re.compile(r"(~?/|[A-Za-z]:\\)[^\s/\\]+[/\\]\S*")
PEFT_STUB = "[More Information Needed]"


@dataclass(frozen=True)
class Upload:
    """A file on its way: its name in the repository, and its content or where that lies."""

    name: str
    content: Path | bytes

    @property
    def n_bytes(self) -> int:
        """The size of the content."""
        content = self.content
        return len(content) if isinstance(content, bytes) else content.stat().st_size


def files_to_upload(folder: Path, base: str | None = None) -> list[Upload]:
    """Return what of a model's or an adapter's folder is uploaded, without its card.

    Parameters
    ----------
    base
        Hub name of an adapter's base model, in place of the folder that it was trained from.

    Raises
    ------
    InputError
        When the folder is neither, weights are missing, or a file names a path of this machine.
    """
    names = sorted(file.name for file in existing(folder).iterdir()) if folder.is_dir() else []
    chosen = [name for name in names if any(fnmatch.fnmatchcase(name, f) for f in FILES)]
    adapter = ADAPTER in chosen
    weights = "adapter_model*.safetensors" if adapter else "model*.safetensors"
    if not (adapter or "config.json" in chosen) or not fnmatch.filter(chosen, weights):
        raise InputError(
            f"{existing(folder)}: expected a model's or an adapter's folder, with config.json or "
            f"{ADAPTER} and weights in {weights}"
        )
    _require_shards(folder, chosen)
    uploads = [Upload(name, folder / name) for name in chosen]
    if adapter:
        config = _with_base(folder / ADAPTER, base)
        uploads = [Upload(u.name, config) if u.name == ADAPTER else u for u in uploads]
    for upload in uploads:
        require_no_local_path(folder, upload)
    return uploads


def base_of(folder: Path, base: str | None = None) -> str | None:
    """Return the hub name of an adapter's base; None for a whole model, unless one is given."""
    if not (folder / ADAPTER).is_file():
        return base
    return str(json.loads(_with_base(folder / ADAPTER, base))["base_model_name_or_path"])


def own_card(folder: Path) -> str | None:
    """Return the card that lies in the folder, unless it is PEFT's empty form."""
    file = folder / CARD
    text = read_text(file) if file.is_file() else PEFT_STUB
    return None if PEFT_STUB in text else text


def require_no_local_path(folder: Path, upload: Upload) -> None:
    """Refuse a file in which a path of this machine stands: it is nobody else's business."""
    text, places = _text_of(upload), [Path.home(), Path.cwd(), folder.resolve().parent]
    found = [str(place) for place in places if len(place.parts) > 1 and str(place) in text]
    if upload.name.endswith(".json") and upload.name not in VOCABULARIES:
        content = upload.content
        value = json.loads(content) if isinstance(content, bytes) else read_json(content)
        found += [text for text in _strings(value) if PATH.fullmatch(text)]
    if found:
        raise InputError(
            f"{folder / upload.name}: expected no path of this machine, found {found[0]!r}; others "
            "would read it: take it out of the file first"
        )


def publish(
    uploads: list[Upload], repo: str, base: str | None, settings: PushSettings, token: Token
) -> str:
    """Upload in one commit, large files through LFS; return the address of the repository.

    Raises
    ------
    InputError
        When the hub refuses, has no such ``base``, or the repository is public already and
        ``public`` is not said.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    if is_offline():
        raise InputError(f"model {repo}: HF_HUB_OFFLINE forbids the network; unset it to upload")
    api = HfApi(token=token.value)
    if base:
        with hub_access(f"base (--base) model {base}", token):
            api.model_info(base)
    with hub_access(f"model {repo}", token, settings.revision):
        public_already = _is_public(api, repo)
    if public_already and not settings.public:
        raise InputError(
            f"model {repo}: is public already; say --public to upload there, or name another"
        )
    with hub_access(f"model {repo}", token, settings.revision):
        address = api.create_repo(repo, private=not settings.public, exist_ok=True)
        if settings.revision != "main":
            api.create_branch(repo, branch=settings.revision, exist_ok=True)
        api.create_commit(
            repo,
            [CommitOperationAdd(upload.name, upload.content) for upload in uploads],
            commit_message=settings.message,
            revision=settings.revision,
        )
    return str(address)


def _is_public(api: Any, repo: str) -> bool:
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        return not api.model_info(repo).private
    except RepositoryNotFoundError:
        return False


def _require_shards(folder: Path, names: list[str]) -> None:
    if INDEX not in names:
        return
    shards = set(read_json(folder / INDEX).get("weight_map", {}).values())
    if missing := sorted(shards - set(names)):
        raise InputError(f"{folder}: expected the weights {missing[0]} of {INDEX}, found none")


def _with_base(file: Path, base: str | None) -> bytes:
    """Return an adapter's configuration with a base that others can find."""
    config = read_json(file)
    trained_from = str(config.get("base_model_name_or_path"))
    is_folder = Path(trained_from).exists()
    name = base or (hub_name_of(Path(trained_from)) if is_folder else trained_from)
    if name is None or not HUB_NAME.fullmatch(name):
        raise InputError(
            f"{file}: expected a base model that others can find, found the folder "
            f"{name or trained_from!r}; give its name on the hub with --base org/name"
        )
    config["base_model_name_or_path"] = name
    return (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()


def _text_of(upload: Upload) -> str:
    """Return a file as text; of weights, their header, which may hold notes."""
    if isinstance(upload.content, bytes):
        return upload.content.decode()
    if not upload.name.endswith(".safetensors"):
        return upload.content.read_bytes().decode(errors="replace")
    with upload.content.open("rb") as file:
        return file.read(int.from_bytes(file.read(8), "little")).decode(errors="replace")


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    parts = value.values() if isinstance(value, dict) else value
    if isinstance(value, (dict, list)):
        for part in parts:
            yield from _strings(part)
