"""How methods and metrics are written, in tables, figures and on the terminal."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from fnsft.artifacts.records import Record
from fnsft.artifacts.training import TrainingRecord
from fnsft.config.stages import FigureSettings, TableSettings

LABELS = {
    "base": "Base",
    "sft": "SFT",
    "lora": "LoRA",
    "random": "Random",
    "highest": "Highest",
    "gmt": "GMT",
    "collab": "CollabMask",
    "shuffled": "Shuffled",
    "projections-only": "Projections only",
}


def label_of(method: str) -> str:
    """Return a method's written name; methods without one are written as they are named."""
    return LABELS.get(method, method)


@dataclass(frozen=True)
class ModelLabels:
    """Puts the models' labels in place of their names, in records and in settings."""

    labels: dict[str, str]

    @classmethod
    def of(cls, settings: TableSettings | FigureSettings) -> "ModelLabels":
        """Take the labels of a table's or figure's settings; without labels, names stay."""
        return cls(dict(zip(settings.models, settings.model_labels, strict=False)))

    def record(self, record: Record) -> Record:
        """Return a metric record under its model's label."""
        return replace(record, model=self.labels.get(record.model, record.model))

    def training(self, training: TrainingRecord) -> TrainingRecord:
        """Return a training record under its model's label."""
        name = training.run.model
        return replace(training, run=replace(training.run, model=self.labels.get(name, name)))

    def models(self, models: tuple[str, ...]) -> tuple[str, ...]:
        """Return the labels of models."""
        return tuple(self.labels.get(model, model) for model in models)


def in_order(methods: Iterable[str]) -> tuple[str, ...]:
    """Return methods, each once, in the order of ``LABELS``, then the others by name."""
    known = list(LABELS)
    return tuple(
        sorted(set(methods), key=lambda m: (known.index(m) if m in known else len(known), m))
    )


@dataclass(frozen=True)
class MetricStyle:
    """How a metric's values are printed, and which of two is better."""

    scale: float = 100.0
    decimals: int = 1
    unit: str = "%"
    lower_is_better: bool = False

    def printed(self, value: float) -> str:
        """Return the value as it is printed, without its unit."""
        return f"{value * self.scale:.{self.decimals}f}"


def style_of(metric: str) -> MetricStyle:
    """Return a metric's style: perplexity as it is, shares in percent."""
    if metric == "perplexity":
        return MetricStyle(scale=1.0, decimals=2, unit="", lower_is_better=True)
    return MetricStyle()
