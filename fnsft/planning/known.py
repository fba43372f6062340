"""What a plan knows of the files that its jobs read: those that are there, and those to come.

Jobs are gone through in an order in which they can run; each leaves here what it will write, for
those that read it.
"""

import functools
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import NormalDist, fmean, pstdev
from typing import TYPE_CHECKING, Any

import yaml

from fnsft.artifacts.storage import size_of
from fnsft.config.stages import TrainSettings
from fnsft.errors import InputError

if TYPE_CHECKING:
    from fnsft.training.memory import ModelShape

PUBLISHED = Path(__file__).parent / "published"


@dataclass(frozen=True)
class Model:
    """A model folder: its name, its configuration as JSON, and its bytes on the disk.

    An adapter's folder has the base's configuration; ``base_bytes`` are read with it.
    """

    name: str
    config: str
    disk_bytes: float
    base_bytes: float = 0.0

    def shape(self, settings: TrainSettings | None = None) -> "ModelShape":
        """Return the shape; what an adapter adds is of the settings."""
        settings = settings or TrainSettings()
        is_lora = settings.method == "lora"
        only_mlp = is_lora and settings.trains_networks and settings.unmasked == "freeze"
        targets = "mlp" if only_mlp else settings.lora_targets
        return _shape(self.config, is_lora, targets, settings.neurons)


@functools.lru_cache
def _shape(config: str, is_lora: bool, targets: Any, neurons: Any) -> "ModelShape":
    from transformers import AutoConfig

    from fnsft.training.memory import shape_of_config

    fields = json.loads(config)
    settings = TrainSettings(method="random", neurons=neurons)
    if is_lora:
        settings = TrainSettings(method="lora", lora_targets=targets)
    return shape_of_config(AutoConfig.for_model(fields.pop("model_type"), **fields), settings)


@dataclass(frozen=True)
class Samples:
    """A prepared split in tokens: means of prompts and completions, and how they spread."""

    n: int
    prompt: float
    completion: float
    deviation: float
    deviation_completion: float
    longest: int
    key: str = "other"

    @property
    def mean(self) -> float:
        """Tokens of a sample."""
        return self.prompt + self.completion

    @property
    def tokens(self) -> float:
        """Tokens of all samples."""
        return self.n * self.mean

    def padded(self, batch_size: int) -> float:
        """Return the expected longest of a batch in tokens: what its samples are padded to.

        Of n normal draws the largest is expected at the quantile (n - 3/8) / (n + 1/4) (Blom
        1958).
        """
        return min(self.longest, self.mean + self.deviation * _largest_of(min(batch_size, self.n)))

    def first(self, limit: int | None) -> "Samples":
        """Return the first samples."""
        return replace(self, n=min(self.n, limit) if limit else self.n)


def longest_answer(mean: float, deviation: float, n: int, limit: int) -> float:
    """Return the expected longest of n answers in tokens, cut at the limit."""
    return min(limit, mean + deviation * _largest_of(n))


def _largest_of(n: int) -> float:
    return NormalDist().inv_cdf((n - 0.375) / (n + 0.25)) if n > 1 else 0.0


@dataclass(frozen=True)
class Neurons:
    """What is recorded of a model's neurons on ``tokens``: a dump, a graph, clusters, networks."""

    model: str
    layers: int
    d_mlp: int
    tokens: float
    disk_bytes: float
    kept: int = 0  # neighbours of a graph's rows, components of networks


@dataclass(frozen=True)
class Answers:
    """A folder of answers, of which some are programs."""

    programs: int
    disk_bytes: float


Thing = Model | Samples | Neurons | Answers


@dataclass
class Known:
    """The files of a plan by their paths."""

    things: dict[str, Thing] = field(default_factory=dict)
    world: set[str] = field(default_factory=set)  # the files of the synthetic world

    def add(self, path: Path | str, thing: Thing) -> None:
        """Remember what a job writes."""
        self.things[str(path)] = thing

    def model(self, path: Path) -> Model:
        """Return the model that a job reads: one that another makes, or a folder that is there."""
        found = self.things.get(str(path))
        if not isinstance(found, Model):
            found = model_in(path)
            self.add(path, found)
        return found

    def samples(self, path: Path) -> Samples:
        """Return a split that a job reads, or that is there."""
        found = self.things.get(str(path))
        if not isinstance(found, Samples):
            found = samples_in(path, "other")
            self.add(path, found)
        return found

    def neurons(self, path: Path) -> Neurons:
        """Return a dump, graph or networks that a job reads."""
        found = self.things.get(str(path))
        if not isinstance(found, Neurons):
            raise InputError(
                f"{path}: expected a job of the plan that makes it, found none; plan without the "
                "options that leave jobs out"
            )
        return found


@functools.cache
def published(table: str) -> dict[str, Any]:
    """Return one of the tables of what need not be there."""
    found = yaml.safe_load((PUBLISHED / f"{table}.yaml").read_text())
    assert isinstance(found, dict)
    return found


def published_model(name: str) -> Model:
    """Return a model of the hub, or of a wheel, by its published shape.

    Raises
    ------
    InputError
        For a model whose shape is not known here and whose folder is not there.
    """
    table = published("models")
    if name not in table:
        raise InputError(
            f"{name}: expected a model whose folder is there or whose shape is published in "
            f"{PUBLISHED.name}/models.yaml ({', '.join(sorted(table))}), found neither; fetch it "
            "first"
        )
    entry = table[name]
    return Model(name, json.dumps(entry["config"]), 2.0 * entry["parameters"])


def model_in(folder: Path) -> Model:
    """Return a model whose folder is there; an adapter's has the configuration of its base."""
    adapter = folder / "adapter_config.json"
    if adapter.is_file():
        base = Path(json.loads(adapter.read_text())["base_model_name_or_path"])
        of_base = model_in(base)
        return Model(of_base.name, of_base.config, size_of(folder), of_base.disk_bytes)
    config = folder / "config.json"
    if not config.is_file():
        raise InputError(f"{folder}: expected a model folder with config.json, found none")
    return Model(folder.name, config.read_text(), size_of(folder))


def samples_of(key: str, n: int) -> Samples:
    """Return the sizes of a preset's samples from the table; of an unknown one, assumed ones."""
    table = published("data")["samples"]
    key = key if key in table else "other"
    row = table[key]
    names = ("prompt", "completion", "deviation", "deviation_completion", "longest")
    return Samples(n, **{name: row[name] for name in names}, key=key)


def samples_in(path: Path, key: str) -> Samples:
    """Return the sizes of a prepared split that is there, by its characters.

    Raises
    ------
    InputError
        For a file that is missing or is no prepared split.
    """
    per_token = published("data")["samples"][key]["characters"]
    try:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        prompts = [len(row["prompt"]) / per_token for row in rows]
        completions = [1 + len(row["completion"]) / per_token for row in rows]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(
            f"{path}: expected a prepared split or a job of the plan that makes it, found neither"
        ) from None
    both = [p + c for p, c in zip(prompts, completions, strict=True)] or [1.0]
    return Samples(
        n=len(rows),
        prompt=fmean(prompts or [1.0]),
        completion=fmean(completions or [1.0]),
        deviation=pstdev(both),
        deviation_completion=pstdev(completions or [1.0]),
        longest=round(max(both)),
        key=key,
    )
