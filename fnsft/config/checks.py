"""Mistakes in an experiment, named before anything is planned."""

from collections.abc import Iterable

from fnsft.config.catalogues import FigureEntry, Selection, TableEntry
from fnsft.config.experiment import SEQUENCE_KINDS, SIMILARITY_KINDS, SUITE_KINDS, Experiment
from fnsft.config.names import NAME, Variant
from fnsft.config.stages import TrainSettings
from fnsft.errors import InputError

CATALOGUES = (
    *("models", "tasks", "benchmarks", "suites", "sequences", "methods", "graphs", "networks"),
    *("tables", "figures"),
)
PAGES = ("paper", "explore")  # what else lies beside the tables


def check(experiment: Experiment) -> None:
    """Build every entry once.

    Raises
    ------
    InputError
        For the first mistake: where it is, what was expected and what was found.
    """
    _check_names(experiment)
    _check_sections(experiment)
    _check_data(experiment)
    for name in experiment.config["tables"]:
        _check_subject(experiment, "tables", name, experiment.table(name))
    for name in experiment.config["figures"]:
        _check_subject(experiment, "figures", name, experiment.figure(name))
    _check_structures(experiment)
    _check_trainings(experiment)


def _check_names(experiment: Experiment) -> None:
    if not NAME.fullmatch(experiment.name):
        raise InputError(f"experiment: expected a folder's name, found {experiment.name!r}")
    for catalogue in CATALOGUES:
        for name in _names(experiment, catalogue):
            if not NAME.fullmatch(name):
                raise InputError(f"{catalogue}: expected a folder's name, found {name!r}")
    if taken := [name for name in PAGES if name in experiment.config["tables"]]:
        raise InputError(
            f"tables: expected another name than {taken[0]!r}, which names the files of fnsft "
            f"{taken[0]}; rename it"
        )


def _check_sections(experiment: Experiment) -> None:
    """Build what the stages share."""
    of = experiment
    of.evaluate(), of.capture(), of.world(), of.pretrain(), of.sweep_variants()
    of.cluster(), of.overlap(), of.measure(""), of.lesion()
    of.answer(), of.score(), of.drift()
    of.describe(), of.similarity(), of.paper()
    if of.against:
        of.task(of.against)


def _check_data(experiment: Experiment) -> None:
    """Build models, tasks, and what asks for tasks: benchmarks, suites and sequences."""
    for name in experiment.config["models"]:
        experiment.model(name)
    for name in experiment.config["tasks"]:
        experiment.task(name), experiment.prepare(name, seed=0)
    for name in _names(experiment, "benchmarks"):
        entry = experiment.benchmark_entry(name)
        asked = experiment.benchmark(name, entry.file, entry.examples)
        for task in filter(None, (entry.task, asked.measures)):
            experiment.task(task)
    for name in _names(experiment, "suites"):
        for benchmark in experiment.suite(name):
            experiment.benchmark_entry(benchmark)
    for name in _names(experiment, "sequences"):
        sequence = experiment.sequence(name)
        for task in sequence.tasks:
            experiment.task(task)
        every = [b for suite in sequence.suites for b in experiment.suite(suite)]
        if twice := sorted(b for b in set(every) if every.count(b) > 1):
            raise InputError(f"sequences.{name}: suites: {twice[0]!r} is in two of them")


def _check_structures(experiment: Experiment) -> None:
    """Build graphs and networks, and what tables read of them."""
    for name in _names(experiment, "graphs"):
        experiment.project(name)
    for name in _names(experiment, "networks"):
        experiment.networks(name)
        for task in experiment.networks_tasks(name, ""):
            experiment.task(task or experiment.selection().task)
    for name in experiment.config["tables"]:
        if experiment.table(name).kind == "networks":
            experiment.networks(experiment.table(name).networks)


def _check_trainings(experiment: Experiment) -> None:
    """Build the settings of every training, and compare them with what the training reads."""
    for selection in experiment.selections():
        sequence = selection.sequence
        stages = experiment.sequence(sequence).tasks if sequence else ()
        methods = (*selection.methods, *selection.controls)
        for name in map(str, experiment.variants(methods, selection.fractions)):
            for task in (selection.task, *stages):
                experiment.training(name, seed=0, task=task)
    for name, variant in experiment.known_variants.items():
        experiment.training(name, seed=0)
        if protected := experiment.method(variant.method).calibration:
            experiment.task(protected)
        if earlier := experiment.method(variant.method).earlier:
            _check_earlier(experiment, variant.method, earlier)
        if graph := experiment.graph_of(name):
            _check_affinity(experiment, variant, graph)
        if networks := experiment.networks_of(name):
            _check_components(experiment, variant, networks)


