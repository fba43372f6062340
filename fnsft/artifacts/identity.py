"""What tells one model from another without reading all of its weights."""

import hashlib
from pathlib import Path

from fnsft.artifacts.storage import existing, sampled_sha256_of, sha256_of, size_of
from fnsft.errors import InputError

ADAPTER = "adapter_config.json"  # tells an adapter's folder from a model's
SAMPLED_BYTES = 1 << 20
LARGE_BYTES = 1 << 30


def model_identity(folder: Path) -> str:
    """Return 16 hex digits for a Hugging Face model folder.

    Hashes the configuration and, of every weight file (``*model*.safetensors``, as transformers
    and PEFT call them), its name, size and first and last MiB: enough to tell apart models of
    one shape, at a cost that does not grow with them.
    """
    if (existing(folder) / ADAPTER).is_file():
        raise InputError(f"{folder}: expected a model, found an adapter; fnsft merge it first")
    if not folder.is_dir() or not (folder / "config.json").is_file():
        raise InputError(f"{folder}: expected a Hugging Face model folder with a config.json")
    weights = sorted(folder.glob("*model*.safetensors"))
    if not weights:
        raise InputError(f"{folder}: expected weights in *model*.safetensors, found none")
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for file in weights:
        size = file.stat().st_size
        digest.update(f"{file.name} {size}".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(SAMPLED_BYTES))
            stream.seek(max(0, size - SAMPLED_BYTES))
            digest.update(stream.read())
    return digest.hexdigest()[:16]


def identity_of_input(path: Path) -> dict[str, str]:
    """Return the path and hash of a stage's input.

    A model folder has its identity (a folder of data may hold a ``config.json`` too, but no
    weights); what is larger than a GiB (activations, dense graphs) is hashed in samples.
    """
    if (path / "config.json").is_file() and any(path.glob("*model*.safetensors")):
        return {"path": str(path), "model": model_identity(path)}
    if size_of(existing(path)) > LARGE_BYTES:
        return {"path": str(path), "sampled_sha256": sampled_sha256_of(path)}
    return {"path": str(path), "sha256": sha256_of(path)}
