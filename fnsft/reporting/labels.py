"""How methods, metrics and measures are written, in tables, figures and on the terminal."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from fnsft.artifacts.lesions import Lesion
from fnsft.artifacts.measures import Measure
from fnsft.artifacts.records import Record
from fnsft.artifacts.similarity import Similarity
from fnsft.artifacts.training import TrainingRecord
from fnsft.config.stages import FigureSettings, TableSettings
from fnsft.errors import InputError

Row = TypeVar("Row", Record, Measure, Lesion, Similarity)
Labelled = TypeVar("Labelled", TableSettings, FigureSettings)
FOUR_DIGITS, SIX_DIGITS = 1e3, 1e5
LABELS = {
    "base": "Base",
    "sft": "SFT",
    "sft-half": "SFT, half the rate",
    "sft-quarter": "SFT, a quarter of the rate",
    "replay": "SFT with replay",
    "l2": "SFT, L2 to start",
    "averaged": "SFT averaged with its start",
    "lora": "LoRA",
    "random": "Random",
    "child-tuning-f": "Child-Tuning-F",
    "child-tuning-d": "Child-Tuning-D",
    "hft": "HFT",
    "highest": "Highest",
    "gmt": "GMT",
    "mofo": "MoFO",
    "small-weights": "Small weights",
    "lift": "LIFT",
    "ssu": "SSU",
    "ssu-magnitude": "SSU, magnitude",
    "ssu-random": "SSU, random columns",
    "active-neurons": "Active neurons",
    "active-neurons-protect": "Active neurons protected",
    "collab": "CollabMask",
    "random-update": "Random, whole update",
    "highest-update": "Highest, whole update",
    "collab-update": "CollabMask, whole update",
    "collab-first": "CollabMask, first graph",
    "collab-diffusion": "CollabMask, diffusion",
    "collab-static": "CollabMask, static clusters",
    "collab-static-protect": "Static clusters protected",
    "random-heads": "Random, attention heads",
    "highest-heads": "Highest, attention heads",
    "collab-heads": "CollabMask, attention heads",
    "shuffled-heads": "Shuffled, attention heads",
    "no-knn": "w/o kNN",
    "no-alpha": "w/o α",
    "no-reweight": "w/o token reweight",
    "cosine": "Cosine weights",
    "degree": "Degree-normalised weights",
    "mutual": "Mutual kNN",
    "collab-cluster": "Clusters",
    "collab-cluster-l0.7": "Clusters, λ = 0.7",
    "sft-lesion": "SFT (network removed)",
    "sft-preserve": "SFT (only network kept)",
    "sft-train-only": "SFT (only network trained)",
    "sft-freeze": "SFT (network frozen)",
    "lora-lesion": "LoRA (network removed)",
    "lora-preserve": "LoRA (only network kept)",
    "lora-train-only": "LoRA (only network trained)",
    "lora-freeze": "LoRA (network frozen)",
    "shuffled": "Shuffled",
    "cluster-shuffled": "Shuffled clusters",
    "projections-only": "Projections only",
}
BENCHMARK_LABELS = {
    "gsm8k": "GSM8K",
    "humaneval": "HumanEval",
    "mbpp": "MBPP",
    "mmlu": "MMLU",
    "mmlu-pro": "MMLU-Pro",
    "pubmedqa": "PubMedQA",
}
PLUS = "pass_at_1_plus"
RANDOM = "-random"
SOURCE_LABELS = {
    "model": "model",
    "random-init": "random-initialised twin",
    "token-shuffled": "tokens shuffled",
    "random-neighbours": "random neighbours",
}
BASELINE_LABEL = "model, clusters of its parameters"
MEASURE_LABELS = {
    "adjusted_rand_halves": "adjusted Rand index, two halves of the data",
    "rand_halves": "Rand index, two halves of the data",
    "adjusted_rand_datasets": "adjusted Rand index, two data sets",
    "rand_datasets": "Rand index, two data sets",
    "adjusted_rand_parameters": "adjusted Rand index, activations and parameters",
    "score_over_null_unbiased": "unbiased Score / Null, unseen tokens",
    "score_over_rate_null": "Score / rate-matched Null, unseen tokens",
    "score_over_null": "published Score / Null, unseen tokens",
    "modularity": "modularity",
    "knn_jaccard_halves": "overlap of neighbours, two halves (Jaccard)",
    "in_degree_max": "in-degree of the largest hub",
    "in_degree_gini": "inequality of in-degrees (Gini)",
    "nobodys_neighbour_share": "share of neurons that are nobody's neighbour",
    "entropy_bits": "entropy of the partition (bits)",
    "adjusted_rand_networks_clusters": "adjusted Rand index, networks and clusters",
    "best_iou_networks_clusters": "IoU of a network and its nearest cluster",
}
PARAMETER_LABELS = {
    "k": "neighbours k",
    "alpha": "hyperedge exponent α",
    "beta": "rank exponent β",
    "lam": "neighbours' weight λ",
    "learning_rate": "learning rate",
}


def label_of(method: str) -> str:
    """Return a method's written name; methods without one are written as they are named.

    A control that has random neurons in a network's place is named after the method.
    """
    if method in LABELS:
        return LABELS[method]
    if method.endswith(RANDOM) and (of := LABELS.get(method.removesuffix(RANDOM))):
        return of.replace("network", "random set")
    return method


def benchmark_label(
    benchmark: str, metric: str = "", labels: Mapping[str, str] = BENCHMARK_LABELS
) -> str:
    """Return how a benchmark is written; with EvalPlus's further tests it has a plus."""
    return labels.get(benchmark, benchmark) + ("+" if metric == PLUS else "")


