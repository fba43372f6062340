"""What a plan amounts to: a row a rule, memory by model and way of training, totals, refusals."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from fnsft.artifacts.storage import size_in_words
from fnsft.planning.jobs import PlannedJob
from fnsft.planning.machines import Machine, memory_of, seconds_of
from fnsft.planning.schedule import resource_of, wall_seconds
from fnsft.planning.work import Cost

HOUR = 3600.0
GIB = float(1 << 30)


@dataclass(frozen=True)
class Row:
    """All jobs of one rule.

    Hours are of GPUs, and of cores for jobs without one; ``memory`` bytes are of the worst job on
    one device, ``kept`` of all jobs on the disk, ``temporary`` of one job.
    """

    rule: str
    jobs: int
    gpu_hours: float
    core_hours: float
    memory: float
    worst: str
    kept: float
    temporary: float


@dataclass(frozen=True)
class Share:
    """What of a plan is about one base model, its twin and its descendants included."""

    model: str
    jobs: int
    gpu_hours: float
    core_hours: float
    kept: float
    price: float


@dataclass(frozen=True)
class Memory:
    """Bytes on each of a job's devices, of the largest run of a model and way of training."""

    model: str
    way: str
    gpus: int
    bytes: float


@dataclass(frozen=True)
class Summary:
    """A plan on a machine, rules by their hours; ``temporary`` is of jobs side by side."""

    rows: tuple[Row, ...]
    models: tuple[Share, ...]
    memory: tuple[Memory, ...]
    jobs: int
    gpu_hours: float
    core_hours: float
    wall_hours: float
    kept: float
    temporary: float
    price: float
    refusals: tuple[str, ...]


def summarise(
    jobs: Sequence[PlannedJob], costs: Sequence[Cost], machine: Machine, disk_bytes: float
) -> Summary:
    """Add up the costs of jobs on a machine, whose disk has so many bytes free."""
    seconds = [job_seconds(job, cost, machine) for job, cost in zip(jobs, costs, strict=True)]
    by_rule: dict[str, list[int]] = defaultdict(list)
    for number, job in enumerate(jobs):
        by_rule[job.rule].append(number)
    rows = tuple(
        sorted(
            (_row(rule, of, jobs, costs, seconds, machine) for rule, of in by_rule.items()),
            key=lambda row: (-round(row.gpu_hours, 3), -round(row.core_hours, 3), row.rule),
        )
    )
    kept = sum(row.kept for row in rows)
    temporary = max(
        (_side_by_side(j, c, machine) for j, c in zip(jobs, costs, strict=True)), default=0
    )
    gpu_hours = sum(row.gpu_hours for row in rows)
    refusals = [_too_large(j, c, machine) for j, c in zip(jobs, costs, strict=True)]
    if kept + temporary > disk_bytes:
        refusals.append(
            f"disk: {size_in_words(int(kept))} to keep and {size_in_words(int(temporary))} for a "
            f"while, {size_in_words(int(disk_bytes))} free; ask for fewer tables, methods or "
            "seeds, or say with --disk-gib what the run's own disk has"
        )
    return Summary(
        rows=rows,
        models=_shares(jobs, costs, seconds, machine),
        memory=_memories(jobs, costs, machine),
        jobs=len(jobs),
        gpu_hours=gpu_hours,
        core_hours=sum(row.core_hours for row in rows),
        wall_hours=wall_seconds(jobs, seconds, machine) / HOUR,
        kept=kept,
        temporary=temporary,
        price=gpu_hours * machine.price,
        refusals=tuple(dict.fromkeys(filter(None, refusals))),
    )


def job_seconds(job: PlannedJob, cost: Cost, machine: Machine) -> float:
    """Return how long a job holds its devices or cores."""
    kind, n = resource_of(job, machine)
    devices, threads = (n, 1) if kind == "gpus" else (1, n)
    return machine.job_seconds + seconds_of(cost.work, machine, devices, threads)


def _row(
    rule: str,
    found: Sequence[int],
    jobs: Sequence[PlannedJob],
    costs: Sequence[Cost],
    seconds: Sequence[float],
    machine: Machine,
) -> Row:
    held = [(*resource_of(jobs[i], machine), seconds[i] / HOUR) for i in found]
    worst = max(found, key=lambda i: (costs[i].memory, costs[i].model))
    return Row(
        rule=rule,
        jobs=len(found),
        gpu_hours=sum(n * hours for kind, n, hours in held if kind == "gpus"),
        core_hours=sum(n * hours for kind, n, hours in held if kind == "cores"),
        memory=memory_of(costs[worst], machine),
        worst=costs[worst].model,
        kept=sum(costs[i].kept for i in found),
        temporary=max(costs[i].temporary for i in found),
    )


def _shares(
    jobs: Sequence[PlannedJob],
    costs: Sequence[Cost],
    seconds: Sequence[float],
    machine: Machine,
) -> tuple[Share, ...]:
    by_model: dict[str, list[int]] = defaultdict(list)
    for number, cost in enumerate(costs):
        by_model[cost.model].append(number)
    shares = []
    for model, found in sorted(by_model.items()):
        row = _row(model, found, jobs, costs, seconds, machine)
        price = row.gpu_hours * machine.price
        shares.append(Share(model, len(found), row.gpu_hours, row.core_hours, row.kept, price))
    return tuple(shares)


def _side_by_side(job: PlannedJob, cost: Cost, machine: Machine) -> float:
    """Return the bytes that jobs as this one hold for a while when all devices run one."""
    kind, n = resource_of(job, machine)
    return cost.temporary * ((machine.gpus if kind == "gpus" else machine.cores) // n)


def _memories(
    jobs: Sequence[PlannedJob], costs: Sequence[Cost], machine: Machine
) -> tuple[Memory, ...]:
    largest: dict[tuple[str, str, int], float] = {}
    for job, cost in zip(jobs, costs, strict=True):
        if cost.way:
            kind, n = resource_of(job, machine)
            key = (cost.model, cost.way, n if kind == "gpus" else 0)
            largest[key] = max(largest.get(key, 0.0), memory_of(cost, machine))
    return tuple(Memory(*key, size) for key, size in sorted(largest.items()))


def _too_large(job: PlannedJob, cost: Cost, machine: Machine) -> str:
    """Say what does not fit, or nothing. A machine's memory is a GPU's, or the host's."""
    kind, n = resource_of(job, machine)
    if machine.has_gpus and kind == "cores":
        return ""  # the host's memory is the scheduler's business: mem_mb
    needed = memory_of(cost, machine)
    if needed <= machine.memory_gib * GIB:
        return ""
    where = f"each of {n} GPUs" if kind == "gpus" else "the host"
    remedy = "use a smaller batch_size"
    if cost.way:
        remedy = "lower micro_batch_size or max_tokens, set gradient_checkpointing, use lora"
        remedy += ", or more GPUs" if kind == "gpus" else ""
    return (
        f"{job.rule}: {cost.model} with {cost.method}: expected at most "
        f"{size_in_words(int(machine.memory_gib * GIB))} on {where}, found "
        f"{size_in_words(int(needed))}; {remedy}"
    )
