"""Which artefacts of an experiment there are, by the names that the workflow gives them.

``results/<experiment>`` holds ``metrics/``, ``transfer/<model>/<sequence>/…``, ``lesions/`` and
``neurons/`` (both ``<model>/<task>/seed<k>``), ``runs/<model>/<task>/<variant>/seed<k>``; a model
after stages is a path itself.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from fnsft.artifacts.storage import existing
from fnsft.artifacts.telemetry import UPDATES_FILE_NAME
from fnsft.artifacts.training import FILE_NAME
from fnsft.config.names import TWIN
from fnsft.errors import InputError

SEED = re.compile(r"seed(\d+)")
NOT_RECORDS = (".items.jsonl", ".generations.jsonl")
GRAPHS, CLUSTERS = "graphs/*.safetensors", "clusters/*.safetensors"
NETWORKS, DESCRIPTIONS = "networks/*.safetensors", "descriptions.jsonl*"


@dataclass(frozen=True)
class Home:
    """Where the neurons of one model on one task and seed were measured."""

    model: str
    task: str
    seed: int
    folder: Path

    def found(self, pattern: str) -> list[Path]:
        """Return its files of a pattern; not those of controls and of halves of the data."""
        return sorted(path for path in self.folder.glob(pattern) if "+" not in path.name)

    @property
    def descriptions(self) -> Path | None:
        """The descriptions of its neurons, packed or not."""
        names = ("descriptions.jsonl.gz", "descriptions.jsonl")
        return next((self.folder / name for name in names if (self.folder / name).exists()), None)


@dataclass(frozen=True)
class ResultFiles:
    """What a page is made from; ``updates`` are folders of runs whose masks were recorded."""

    folder: Path
    metrics: tuple[Path, ...]
    transfer: tuple[Path, ...]
    measures: tuple[Path, ...]
    homes: tuple[Home, ...]
    runs: tuple[Path, ...]
    updates: tuple[Path, ...]
    tables: tuple[str, ...]
    figures: tuple[str, ...]

    def lesions_of(self, home: Home, networks: str) -> Path | None:
        """Return the lesions of a home's networks, if there are any."""
        below = home.folder.relative_to(self.folder / "neurons")
        path = self.folder / "lesions" / below / f"{networks}.jsonl"
        return path if path.exists() else None

    @property
    def read(self) -> list[Path]:
        """Every file that the page may hold something of."""
        patterns = (GRAPHS, CLUSTERS, NETWORKS, DESCRIPTIONS)
        homes = [path for home in self.homes for p in patterns for path in home.found(p)]
        lesions = [
            self.lesions_of(home, path.stem) for home in self.homes for path in home.found(NETWORKS)
        ]
        runs = [run / FILE_NAME for run in self.runs]
        updates = [run / UPDATES_FILE_NAME for run in self.updates]
        records = [*self.metrics, *self.transfer, *self.measures, *filter(None, lesions)]
        return [*records, *homes, *runs, *updates]


def result_files(folder: Path) -> ResultFiles:
    """Find an experiment's artefacts.

    Raises
    ------
    InputError
        When the folder is missing, or holds none.
    """
    existing(folder)
    runs = tuple(sorted(path.parent for path in (folder / "runs").rglob(FILE_NAME)))
    found = ResultFiles(
        folder=folder,
        metrics=_records(folder / "metrics"),
        transfer=_records(folder / "transfer"),
        measures=tuple(sorted(folder.glob("neurons/**/measures/*.jsonl"))),
        homes=tuple(_homes(folder / "neurons")),
        runs=runs,
        updates=tuple(run for run in runs if (run / UPDATES_FILE_NAME).exists()),
        tables=tuple(sorted(path.stem for path in folder.glob("*.csv"))),
        figures=tuple(sorted(path.stem for path in folder.glob("figures/*.pdf"))),
    )
    if not found.read:
        raise InputError(
            f"{folder}: expected the results of an experiment (metrics, transfer, neurons, runs), "
            "found none; give results/<experiment>"
        )
    return found


def run_place(run: Path, runs: Path) -> tuple[str, str, str]:
    """Return the model that a run began with, its task and its variant, from its folder."""
    parts = run.relative_to(runs).parts
    if len(parts) < 4:
        raise InputError(
            f"{run}: expected a run at <model>/<task>/<variant>/seed<k> below {runs}, found it at "
            f"{'/'.join(parts) or '.'}; move it there, or elsewhere"
        )
    *model, task, variant, _ = parts
    return "/".join(model), task, variant


def _records(folder: Path) -> tuple[Path, ...]:
    files = sorted(folder.rglob("*.jsonl"))
    return tuple(path for path in files if not path.name.endswith(NOT_RECORDS))


def _homes(neurons: Path) -> list[Home]:
    found = []
    for folder in sorted(neurons.glob("**/seed*")):
        *model, task = folder.relative_to(neurons).parts[:-1] or ("",)
        seed = SEED.fullmatch(folder.name)
        if not (seed and model) or model[0].endswith(TWIN):
            continue
        home = Home("/".join(model), task, int(seed[1]), folder)
        if any(home.found(pattern) for pattern in (GRAPHS, NETWORKS, DESCRIPTIONS)):
            found.append(home)
    return found
