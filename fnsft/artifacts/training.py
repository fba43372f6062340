"""``training.json``: who a fine-tuned model is, how it was trained, and its curves."""

import dataclasses
from pathlib import Path
from typing import Any

from fnsft.artifacts.rows import typed_row
from fnsft.artifacts.storage import existing, read_json, write_json
from fnsft.errors import InputError

SCHEMA = 2
FILE_NAME = "training.json"
POINT_FIELDS = ("step", "epoch", "loss", "perplexity")


@dataclasses.dataclass(frozen=True)
class Run:
    """What tells one run from another. Fields that do not apply to its method are None.

    ``stage`` counts the fine-tuning stages, 0 for a base model, which has no ``seed`` either;
    ``sequence`` names the tasks of all of them, such as ``math>code``.
    """

    model: str
    task: str
    method: str
    fraction: float | None = None
    lam: float | None = None
    affinity: str | None = None
    applies_to: str | None = None
    mask_mode: str | None = None
    stage: int = 0
    seed: int | None = None
    learning_rate: float | None = None
    sequence: str | None = None


@dataclasses.dataclass(frozen=True)
class EarlierStage:
    """A stage that a run's model has behind it; ``began_with`` is that stage's model's identity."""

    task: str
    method: str
    seed: int | None
    began_with: str | None


@dataclasses.dataclass(frozen=True)
class TrainingRecord:
    """One fine-tuning run.

    ``validation`` has points of at least step, epoch, loss (nats a completion token) and
    perplexity; ``train_loss`` of step and loss. With the ``objective`` dpo both losses are DPO's,
    points have the ``accuracy`` too (the share of pairs whose chosen answer gained on the other),
    and perplexities are those of chosen answers. ``mask_pass_rate`` is the share of the masked
    matrices' entries that passed, over all steps; None without a mask. ``began_with`` is the
    identity of the model that was trained, ``earlier`` the stages that it had behind it, first to
    last. ``averaged_validation_perplexity`` is that of the saved model where it is the average of
    the best epoch's weights and the first ones; all other numbers are of before.
    """

    run: Run
    validation: list[dict[str, Any]]
    train_loss: list[dict[str, Any]]
    best_epoch: float
    best_step: int
    best_validation_perplexity: float
    optimizer_steps: int
    mask_pass_rate: float | None
    wall_seconds: float
    peak_memory_mib: float
    began_with: str | None = None
    earlier: list[EarlierStage] = dataclasses.field(default_factory=list)
    averaged_validation_perplexity: float | None = None
    objective: str = "completion"

    @property
    def criterion(self) -> float:
        """What runs of one task are compared by, the lower the better: DPO's loss for pairs."""
        if self.objective != "dpo":
            return self.best_validation_perplexity
        return min(p["loss"] for p in self.validation if p["step"] == self.best_step)

    @property
    def as_earlier(self) -> EarlierStage:
        """The run as the next one remembers it."""
        return EarlierStage(self.run.task, self.run.method, self.run.seed, self.began_with)


def write_training(folder: Path, record: TrainingRecord) -> None:
    """Write ``training.json`` into a model folder."""
    write_json(folder / FILE_NAME, {"schema": SCHEMA} | dataclasses.asdict(record))


def read_training(path: Path) -> TrainingRecord:
    """Read the training record of a model folder, or of the file itself.

    Fields that older records lack have their defaults.
    """
    file = existing(path) / FILE_NAME if path.is_dir() else path
    found = read_json(file)
    fields = dataclasses.fields(TrainingRecord)
    needed = [f.name for f in fields if f.default is f.default_factory is dataclasses.MISSING]
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise InputError(f"{file}: expected a training record of schema {SCHEMA}; train anew")
    if missing := [name for name in needed if name not in found]:
        raise InputError(f"{file}: the field {missing[0]!r} is missing; train anew")
    run = typed_row(Run, found["run"], f"{file}: run")
    for number, point in enumerate(found["validation"], start=1):
        if missing := [name for name in POINT_FIELDS if name not in point]:
            raise InputError(f"{file}: validation point {number} has no {missing[0]!r}")
    where = f"{file}: earlier stage"
    earlier = [
        typed_row(EarlierStage, row, f"{where} {number}")
        for number, row in enumerate(found.get("earlier", []), start=1)
    ]
    given = {field.name: found[field.name] for field in fields if field.name in found}
    return TrainingRecord(**given | {"run": run, "earlier": earlier})
