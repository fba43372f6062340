"""From a job's command to its cost: the formula of its stage, on what is known of its files."""

from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from fnsft.config.stages import TrainSettings
from fnsft.planning import neuron_costs as neurons
from fnsft.planning import source_costs as sources
from fnsft.planning.evaluation_costs import (
    answer_cost,
    drift_cost,
    evaluate_cost,
    lesion_cost,
    programs_in,
)
from fnsft.planning.jobs import Command, PlannedJob
from fnsft.planning.known import (
    Answers,
    Known,
    Model,
    Neurons,
    Samples,
)
from fnsft.planning.source_costs import SMALL
from fnsft.planning.training_costs import train_cost
from fnsft.planning.work import Cost, Work


def cost_of(job: PlannedJob, command: Command | None, known: Known) -> Cost:
    """Return a job's cost, and leave what it writes with the files that are known.

    Raises
    ------
    InputError
        For a model or data of which neither the files nor the sizes are known.
    """
    if command is None:  # a copy
        return Cost(Work(disk_bytes=SMALL), kept=SMALL if job.outputs else 0)
    formula = _FORMULAS.get(command.stage, _small)
    return formula(job, command, known)


def _statistics(job: PlannedJob, command: Command, known: Known) -> Cost:
    model, data = known.model(command.paths.model), known.samples(command.paths.data)
    kept = 16.0 * model.shape().vocabulary
    work = Work(start="model", tokens_read=data.tokens)
    return Cost(work, kept=kept, model=model.name, method="statistics")


def _capture(job: PlannedJob, command: Command, known: Known) -> Cost:
    model, data = known.model(command.paths.model), known.samples(command.paths.data)
    cost, dump = neurons.capture_cost(model, data, command.settings)
    known.add(command.paths.output, dump)
    return cost


def _project(job: PlannedJob, command: Command, known: Known) -> Cost:
    dump = known.neurons(command.paths.activations)
    cost, graph = neurons.project_cost(dump, command.settings)
    known.add(command.paths.output, graph)
    return cost


def _cluster(job: PlannedJob, command: Command, known: Known) -> Cost:
    graph = known.neurons(command.paths.graph)
    known.add(command.paths.output, replace(graph, kept=command.settings.n_clusters))
    return neurons.cluster_cost(graph, command.settings)


def _measure(job: PlannedJob, command: Command, known: Known) -> Cost:
    paths = command.paths
    graph, unseen = known.neurons(paths.graph), known.neurons(paths.activations)
    clusters = known.neurons(paths.clusters).kept
    return neurons.measure_cost(known.model(paths.model), graph, unseen, clusters, command.settings)


def _networks(job: PlannedJob, command: Command, known: Known) -> Cost:
    paths, settings = command.paths, command.settings
    model, data = known.model(paths.model), known.samples(paths.data[0])
    shape = model.shape()
    found = Neurons(
        model.name, shape.layers, shape.d_mlp, data.tokens, 0.0, kept=settings.n_components
    )
    known.add(paths.output, found)
    return neurons.networks_cost(model, data, len(paths.data), settings)


def _agree(job: PlannedJob, command: Command, known: Known) -> Cost:
    found = known.neurons(command.paths.networks)
    permuted = command.settings.permutations * found.layers * found.d_mlp
    work = Work(start="arrays", host_operations=1e3 * permuted)
    return Cost(work, kept=SMALL, model=found.model, method="agree")


def _lesion(job: PlannedJob, command: Command, known: Known) -> Cost:
    paths = command.paths
    splits = _splits(paths, ("evaluation", "gsm8k"), known)
    found = known.neurons(paths.networks)
    return lesion_cost(known.model(paths.model), splits, found.kept, command.settings)


def _describe(job: PlannedJob, command: Command, known: Known) -> Cost:
    paths = command.paths
    data = known.samples(paths.data) if paths.data else None
    return neurons.describe_cost(known.model(paths.model), data, command.settings)


def _similarity(job: PlannedJob, command: Command, known: Known) -> Cost:
    return neurons.similarity_cost(known.neurons(command.paths.graph), command.settings)


