"""An experiment: catalogues, a selection, and the runs that they amount to.

Pure: a mapping (the merged YAML) in, settings and run names out. The workflow's rules ask
this module for the settings of a stage and add nothing but paths.
"""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, TypeVar

from fnsft.config.catalogues import (
    BenchmarkEntry,
    FigureEntry,
    GraphEntry,
    LaterStages,
    MeasuresEntry,
    MethodEntry,
    ModelEntry,
    NetworksEntry,
    PaperEntry,
    Selection,
    SequenceEntry,
    SuiteEntry,
    SweepEntry,
    TableEntry,
    TaskEntry,
)
from fnsft.config.names import GRAPH, NULL, TWIN, StageModel, Variant
from fnsft.config.settings import Settings, fields_of, nearest
from fnsft.config.stages import (
    FRACTION_METHODS,
    AgreeSettings,
    AnswerSettings,
    Benchmark,
    CaptureSettings,
    ClusterSettings,
    DescribeSettings,
    DriftSettings,
    EvaluateSettings,
    LesionSettings,
    MeasureSettings,
    NetworksSettings,
    Neurons,
    OverlapSettings,
    PrepareSettings,
    PretrainSettings,
    ProjectSettings,
    ScoreSettings,
    SimilaritySettings,
    StatisticsSettings,
    TrainSettings,
    WorldSettings,
)
from fnsft.errors import InputError

S = TypeVar("S", bound=Settings)
P = ParamSpec("P")
R = TypeVar("R")

NETWORK_FIGURES = ("connectivity", "coverage", "lesions", "networks-clusters")
SEQUENCE_KINDS = ("continual", "transfer", "trade-off", "rates")
SUITE_KINDS = ("benchmarks", "bars")
SIMILARITY_KINDS = ("similarity", "similarity-layers")
GRAPHLESS_FIGURES = (
    *("perplexity", "sweep", "updates", "telemetry", "influence", "activations"),
    *("connectivity", "coverage", "lesions", "bars", "trade-off", "rates"),
)


def kept(
    method: Callable[Concatenate["Experiment", P], R],
) -> Callable[Concatenate["Experiment", P], R]:
    """Make a method keep what it returned: a workflow asks the same for thousands of jobs."""

    @functools.wraps(method)
    def asked(self: "Experiment", *arguments: P.args, **keywords: P.kwargs) -> R:
        found: dict[Any, R] = self.__dict__.setdefault("_kept", {})
        key = (method.__name__, arguments, tuple(keywords.items()))
        if key not in found:
            found[key] = method(self, *arguments, **keywords)
        return found[key]

    return asked


