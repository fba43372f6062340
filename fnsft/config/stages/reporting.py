"""Settings of choices, tables, figures and pages."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from fnsft.config.settings import Settings, setting
from fnsft.errors import InputError


@dataclass(frozen=True)
class ChooseSettings(Settings):
    """The learning rate of every method with the lowest mean validation perplexity."""

    stage: ClassVar[str] = "choose"


TableKind = Literal[
    "methods",  # models by methods, one row a fraction, an average row (2026, Table 1)
    "networks",  # lesions of every network beside random sets of its size
    "selective",  # methods by what they learned and kept, with their forward mask on and off
    "continual",  # methods by benchmarks, after their own stage and after the last
    "transfer",  # methods by what a sequence of stages learned and forgot
    "benchmarks",  # methods by benchmarks, after the last stage
    "similarity",  # whether a graph's neighbours are described alike (2026, Table 4)
    "similarity-layers",  # the same by layer (2026, Table 5)
]


@dataclass(frozen=True)
class TableSettings(Settings):
    """One table of a kind."""

    stage: ClassVar[str] = "table"
    version: ClassVar[int] = 6

    kind: TableKind = setting("methods", "what the table shows")
    benchmark: str = setting("gsm8k", "benchmark whose records are tabulated")
    metric: str = setting("accuracy", "metric of the benchmark")
    models: tuple[str, ...] = setting((), "models, in the order of the rows")
    methods: tuple[str, ...] = setting((), "methods, in the order of the columns")
    controls: tuple[str, ...] = setting((), "methods shown apart, after a rule")
    model_labels: tuple[str, ...] = setting((), "how the models are called, in that order")
    title: str = setting("", "first sentence of the caption")
    layout: Literal["columns", "rows"] = setting("columns", "where the methods stand")
    benchmarks: tuple[str, ...] = setting(
        (),
        "continual, benchmarks, transfer: benchmarks, in the order of the columns; all when absent",
    )
    benchmark_labels: tuple[str, ...] = setting((), "how the benchmarks are called, in that order")
    tasks: tuple[str, ...] = setting((), "continual, benchmarks, transfer: tasks with a label")
    task_labels: tuple[str, ...] = setting((), "how the tasks are called, in that order")
    reference: str = setting(
        "sft", "continual, benchmarks: method that differences are taken from, given items"
    )
    curve: tuple[str, ...] = setting(
        ("sft", "sft-half", "sft-quarter"),
        "transfer: one method at several rates; others are held against it at what they learn",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_labels(self)


FigureKind = Literal[
    "perplexity",  # validation perplexity over epochs (2026)
    "sweep",  # validation perplexity over hyperparameters
    "updates",  # how often each neuron could change, by layer
    "telemetry",  # what masks keep, and share with others, by layer and step
    "agreement",  # Rand and adjusted Rand by layer
    "structure",  # Score over Null, modularity, kNN overlap and hubs by layer
    "overlap",  # what the graph changes about a mask, by layer
    "scores",  # histograms of Score over Null
    "activations",  # distributions of sampled neurons' activations (A.2)
    "influence",  # token influence by rank for several β (A.3)
    "clusters",  # t-SNE of the spectral embedding
    "connectivity",  # correlation between networks' time courses
    "coverage",  # share of every layer's neurons that are in each network
    "lesions",  # what is lost and kept as networks are removed, kept, unmasked
    "networks-clusters",  # agreement of networks and collaboration clusters by layer
    "bars",  # methods by benchmarks
    "trade-off",  # what methods learn against what they keep
    "rates",  # the same over learning rates, a curve a method
]


@dataclass(frozen=True)
class FigureSettings(Settings):
    """One figure of a kind, drawn from the files that the kind asks for."""

    stage: ClassVar[str] = "figure"
    version: ClassVar[int] = 5

    kind: FigureKind = setting("perplexity", "what is drawn")
    models: tuple[str, ...] = setting((), "models, in the order of the panels")
    methods: tuple[str, ...] = setting((), "methods, in the order of the legend")
    axes: tuple[str, ...] = setting((), "sweep: the hyperparameter that each input varies")
    values: tuple[float, ...] = setting(
        (), "sweep: its value in each input; rates: each input's learning rate"
    )
    betas: tuple[float, ...] = setting((0.0, 0.65, 1.3, 2.0), "influence: the exponents", minimum=0)
    layers: tuple[int, ...] = setting((), "clusters, scores, activations: layers; four when absent")
    model_labels: tuple[str, ...] = setting((), "how the models are called, in that order")
    controls: tuple[str, ...] = setting((), "trade-off, rates: methods drawn hollow")
    curve: tuple[str, ...] = setting(
        ("sft", "sft-half", "sft-quarter"), "trade-off: one method at several rates, joined"
    )
    tasks: tuple[str, ...] = setting((), "tasks that were trained on, in the order of panels")
    task_labels: tuple[str, ...] = setting((), "how the tasks are called, in that order")
    benchmarks: tuple[str, ...] = setting((), "bars: benchmarks in order; all when absent")
    benchmark_labels: tuple[str, ...] = setting((), "how the benchmarks are called, in that order")

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_labels(self)


@dataclass(frozen=True)
class ExploreSettings(Settings):
    """One page of an experiment's results (ours)."""

    stage: ClassVar[str] = "explore"
    version: ClassVar[int] = 2

    k: int = setting(20, "nearest neighbours that count for in-degrees and clusters", above=0)
    neighbours: int = setting(10, "nearest neighbours that a neuron's page lists", above=0)
    max_megabytes: float = setting(
        10.0, "size of the page; of large models it shows as many neurons as fit", above=0
    )


@dataclass(frozen=True)
class PaperSettings(Settings):
    """All tables and figures of an experiment in one document."""

    stage: ClassVar[str] = "paper"

    title: str = setting("Tables and figures", "title of the document")
    experiment: str = setting("", "name of the experiment")
    models: tuple[str, ...] = setting((), "how the models are called")
    seeds: tuple[int, ...] = setting((), "seeds of the runs")


@dataclass(frozen=True)
class TypesetSettings(Settings):
    """A LaTeX document as PDF."""

    stage: ClassVar[str] = "typeset"


def _check_labels(settings: TableSettings | FigureSettings) -> None:
    labelled = [
        ("model", settings.models, settings.model_labels),
        ("benchmark", settings.benchmarks, settings.benchmark_labels),
        ("task", settings.tasks, settings.task_labels),
    ]
    for noun, names, labels in labelled:
        if labels and len(labels) != len(names):
            raise InputError(
                f"{noun}_labels: expected one for each of {len(names)} {noun}s, found {len(labels)}"
            )
