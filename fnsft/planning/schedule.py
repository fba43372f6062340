"""How long jobs take side by side: each begins as soon as its inputs, cores and GPUs are there."""

import heapq
from collections.abc import Sequence

from fnsft.planning.jobs import PlannedJob, needed_by
from fnsft.planning.machines import Machine


def wall_seconds(jobs: Sequence[PlannedJob], seconds: Sequence[float], machine: Machine) -> float:
    """Return when the last job ends.

    Of the jobs whose inputs are there the one with the longest chain of work behind it begins
    first. A job that asks for more cores than the machine has takes what there is, as in Snakemake.
    On a machine with GPUs, a job on a GPU brings its cores along.
    """
    before = needed_by(jobs)
    behind: list[list[int]] = [[] for _ in jobs]
    for number, needed in enumerate(before):
        for other in needed:
            behind[other].append(number)
    chain = _chains(behind, seconds)
    missing = [len(needed) for needed in before]
    ready: dict[str, list[tuple[float, int]]] = {"gpus": [], "cores": []}
    free = {"gpus": machine.gpus, "cores": machine.cores}

    def queue(number: int) -> None:
        heapq.heappush(ready[resource_of(jobs[number], machine)[0]], (-chain[number], number))

    for number, n in enumerate(missing):
        if n == 0:
            queue(number)
    running: list[tuple[float, int]] = []
    now = 0.0
    while running or any(ready.values()):
        for kind, places in ready.items():
            while places and (n := resource_of(jobs[places[0][1]], machine)[1]) <= free[kind]:
                number = heapq.heappop(places)[1]
                free[kind] -= n
                heapq.heappush(running, (now + seconds[number], number))
        now, done = heapq.heappop(running)
        kind, n = resource_of(jobs[done], machine)
        free[kind] += n
        for number in behind[done]:
            missing[number] -= 1
            if missing[number] == 0:
                queue(number)
    return now


def resource_of(job: PlannedJob, machine: Machine) -> tuple[str, int]:
    """Return what a job occupies, GPUs or cores, and how many."""
    if machine.has_gpus and job.gpus:
        return "gpus", min(job.gpus, machine.gpus)
    return "cores", min(job.threads, machine.cores)


def _chains(behind: Sequence[Sequence[int]], seconds: Sequence[float]) -> list[float]:
    """Return of every job the seconds of the longest chain that begins with it."""
    chain = [0.0] * len(behind)
    for number in reversed(range(len(behind))):  # jobs stand after those that they need
        chain[number] = seconds[number] + max((chain[other] for other in behind[number]), default=0)
    return chain
