"""Where rows come from: a file or folder, a registered name, or the hub."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fnsft.artifacts.storage import existing
from fnsft.config.stages import DataSettings
from fnsft.data.row_files import SUFFIXES, Rows, read_rows, read_rows_by_split
from fnsft.errors import InputError
from fnsft.hub.access import hub_access, is_offline
from fnsft.hub.models import HUB_NAME
from fnsft.hub.registry import Registry
from fnsft.hub.tokens import Token, find_token


def rows_of(name: str, settings: DataSettings, registry: Path | None = None) -> dict[str, Rows]:
    """Return the rows of a data set by split, from the first of three places that has it.

    Parameters
    ----------
    name
        An existing file or folder; else a name in the registry; else ``org/name`` on the hub.
    settings
        Configuration and revision on the hub, and whether rows stream from it.
    registry
        A registry (see :mod:`fnsft.hub.registry`); ``data/registry.yaml`` when absent.

    Raises
    ------
    InputError
        When none has it, access is refused, or there is no such configuration.
    """
    if Path(name).exists():
        return read_rows_by_split(Path(name))
    if (rows := registered_rows(name, registry)) is not None:
        return rows
    if not HUB_NAME.fullmatch(name) or Path(name).suffix in (*SUFFIXES, ".gz"):
        existing(Path(name))
    return hub_rows(name, settings)


def registered_rows(name: str, registry: Path | None) -> dict[str, Rows] | None:
    """Return the rows of a name in the registry, or None when it is not there."""
    known = Registry.of(registry)
    if known is None or name not in known.entries:
        return None
    files = known.splits(name)
    if list(files) == ["train"]:
        return read_rows_by_split(files["train"])  # may hold several splits itself
    return {split: read_rows(path, split) for split, path in files.items()}


def hub_rows(name: str, settings: DataSettings) -> dict[str, Rows]:
    """Return the rows of a data set of the hub by split, through the cache of ``datasets``.

    All splits are brought to the cache once, and every pass reads them from its disk; with
    ``streaming`` nothing is kept, and every pass asks the hub again.

    Raises
    ------
    InputError
        As :func:`rows_of`.
    """
    what, token = f"data set {name}", find_token()
    found = _load(what, settings, token)
    return {str(split): _rows(what, str(split), rows, token) for split, rows in found.items()}


def _load(what: str, settings: DataSettings, token: Token | None) -> Any:
    """Return datasets' own dictionary of splits."""
    import datasets
    from huggingface_hub import HfApi

    if settings.streaming and is_offline():
        raise InputError(f"{what}: streaming needs the network; leave it off")
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    name = what.split()[-1]
    where: dict[str, Any] = {"revision": settings.data_revision, "token": token and token.value}
    with hub_access(what, token, settings.data_revision):
        try:
            return datasets.load_dataset(
                name, settings.data_config, streaming=settings.streaming, **where
            )
        except (datasets.exceptions.DatasetNotFoundError, ValueError) as error:
            # datasets forgets which refusal is behind an error; asked alone, the hub repeats it.
            hub = HfApi(token=where["token"])
            hub.auth_check(name, repo_type="dataset")
            hub.dataset_info(name, revision=settings.data_revision)
            if not isinstance(error, ValueError):
                raise
            known = datasets.get_dataset_config_names(name, **where)
            if settings.data_config in known:
                raise
            found = settings.data_config or "none"
            raise InputError(
                f"{what}: expected a configuration (data_config), one of {', '.join(known)}, "
                f"found {found}"
            ) from None


def _rows(what: str, split: str, rows: Any, token: Token | None) -> Rows:
    def read() -> Iterator[tuple[int, Any]]:
        iterator, number = iter(rows), 0
        while True:
            with hub_access(what, token):
                row = next(iterator, None)
            if row is None:
                return
            number += 1
            yield number, row

    return Rows(f"{what} ({split})", read)
