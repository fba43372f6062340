"""What an experiment's run, tables and figures are made from: models, tasks and benchmarks."""

from dataclasses import dataclass

from fnsft.config.experiment import (
    NETWORK_FIGURES,
    SEQUENCE_KINDS,
    SIMILARITY_KINDS,
    SUITE_KINDS,
    Experiment,
)

MEASURED = ("agreement", "structure", "scores")


@dataclass(frozen=True)
class Needs:
    """Names of the catalogues' entries, each once, in order."""

    models: tuple[str, ...]
    tasks: tuple[str, ...]
    benchmarks: tuple[str, ...] = ()


def needs_of(experiment: Experiment) -> Needs:
    """Return the base models, tasks and benchmarks of everything that an experiment can make.

    Beside the tasks that are selected, networks may be found from further ones, and measures of
    graphs compare with another one. A table or figure that names models of its own is left out
    when none of them has the run's origin: an overlay that trains a tiny model, or the user's own
    folder, inherits those of the papers and their models of the hub, and means none of them.
    """
    origins = {experiment.model(model).origin for model in experiment.selection().models}
    models: dict[str, None] = {}
    tasks: dict[str, None] = {}
    benchmarks: dict[str, None] = {}
    catalogues = [("tables", name) for name in experiment.config["tables"]]
    catalogues += [("figures", name) for name in experiment.config["figures"]]
    for catalogue, name in [("", ""), *catalogues]:
        selection = experiment.selection(catalogue, name)
        if origins.isdisjoint(experiment.model(model).origin for model in selection.models):
            continue
        models |= dict.fromkeys(selection.models)
        tasks |= dict.fromkeys([selection.task])
        for method in (*selection.methods, *selection.controls):
            tasks |= dict.fromkeys(filter(None, [experiment.method(method).calibration]))
        for networks in _networks(experiment, catalogue, name):
            tasks |= dict.fromkeys(experiment.networks_tasks(networks, selection.task))
        sequence, suites = _asked(experiment, catalogue, name)
        tasks |= dict.fromkeys(sequence)
        for benchmark in (b for suite in suites for b in experiment.suite(suite)):
            benchmarks[benchmark] = None
            if task := experiment.benchmark_entry(benchmark).task:
                tasks[task] = None
        measured = catalogue == "figures" and experiment.figure(name).kind in MEASURED
        if measured and experiment.against:
            tasks[experiment.against] = None
    return Needs(tuple(models), tuple(tasks), tuple(benchmarks))


def _asked(
    experiment: Experiment, catalogue: str, name: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the further tasks, such as a sequence's, and the suites of a table or figure."""
    selection = experiment.selection(catalogue, name)
    kind: str = experiment.table(name).kind if catalogue == "tables" else ""
    kind = experiment.figure(name).kind if catalogue == "figures" else kind
    if kind in SEQUENCE_KINDS:
        sequence = experiment.sequence(selection.sequence)
        return sequence.tasks, sequence.suites
    if kind == "perplexity":
        stages = experiment.sequence(selection.sequence).tasks if selection.sequence else ()
        return (*stages, *experiment.figure(name).tasks), ()
    return (), selection.suites if kind in SUITE_KINDS else ()


def _networks(experiment: Experiment, catalogue: str, name: str) -> list[str]:
    """Return the names of the networks that a run, table or figure reads."""
    selection = experiment.selection(catalogue, name)
    methods = (*selection.methods, *selection.controls)
    found = [experiment.method(method).networks for method in methods]
    if catalogue == "tables" and experiment.table(name).kind in SIMILARITY_KINDS:
        return []
    if catalogue == "tables" and experiment.table(name).kind == "networks":
        found = [experiment.table(name).networks]
    if catalogue == "figures" and experiment.figure(name).kind in NETWORK_FIGURES:
        found = [experiment.figure(name).networks]
    return [networks for networks in found if networks]