@dataclass(frozen=True)
class Experiment:
    """A configuration. Every method returns settings or names; none touches a file."""

    config: dict[str, Any]

    @property
    def name(self) -> str:
        """The experiment's name: the folder below ``results/``."""
        return str(self.config["experiment"])

    @kept
    def model(self, name: str) -> ModelEntry:
        """Return a base model's entry; that of its random-initialised twin is its own."""
        name = name.removesuffix(TWIN)
        return ModelEntry.from_mapping(self._entry("models", name), f"models.{name}")

    @kept
    def task(self, name: str) -> TaskEntry:
        """Return a task's entry, without the settings of its preparation."""
        return TaskEntry.from_mapping(_part(self._entry("tasks", name), TaskEntry), f"tasks.{name}")

    @kept
    def method(self, name: str) -> MethodEntry:
        """Return a method's entry."""
        return MethodEntry.from_mapping(self._entry("methods", name), f"methods.{name}")

    @kept
    def method_settings(self, name: str) -> TrainSettings:
        """Return a method's settings at any fraction."""
        settings = dict(self.config.get("training", {})) | self.method(name).settings
        settings |= {"fraction": 0.5} if self.has_fraction(name) else {}
        return TrainSettings.from_mapping(settings, f"methods.{name}")

    def has_fraction(self, method: str) -> bool:
        """Return whether a method has a share p."""
        return self.method(method).settings.get("method", "sft") in FRACTION_METHODS

    @kept
    def benchmark_entry(self, name: str) -> BenchmarkEntry:
        """Return where a benchmark's items come from."""
        own = _part(self._entry("benchmarks", name), BenchmarkEntry)
        return BenchmarkEntry.from_mapping(own, f"benchmarks.{name}")

    @kept
    def benchmark(self, name: str, file: str, examples: str | None) -> Benchmark:
        """Return how a benchmark is asked; its items, and the rows of its shots, are in files."""
        own = _part(self._entry("benchmarks", name), Benchmark)
        own |= {"file": file, "examples": examples}
        return Benchmark.from_mapping(own, f"benchmarks.{name}")

    @kept
    def suite(self, name: str) -> tuple[str, ...]:
        """Return the benchmarks of a suite."""
        return SuiteEntry.from_mapping(self._entry("suites", name), f"suites.{name}").benchmarks

    @kept
    def sequence(self, name: str) -> SequenceEntry:
        """Return the stages of a sequence."""
        return SequenceEntry.from_mapping(self._entry("sequences", name), f"sequences.{name}")

    def stage_models(self, model: str, sequence: str, variant: str) -> list[StageModel]:
        """Return the models of a sequence, from the base model to the one after its last stage.

        A method that names an ``earlier`` one shares that one's stages but the last; one learning
        rate of several is the last stage's alone.
        """
        chosen = self.known_variants[variant]
        method = self.method(chosen.method).earlier or chosen.method
        fraction = chosen.fraction if self.has_fraction(method) else None
        before = dataclasses.replace(chosen, method=method, fraction=fraction, factor=None)
        *tasks, last = self.sequence(sequence).tasks
        models = [StageModel(model)]
        for task, chosen_there in [*((task, before) for task in tasks), (last, chosen)]:
            models.append(models[-1].after(task, str(chosen_there)))
        return models

    @kept
    def selection(self, catalogue: str = "", name: str = "") -> Selection:
        """Return what ``run`` covers or, with its own keys in place, a table or figure."""
        keys, where = dict(self.config["run"]), "run"
        if catalogue:
            where = f"{catalogue}.{name}"
            keys |= _part(self._entry(catalogue, name), Selection)
        selection = Selection.from_mapping(keys, where)
        for model in selection.models:
            self.model(model)
        self.task(selection.task)
        for method in (*selection.methods, *selection.controls):
            self.method(method)
        if selection.sequence:
            self.sequence(selection.sequence)
        for suite in selection.suites:
            self.suite(suite)
        return selection

    @kept
    def table(self, name: str) -> TableEntry:
        """Return what a table measures."""
        return TableEntry.from_mapping(
            _part(self._entry("tables", name), TableEntry), f"tables.{name}"
        )

    @kept
    def figure(self, name: str) -> FigureEntry:
        """Return what a figure draws."""
        entry = _part(self._entry("figures", name), FigureEntry)
        figure = FigureEntry.from_mapping(entry, f"figures.{name}")
        for task in figure.tasks:
            self.task(task)
        if figure.kind in NETWORK_FIGURES:
            self.networks(figure.networks)
        if figure.kind not in GRAPHLESS_FIGURES and self.project(figure.graph).dense:
            raise InputError(
                f"figures.{name}: expected a graph of neighbours, found {figure.graph!r}, "
                "which is dense"
            )
        return figure

    def paper(self) -> PaperEntry:
        """Return what the paper holds: entries of the catalogues, each once."""
        paper = self._section("paper", PaperEntry)
        if "paper" in self.config and not (paper.tables or paper.figures):
            raise InputError("paper: expected tables or figures, found neither; name some")
        for catalogue, names in (("tables", paper.tables), ("figures", paper.figures)):
            known = list(self.config[catalogue])
            for place, name in enumerate(names):
                if name not in known:
                    near = nearest(name, known)
                    raise InputError(f"paper.{catalogue}: {name!r} is none of {catalogue}; {near}")
                if name in names[:place]:
                    raise InputError(f"paper.{catalogue}: expected each once, found {name!r} twice")
        return paper

    def points(self, figure: str) -> list[tuple[str, float, Variant]]:
        """Return a sweep figure's hyperparameters, their values, and the variants trained."""
        entry, selection = self.figure(figure), self.selection("figures", figure)
        methods = (*selection.methods, *selection.controls)
        return [
            point
            for variant in self.variants(methods, selection.fractions)
            for point in [
                *(("k", k, dataclasses.replace(variant, k=k)) for k in entry.ks),
                *(("beta", b, dataclasses.replace(variant, beta=b)) for b in entry.betas),
            ]
        ]

    def rates(self, figure: str) -> list[Variant]:
        """Return the variants of a figure over learning rates of the last stage.

        At its own rate a method is that of the tables.
        """
        entry, selection = self.figure(figure), self.selection("figures", figure)
        methods = (*selection.methods, *selection.controls)
        return [
            dataclasses.replace(variant, factor=None if factor == 1 else factor)
            for variant in self.variants(methods, selection.fractions)
            for factor in entry.factors
        ]

    def sweep(self) -> SweepEntry:
        """Return the learning-rate sweep."""
        return SweepEntry.from_mapping(self.config.get("sweep", {}), "sweep")

    def variants(self, methods: tuple[str, ...], fractions: tuple[float, ...]) -> list[Variant]:
        """Return every method at every fraction; methods without a mask once."""
        found = []
        for method in methods:
            shares = fractions if self.has_fraction(method) else (None,)
            found += [Variant(method, share) for share in shares]
        return found

    def sweep_variants(self) -> list[Variant]:
        """Return every method of the sweep at every learning rate."""
        sweep = self.sweep()
        return [
            dataclasses.replace(variant, learning_rate=rate)
            for variant in self.variants(sweep.methods, sweep.fractions)
            for rate in sweep.learning_rates
        ]

    def with_masks(self, selection: Selection) -> Selection:
        """Return a selection without the methods that have no mask."""

        def masked(methods: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(name for name in methods if self.method_settings(name).masked)

        methods, controls = masked(selection.methods), masked(selection.controls)
        return dataclasses.replace(selection, methods=methods, controls=controls)

    def selections(self) -> list[Selection]:
        """Return what ``run`` and every table and figure cover."""
        return [
            self.selection(),
            *(self.selection(c, name) for c in ("tables", "figures") for name in self.config[c]),
        ]

    @functools.cached_property
    def known_variants(self) -> dict[str, Variant]:
        """All variants that anything trains, by name."""
        known = self.sweep_variants()
        for selection in self.selections():
            methods = (*selection.methods, *selection.controls)
            earlier = (self.method(method).earlier for method in methods)
            named = tuple(dict.fromkeys((*methods, *filter(None, earlier))))
            known += self.variants(named, selection.fractions)
        for name in self.config["figures"]:
            if self.figure(name).kind == "sweep":
                known += [variant for _, _, variant in self.points(name)]
            if self.figure(name).kind == "rates":
                known += self.rates(name)
        return {str(variant): variant for variant in known}

    @kept
    def training(self, variant: str, seed: int, stage: int = 1, task: str = "") -> TrainSettings:
        """Return the settings of one run: shared ones, the method's own, fraction and seed.

        After the first ``stage`` of a sequence, what ``later_stages`` says is put in; of a
        ``task`` its objective, and what it says of learning rates.
        """
        chosen = self.known_variants[variant]
        entry = self.method(chosen.method)
        settings = dict(self.config.get("training", {})) | entry.settings | {"seed": seed}
        if chosen.fraction is not None:
            settings["fraction"] = chosen.fraction
        if chosen.learning_rate is not None:
            settings["learning_rate"] = chosen.learning_rate
        if chosen.k is not None:
            settings["k"] = chosen.k
        factor = chosen.factor or 1.0
        if stage > 1:
            later = self._section("later_stages", LaterStages)
            factor *= later.learning_rate_factor
            settings |= {"epochs": later.epochs} if later.epochs else {}
        where = f"methods.{chosen.method}"
        if task:
            entry_of_task = self.task(task)
            factor *= entry_of_task.learning_rate_factor
            if entry_of_task.objective != "completion":
                settings["objective"] = entry_of_task.objective
                where += f" on tasks.{task}"
        found = TrainSettings.from_mapping(settings, where)
        assert found.learning_rate is not None
        rate = float(f"{found.learning_rate * factor:.6g}")  # no 0.00020000000000000004 in a flag
        return dataclasses.replace(found, learning_rate=rate)

    @kept
    def graph_of(self, variant: str) -> str | None:
        """Return the name of the graph that a variant reads, or None."""
        chosen = self.known_variants[variant]
        graph = self.method(chosen.method).graph
        return graph if graph is None or chosen.beta is None else f"{graph}+beta{chosen.beta:g}"

    def reads_clusters(self, variant: str) -> bool:
        """Return whether a variant reads its graph's clusters instead of the graph."""
        return self.method_settings(self.method_of(variant)).wanted_structure == "clusters"

    def networks_of(self, variant: str) -> str | None:
        """Return the name of the networks that a variant masks, or None."""
        return self.method(self.known_variants[variant].method).networks

    def calibration_of(self, variant: str, before: str | None) -> str | None:
        """Return the task that a variant protects: the stage's ``before``, else its entry's.

        None where its own samples do, and where it looks at none.
        """
        settings = self.method_settings(self.method_of(variant))
        if settings.method != "ssu" or settings.column_score != "wanda":
            return None
        return before or self.method(self.method_of(variant)).calibration

    def is_plain(self, variant: str) -> bool:
        """Return whether a variant's model folder holds all that the next stage begins with."""
        settings = self.method_settings(self.method_of(variant))
        return settings.method != "lora" and settings.forward_mode is None

    def has_forward_mask(self, method: str) -> bool:
        """Return whether a method masks the forward pass."""
        return self.method_settings(method).forward_mode is not None

    def method_of(self, variant: str) -> str:
        """Return the name of a variant's method."""
        return self.known_variants[variant].method

    @kept
    def prepare(self, task: str, seed: int) -> PrepareSettings:
        """Return the settings that make a task's splits."""
        own = _part(self._entry("tasks", task), PrepareSettings)
        return PrepareSettings.from_mapping(own | {"seed": seed}, f"tasks.{task}")

    @kept
    def project(self, graph: str) -> ProjectSettings:
        """Return the settings of a graph.

        A name of the catalogue may be followed by ``+null`` (token-shuffled), ``+even`` or
        ``+odd`` (half of the samples) and ``+beta0.5`` (another β), in this order.
        """
        parts = GRAPH.fullmatch(graph)
        assert parts, graph
        name = parts["name"]
        entry = self._entry("graphs", name)
        settings = {key: entry[key] for key in entry if key not in fields_of(GraphEntry)}
        settings |= {"shuffle_tokens": True} if parts["null"] else {}
        settings |= {"documents": parts["half"]} if parts["half"] else {}
        settings |= {"beta": parts["beta"]} if parts["beta"] else {}
        return ProjectSettings.from_mapping(settings, f"graphs.{name}")

    def neurons_of(self, graph: str) -> Neurons:
        """Return whose neurons a graph is of; what follows a name changes nothing."""
        name = graph.split("+")[0]
        own = _part(self._entry("graphs", name), GraphEntry)
        return GraphEntry.from_mapping(own, f"graphs.{name}").neurons

    @kept
    def networks(self, name: str) -> NetworksSettings:
        """Return how networks are found; ``+null`` behind a name is their token-shuffled null."""
        own = _part(self._entry("networks", name.removesuffix(NULL)), NetworksSettings)
        own |= {"shuffle_tokens": True} if name.endswith(NULL) else {}
        return NetworksSettings.from_mapping(own, f"networks.{name}")

    def networks_tasks(self, name: str, task: str) -> tuple[str, ...]:
        """Return the tasks that networks are found from, the task at hand first."""
        own = _part(self._entry("networks", name.removesuffix(NULL)), NetworksEntry)
        also = NetworksEntry.from_mapping(own, f"networks.{name}").also
        return (task, *(other for other in also if other != task))

    @kept
    def lesion(self) -> LesionSettings:
        """Return the settings of the lesions; the length limit is training's."""
        limit = self._section("training", TrainSettings).max_tokens
        own = self.config.get("lesions", {})
        return LesionSettings.from_mapping({"max_tokens": limit} | own, "lesions")

    def agree(self) -> AgreeSettings:
        """Return the settings of the agreement of networks and clusters."""
        return AgreeSettings()

    def cluster(self) -> ClusterSettings:
        """Return the settings of the clusterings."""
        return self._section("clustering", ClusterSettings)

    @property
    def against(self) -> str:
        """The task whose clusters the measures compare, or nothing."""
        return self._section("measures", MeasuresEntry).against

    def measure(self, graph: str) -> MeasureSettings:
        """Return the settings of a graph's measures."""
        entry = self._section("measures", MeasuresEntry)
        return MeasureSettings(k=entry.k, shuffle_tokens="+null" in graph)

    @kept
    def describe(self) -> DescribeSettings:
        """Return the settings of descriptions of neurons; the length limit is training's."""
        limit = self._section("training", TrainSettings).max_tokens
        own = self.config.get("descriptions", {})
        return DescribeSettings.from_mapping({"max_tokens": limit} | own, "descriptions")

    def database(self, model: str) -> str | None:
        """Return the file of published descriptions of a base model; a twin's are its own."""
        return self.model(model).descriptions if model in self.config["models"] else None

    def similarity(self) -> SimilaritySettings:
        """Return how descriptions of neighbours are compared."""
        return self._section("similarity", SimilaritySettings)

    def overlap(self) -> OverlapSettings:
        """Return the settings of the masks' overlap; the length limit is training's."""
        limit = self._section("training", TrainSettings).max_tokens
        own = self.config.get("overlap", {})
        return OverlapSettings.from_mapping({"max_tokens": limit} | own, "overlap")

    def world(self) -> WorldSettings:
        """Return the settings of the synthetic world."""
        return self._section("world", WorldSettings)

    def pretrain(self) -> PretrainSettings:
        """Return the settings of the tiny base model."""
        return self._section("pretrain", PretrainSettings)

    def statistics(self) -> StatisticsSettings:
        """Return the settings of the token statistics; the length limit is training's."""
        return StatisticsSettings(max_tokens=self._section("training", TrainSettings).max_tokens)

    @kept
    def capture(self, with_values: bool = True, neurons: Neurons = "mlp") -> CaptureSettings:
        """Return the settings of an activation dump; the length limit is training's."""
        limit = self._section("training", TrainSettings).max_tokens
        own = self.config.get("capture", {}) | ({} if with_values else {"sampled_tokens": 0})
        if "neurons" in own:
            raise InputError("capture: neurons: a graph says whose it is of; write it in graphs")
        found = {"max_tokens": limit, "neurons": neurons} | own
        return CaptureSettings.from_mapping(found, "capture")

    @kept
    def evaluate(self, forward_mask: str = "on") -> EvaluateSettings:
        """Return the settings of the evaluation, of masked models with or without their mask."""
        own = self.config.get("evaluation", {}) | {"forward_mask": forward_mask}
        return EvaluateSettings.from_mapping(own, "evaluation")

    @kept
    def answer(self) -> AnswerSettings:
        """Return the settings of the answers to benchmarks; the length limit is training's."""
        limit = self._section("training", TrainSettings).max_tokens
        own = self.config.get("answers", {})
        return AnswerSettings.from_mapping({"max_tokens": limit} | own, "answers")

    def score(self) -> ScoreSettings:
        """Return the settings of the answers' scores."""
        return self._section("scoring", ScoreSettings)

    @kept
    def drift(self) -> DriftSettings:
        """Return the settings of the distance to a stage's first model."""
        limit = self._section("training", TrainSettings).max_tokens
        own = self.config.get("drift", {})
        return DriftSettings.from_mapping({"max_tokens": limit} | own, "drift")

    def _section(self, key: str, cls: type[S]) -> S:
        return cls.from_mapping(self.config.get(key, {}), key)

    def _entry(self, catalogue: str, name: str) -> dict[str, Any]:
        entries = self.config.get(catalogue, {})
        if name not in entries:
            known = ", ".join(sorted(entries)) or "none"
            raise InputError(f"{catalogue}: no entry {name!r}; there are {known}")
        return dict(entries[name])


def _part(entry: dict[str, Any], cls: type[Settings]) -> dict[str, Any]:
    """Return the keys of an entry that are fields of ``cls``."""
    return {key: value for key, value in entry.items() if key in fields_of(cls)}
