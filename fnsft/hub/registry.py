"""``data/registry.yaml``: names of data sets that stand for local files, checked by their hash.

A name may be the hub's own, so that a configuration is the same with and without a network::

    # data/registry.yaml; paths are relative to its folder
    openai/gsm8k:
      train: {path: gsm8k/train.jsonl, sha256: 3730d312f6e34405…}   # 64 digits: sha256sum FILE
      test: {path: gsm8k/test.jsonl, sha256: 3730d312f6e34405…}
    my-notes: {path: notes.csv, sha256: 9f86d081884c7d65…}

Data sets alone: a model is named by its folder (``--model FOLDER``, or ``origin: folder``).
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import yaml

from fnsft.artifacts.storage import existing, read_text, sha256_of
from fnsft.errors import InputError

DEFAULT = Path("data/registry.yaml")
KEYS = {"path", "sha256"}


@dataclass(frozen=True)
class RegisteredFile:
    """One file and the SHA-256 that it must have, 64 hex digits."""

    path: Path
    sha256: str


@dataclass(frozen=True)
class Registry:
    """The names that a registry knows, each with its files by split."""

    file: Path
    entries: dict[str, dict[str, RegisteredFile]]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a registry; every entry is checked, no file of it is opened.

        Raises
        ------
        InputError
            For what is no registry: the entry, and what was expected.
        """
        try:
            found = yaml.safe_load(read_text(path))
        except yaml.YAMLError as error:
            reason = " ".join(str(error).split())
            raise InputError(f"{path}: expected YAML, found {reason:.160}") from None
        if not isinstance(found, dict):
            raise InputError(f"{path}: expected names of data sets, found {found!r:.60}")
        return cls(path, {str(name): _files(path, str(name), found[name]) for name in found})

    @classmethod
    def of(cls, path: Path | None) -> Self | None:
        """Read the registry at ``path``, else the default one where there is one."""
        if path is None and not DEFAULT.is_file():
            return None
        return cls.read(path or DEFAULT)

    def splits(self, name: str) -> dict[str, Path]:
        """Return a registered data set's files by split, each with the hash it must have.

        Raises
        ------
        InputError
            When a file is missing, or is another than the one that was registered.
        """
        for file in self.entries[name].values():
            if (found := sha256_of(existing(file.path))) != file.sha256:
                raise InputError(
                    f"{file.path}: expected the SHA-256 {file.sha256[:12]}… of {self.file}, found "
                    f"{found[:12]}…; restore the file, or register the new hash (sha256sum)"
                )
        return {split: file.path for split, file in self.entries[name].items()}


def _files(registry: Path, name: str, entry: Any) -> dict[str, RegisteredFile]:
    where = f"{registry}: {name}"
    if not isinstance(entry, dict) or not entry:
        raise InputError(f"{where}: expected path and sha256, or splits, found {entry!r:.60}")
    if KEYS & entry.keys():
        return {"train": _file(registry, where, entry)}
    return {str(split): _file(registry, f"{where}: {split}", file) for split, file in entry.items()}


def _file(registry: Path, where: str, entry: Any) -> RegisteredFile:
    if not isinstance(entry, dict) or entry.keys() != KEYS:
        keys = ", ".join(map(str, entry)) if isinstance(entry, dict) else repr(entry)
        raise InputError(f"{where}: expected the keys path and sha256, found {keys:.60}")
    digest, path = str(entry["sha256"]).lower(), registry.parent / str(entry["path"])
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise InputError(
            f"{where}: sha256: expected 64 hex digits (sha256sum {path}), found {digest:.16}"
        )
    return RegisteredFile(path, digest)