def _overlap(job: PlannedJob, command: Command, known: Known) -> Cost:
    model, data = known.model(command.paths.model), known.samples(command.paths.data)
    return neurons.overlap_cost(model, data, command.settings)


def _train(job: PlannedJob, command: Command, known: Known) -> Cost:
    paths, settings = command.paths, command.settings
    model = known.model(paths.model)
    train = known.samples(Path(paths.data) / "train.jsonl")
    validation = known.samples(Path(paths.data) / "validation.jsonl")
    cost = train_cost(model, train, validation, settings, job.gpus)
    known.add(paths.output, tuned(model, cost.kept, settings))
    return replace(cost, method=paths.method_name or settings.method)


def tuned(model: Model, saved: float, settings: TrainSettings) -> Model:
    """Return the folder that a run writes: whole weights, or an adapter beside its base."""
    beside = model.disk_bytes + model.base_bytes if settings.method == "lora" else 0.0
    return replace(model, disk_bytes=saved, base_bytes=beside)


def _evaluate(job: PlannedJob, command: Command, known: Known) -> Cost:
    splits = _splits(command.paths, ("gsm8k", "perplexity"), known)
    return evaluate_cost(known.model(command.paths.model), splits, command.settings)


def _splits(paths: Namespace, names: Sequence[str], known: Known) -> dict[str, Samples]:
    """Return the splits that a command names, and that it has cloze items."""
    given = {name: getattr(paths, name) for name in names if getattr(paths, name)}
    splits = {name: known.samples(path) for name, path in given.items()}
    if paths.cloze:
        splits["cloze"] = next(iter(splits.values()))  # its items have sizes of their own
    return splits


def _answer(job: PlannedJob, command: Command, known: Known) -> Cost:
    asked = {
        name: (
            benchmark,
            known.samples(Path(benchmark.file))
            if benchmark.kind in ("gsm8k", "exact", "perplexity")
            else None,
        )
        for name, benchmark in command.paths.benchmark.items()
    }
    cost = answer_cost(known.model(command.paths.model), asked, command.settings)
    known.add(command.paths.output, Answers(programs_in(asked), cost.kept))
    return cost


def _score(job: PlannedJob, command: Command, known: Known) -> Cost:
    found = known.things.get(str(command.paths.answers))
    answers = found if isinstance(found, Answers) else Answers(0, SMALL)
    work = Work(start="light", programs=answers.programs, disk_bytes=2 * answers.disk_bytes)
    return Cost(work, kept=answers.disk_bytes / 4, method="score")


def _drift(job: PlannedJob, command: Command, known: Known) -> Cost:
    paths = command.paths
    model, base = known.model(paths.model), known.model(paths.base)
    return drift_cost(model, base, known.samples(paths.data), command.settings)


def _small(job: PlannedJob, command: Command, known: Known) -> Cost:
    """Cost a stage that reads records and writes a little: a table, a figure, a page."""
    start = "arrays" if command.stage in ("figure", "explore") else "light"
    kept = SMALL * max(1, len(job.outputs))
    return Cost(Work(start=start, disk_bytes=kept), kept=kept, method=command.stage)  # type: ignore[arg-type]


_Formula = Callable[[PlannedJob, Command, Known], Cost]
_FORMULAS: dict[str, _Formula] = {
    "fetch": sources.fetch_cost,
    "world": sources.world_cost,
    "pretrain": sources.pretrain_cost,
    "convert": sources.converted_cost,
    "twin": sources.converted_cost,
    "merge": sources.converted_cost,
    "prepare": sources.prepare_cost,
    "statistics": _statistics,
    "capture": _capture,
    "project": _project,
    "cluster": _cluster,
    "measure": _measure,
    "networks": _networks,
    "agree": _agree,
    "lesion": _lesion,
    "describe": _describe,
    "similarity": _similarity,
    "overlap": _overlap,
    "train": _train,
    "evaluate": _evaluate,
    "answer": _answer,
    "score": _score,
    "drift": _drift,
}


def costs_of(
    jobs: Sequence[PlannedJob], commands: Sequence[Command | None], known: Known
) -> list[Cost]:
    """Return the cost of every job, in the order of the jobs."""
    return [cost_of(job, command, known) for job, command in zip(jobs, commands, strict=True)]