def _check_subject(
    experiment: Experiment, catalogue: str, name: str, entry: TableEntry | FigureEntry
) -> None:
    """Refuse a table or figure that lacks the sequence or the suites of its kind."""
    where, kind = f"{catalogue}.{name}", entry.kind
    selection = experiment.selection(catalogue, name)
    if kind in SEQUENCE_KINDS and not selection.sequence:
        raise InputError(f"{where}: kind {kind!r} needs a sequence; name one of sequences")
    if kind in SUITE_KINDS and not selection.suites:
        raise InputError(f"{where}: kind {kind!r} needs suites; name some of suites")
    if isinstance(entry, TableEntry) and kind in SIMILARITY_KINDS:
        project, k = experiment.project(entry.graph), experiment.similarity().k
        if experiment.neurons_of(entry.graph) != "mlp":
            raise InputError(f"{where}: descriptions are of MLPs; name another of graphs")
        if project.dense or k > project.k_max:
            raise InputError(
                f"{where}: expected a graph of {k} neighbours or more (similarity.k), found "
                f"graphs.{entry.graph}, which is dense or keeps {project.k_max}"
            )
    methods = (*selection.methods, *selection.controls)
    compared = kind in ("continual", "benchmarks") and bool(selection.methods)
    if isinstance(entry, TableEntry) and compared:
        _check_reference(experiment, where, entry.reference, selection)
    curve = entry.curve if kind in ("transfer", "trade-off") else ()
    if other := [method for method in curve if method not in methods]:
        raise InputError(f"{where}: curve: {other[0]!r} is none of its methods")
    several = isinstance(entry, FigureEntry) and bool(entry.tasks)
    if several and (kind != "perplexity" or selection.sequence):
        of = f" of sequence {selection.sequence}" if selection.sequence else ""
        raise InputError(
            f"{where}: tasks: expected kind 'perplexity' without a sequence, found kind "
            f"{kind!r}{of}; name one task"
        )
    if isinstance(entry, FigureEntry) and kind == "rates" and not entry.factors:
        raise InputError(f"{where}: kind 'rates' needs factors of the learning rate, found none")


def _check_reference(
    experiment: Experiment, where: str, reference: str, selection: Selection
) -> None:
    """Refuse a reference that is not there, or there at several p."""
    if reference not in (*selection.methods, *selection.controls):
        raise InputError(f"{where}: reference: {reference!r} is none of its methods")
    if experiment.has_fraction(reference) and len(selection.fractions) > 1:
        found = ", ".join(f"{p:g}" for p in selection.fractions)
        raise InputError(
            f"{where}: reference: {reference!r} has several fractions, found {found}; give "
            "fractions one, or name a method without any"
        )


def _check_earlier(experiment: Experiment, method: str, earlier: str) -> None:
    """Refuse an earlier method whose share p nothing says."""
    if experiment.has_fraction(earlier) and not experiment.has_fraction(method):
        raise InputError(
            f"methods.{method}: earlier: {earlier!r} has a fraction, and {method!r} none to "
            "give it; name a method without one"
        )


def _check_affinity(experiment: Experiment, variant: Variant, graph: str) -> None:
    where, settings = f"methods.{variant.method}", experiment.method(variant.method).settings
    affinity, project = settings.get("affinity"), experiment.project(graph)
    wanted, found = experiment.method_settings(variant.method).neurons, experiment.neurons_of(graph)
    if wanted != found:
        raise InputError(
            f"{where}: neurons: {wanted!r} needs a graph of these; graphs.{graph} is of {found!r}"
        )
    if (affinity == "dense") != project.dense:
        raise InputError(
            f"{where}: affinity {affinity!r} needs a graph with "
            f"dense: {str(affinity == 'dense').lower()}; graphs.{graph} is another"
        )
    k = settings.get("k", TrainSettings.k) if variant.k is None else variant.k
    if experiment.method_settings(variant.method).wanted_structure == "clusters":
        k = experiment.cluster().k
    if affinity != "dense" and k > project.k_max:
        raise InputError(f"{where}: k={k} is more than graphs.{graph} keeps, k_max={project.k_max}")


def _check_components(experiment: Experiment, variant: Variant, networks: str) -> None:
    settings, found = experiment.method_settings(variant.method), experiment.networks(networks)
    asked = {*settings.component_ids, *(i for ids in settings.unfreezing() for i in ids)}
    if found.scope == "stack" and max(asked) >= found.n_components:
        raise InputError(
            f"methods.{variant.method}: component_ids: expected networks 0 to "
            f"{found.n_components - 1} of networks.{networks}, found {max(asked)}"
        )


def _names(experiment: Experiment, catalogue: str) -> Iterable[str]:
    return experiment.config.get(catalogue, {})
