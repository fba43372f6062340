"""A run as one stage of a sequence: what its model has learned before, and what it draws anew.

A model folder with a ``training.json`` is a stage; a run that begins with it is the next one.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fnsft.artifacts.storage import existing
from fnsft.artifacts.training import FILE_NAME, EarlierStage, Run, read_training
from fnsft.config.stages import TrainSettings
from fnsft.errors import InputError
from fnsft.training.merging import parts_of

ARROW = ">"  # between the tasks of a sequence


@dataclass(frozen=True)
class Lineage:
    """The model that a run begins with, by its identity, and the stages that it has behind it.

    ``before`` is the last of these stages' runs, None where the run is the first.
    """

    began_with: str
    earlier: tuple[EarlierStage, ...] = ()
    before: Run | None = None

    @property
    def stage(self) -> int:
        """The run's stage, from 1."""
        return self.before.stage + 1 if self.before else 1

    def sequence(self, task: str) -> str:
        """Return the tasks of all stages, such as ``math>code``.

        Raises
        ------
        InputError
            For a task whose name holds the arrow.
        """
        if ARROW in task:
            raise InputError(f"--task: expected a name without {ARROW!r}, found {task!r}")
        if self.before is None:
            return task
        return f"{self.before.sequence or self.before.task}{ARROW}{task}"


def lineage_of(model: Path, identity: str) -> Lineage:
    """Return what the model in a folder has behind it; ``identity`` is the model's."""
    if not (model / FILE_NAME).is_file():
        return Lineage(identity)
    record = read_training(model)
    return Lineage(identity, (*record.earlier, record.as_earlier), record.run)


def require_plain_start(folder: Path) -> None:
    """Refuse to begin with an adapter, or a model with a mask on its forward pass.

    Raises
    ------
    InputError
        For either, with the command that makes plain weights of it.
    """
    if parts := parts_of(existing(folder)):
        merged = f"{folder}-merged"
        raise InputError(
            f"{folder}: expected plain weights alone to begin with, found more ("
            f"{', '.join(parts)}); run fnsft merge {folder} --output {merged}, and give --model "
            f"{merged}"
        )


def require_first_structure(
    settings: TrainSettings, lineage: Lineage, given: Path | None, networks: Path | None
) -> None:
    """Refuse a later stage that keeps the first one's structure but is not given it.

    Raises
    ------
    InputError
        When its graph, clusters or networks, or the identity of their model, are missing.
    """
    if not _keeps_first(settings, lineage):
        return
    for flag, needed, file in (
        ("--graph or --clusters", settings.wanted_structure is not None, given),
        ("--networks", settings.mask_mode is not None, networks),
    ):
        if needed and file is None:
            raise InputError(
                f"structure: 'first' keeps what the first stage read, found none; give {flag}"
            )
        if needed and lineage.earlier[0].began_with is None:
            raise InputError(
                "structure: 'first' needs the model that the first stage began with, which its "
                f"{FILE_NAME} does not name; train it anew"
            )


def structure_identity(settings: TrainSettings, lineage: Lineage) -> str:
    """Return the identity of the model that graphs, clusters and networks are of."""
    if _keeps_first(settings, lineage):
        return lineage.earlier[0].began_with or lineage.began_with
    return lineage.began_with


def drawing_settings(settings: TrainSettings, lineage: Lineage) -> TrainSettings:
    """Return the settings with the seed that the stage's masks and adapters are drawn from.

    The first stage draws from the run's own seed, a later one from :func:`stage_seed`, or from
    the first stage's again with ``structure: first``.
    """
    seed = stage_seed(settings.seed, lineage.stage)
    if _keeps_first(settings, lineage) and lineage.earlier[0].seed is not None:
        seed = lineage.earlier[0].seed
    return dataclasses.replace(settings, seed=seed)


def stage_seed(seed: int, stage: int) -> int:
    """Return the seed, in [0, 2³²), of what a stage draws: the run's own in the first stage.

    Later ones are numpy's ``SeedSequence`` of (seed, stage), which keeps neighbours apart.
    """
    if stage == 1:
        return seed
    return int(np.random.SeedSequence((seed, stage)).generate_state(1)[0])


def _keeps_first(settings: TrainSettings, lineage: Lineage) -> bool:
    return settings.structure == "first" and lineage.before is not None
