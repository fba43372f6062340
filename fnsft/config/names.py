"""Names that the workflow makes of the configuration's own; they are names of files."""

import re
from dataclasses import dataclass

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# Names that the workflow makes from those of the catalogues, which hold no "+".
TWIN = "+twin"
NULL = "+null"
HEADS = "-heads"  # behind the name of a dump
GRAPH = re.compile(r"(?P<name>[^+]+)(?P<null>\+null)?(\+(?P<half>even|odd))?(\+beta(?P<beta>.+))?")


@dataclass(frozen=True)
class StageModel:
    """A base model and the stages that it has gone through, each a task and a variant.

    Its name is a path below ``runs/``, without the seed: ``tiny``, ``tiny/math/collab-p0.5``.
    """

    base: str
    stages: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, name: str) -> "StageModel":
        """Take a name apart."""
        base, *parts = name.split("/")
        return cls(base, tuple(zip(parts[::2], parts[1::2], strict=True)))

    def after(self, task: str, variant: str) -> "StageModel":
        """Return the model after one more stage."""
        return StageModel(self.base, (*self.stages, (task, variant)))

    def __str__(self) -> str:
        return "/".join([self.base, *(part for stage in self.stages for part in stage)])


@dataclass(frozen=True)
class Variant:
    """A method at one fraction (None for methods without a mask), as it is or in a sweep.

    Its name is a folder's name: ``sft``, ``collab-p0.5``; in a sweep ``collab-p0.5-lr0.001``, at
    half of its own learning rate ``sft-x0.5``.
    """

    method: str
    fraction: float | None = None
    learning_rate: float | None = None
    k: int | None = None
    beta: float | None = None
    factor: float | None = None

    def __str__(self) -> str:
        parts = {"p": self.fraction, "lr": self.learning_rate, "k": self.k, "beta": self.beta}
        parts |= {"x": self.factor}
        given = (f"-{key}{value:g}" for key, value in parts.items() if value is not None)
        return self.method + "".join(given)