def run_label(method: str, fraction: float | None) -> str:
    """Return how a method at a fraction is written in a legend."""
    return label_of(method) + ("" if fraction is None else f", p = {fraction:g}")


def task_labels(settings: TableSettings | FigureSettings) -> dict[str, str]:
    """Return how the tasks are called, of those that have a label."""
    return dict(zip(settings.tasks, settings.task_labels, strict=False))


def run_labels(runs: Iterable[tuple[str, float | None]]) -> dict[tuple[str, float | None], str]:
    """Return how runs are written in a legend; :func:`shared_fraction` says the only fraction."""
    found = list(runs)
    alone = bool(shared_fraction(found))
    return {(name, p): run_label(name, None if alone else p) for name, p in found}


def shared_fraction(runs: Iterable[tuple[str, float | None]]) -> str:
    """Return the sentence of a note on the fraction that all runs with one share, else nothing."""
    fractions = {fraction for _, fraction in runs if fraction is not None}
    return f" Masked methods: p\u00a0=\u00a0{fractions.pop():g}." if len(fractions) == 1 else ""


def counted(numbers: Iterable[int]) -> str:
    """Return one number, or the lowest and the highest of several: ``2 to 3``."""
    found = sorted(set(numbers))
    return f"{found[0]:,}" if len(found) == 1 else f"{found[0]:,} to {found[-1]:,}"


def inputs_of(settings: FigureSettings, paths: Sequence[Path]) -> tuple[str, ...]:
    """Return how files that name no model are called: as the settings do, else by file name.

    Raises
    ------
    InputError
        When the settings name models, but not one for each file.
    """
    called = settings.model_labels or settings.models
    if called and len(called) != len(paths):
        raise InputError(
            f"models: expected one for each of {len(paths)} inputs, found {len(called)}"
        )
    stems = tuple(path.stem for path in paths)
    return called or (stems if len(set(stems)) == len(stems) else tuple(map(str, paths)))


@dataclass(frozen=True)
class ModelLabels:
    """Puts the models' labels in place of their names, in records and in settings."""

    labels: dict[str, str]

    @classmethod
    def of(cls, settings: TableSettings | FigureSettings) -> "ModelLabels":
        """Take the labels of a table's or figure's settings; without labels, names stay."""
        return cls(dict(zip(settings.models, settings.model_labels, strict=False)))

    def row(self, row: Row) -> Row:
        """Return a metric record, measure, lesion or similarity under its model's label."""
        return replace(row, model=self.labels.get(row.model, row.model))

    def training(self, training: TrainingRecord) -> TrainingRecord:
        """Return a training record under its model's label."""
        name = training.run.model
        return replace(training, run=replace(training.run, model=self.labels.get(name, name)))

    def settings(self, settings: Labelled) -> Labelled:
        """Return a table's or figure's settings whose models are labels."""
        return replace(settings, models=self.models(settings.models), model_labels=())

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
    """How a metric's values are printed, and which of two is better.

    Values of more than three digits, as perplexities of broken models have, are rounded.
    ``of_items`` is off where a metric has no items of its own.
    """

    scale: float = 100.0
    decimals: int = 1
    unit: str = "%"
    lower_is_better: bool = False
    signed: bool = False
    of_items: bool = True

    @property
    def is_share(self) -> bool:
        """Whether values are shares of items."""
        return self.of_items and self.unit == "%" and not self.signed

    def printed(self, value: float, beside: float | None = None) -> str:
        """Return the value as it is printed, without its unit, to the digits of another one."""
        # What lies half-way prints alike before and after it was written with fewer digits.
        number = round(value * self.scale, 9)
        size = abs(number if beside is None else beside * self.scale)
        if size < FOUR_DIGITS:
            if self.signed and beside is None:
                # Adding 0.0 takes the sign from what rounds to zero.
                return f"{round(number, self.decimals) + 0.0:+.{self.decimals}f}"
            return f"{number:.{self.decimals}f}"
        if size < SIX_DIGITS:
            return f"{number:.0f}"
        return f"{number:.1e}".replace("e+", "e").replace("e0", "e")


POINTS = MetricStyle(unit="points", signed=True, of_items=False)
RATIO = MetricStyle(scale=1.0, decimals=3, unit="", lower_is_better=True)
NATS = MetricStyle(scale=1.0, decimals=3, unit="nats", lower_is_better=True)
STYLES = {
    "perplexity": MetricStyle(scale=1.0, decimals=2, unit="", lower_is_better=True),
    "average_accuracy": MetricStyle(of_items=False),
    "backward_transfer": POINTS,
    "forward_transfer": POINTS,
    "forgetting": replace(POINTS, lower_is_better=True),
    "general_retention": POINTS,
    "difference": replace(POINTS, unit="%", of_items=True),
    "ratio": RATIO,
    "kept_at_same_learning": POINTS,
    "kept_at_same_learning_ratio": replace(RATIO, unit="ratio", of_items=False),
    "similarity": MetricStyle(scale=1.0, decimals=3, unit="", of_items=False),
    "kl_forward": NATS,
    "kl_reverse": NATS,
    "relative_weight_change": MetricStyle(decimals=2, lower_is_better=True, of_items=False),
}


def style_of(metric: str) -> MetricStyle:
    """Return a metric's style; what is not known is a share, in percent."""
    return STYLES.get(metric, MetricStyle())
