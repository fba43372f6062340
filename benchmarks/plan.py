"""How far a plan is from what a finished run took, rule by rule.

    python benchmarks/plan.py FOLDER [--machine cpu] [--clock wall] [--until TIME] [--since TIME]

FOLDER is where the run's Snakefile is: Snakemake's records there say every job's command, begin
and end, and its files lie beside. The formulas and the machine's rates are those of this tree.
``--clock processor`` takes the processor's seconds from the benchmark files (jobs without one are
left out): for runs beside others, where the clock shows the others. Rates that were fitted to a run
say nothing about themselves: ``--until`` and ``--since``, seconds as in the records, part it.
The last line is one JSON object: jobs, hours and bytes planned and measured, and their ratios.
"""

import argparse
import base64
import json
import os
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from graph import say

from fnsft.artifacts.storage import size_of
from fnsft.cli.plan import command_of
from fnsft.errors import InputError
from fnsft.planning.costing import cost_of
from fnsft.planning.jobs import PlannedJob, command_words, in_order
from fnsft.planning.known import Known
from fnsft.planning.machines import read_machine
from fnsft.planning.summary import job_seconds


@dataclass(frozen=True)
class Ran:
    """A job that ran: when it began, and what it took in seconds."""

    began: float
    seconds: float


def main() -> None:
    """Parse, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--machine", default="cpu")
    parser.add_argument("--clock", choices=("wall", "processor"), default="wall")
    parser.add_argument("--since", type=float, default=0.0)
    parser.add_argument("--until", type=float, default=float("inf"))
    print(json.dumps(compare(parser.parse_args())))


def compare(arguments: argparse.Namespace) -> dict[str, float]:
    """Return what the last line holds."""
    machine = read_machine(arguments.machine)
    os.chdir(arguments.folder)
    ran = records(arguments.clock)
    known = Known()
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0] * 5)
    for job in in_order(list(ran)):
        try:
            cost = cost_of(job, command_of(job), known)
        except InputError as error:
            say(f"left out: {error}")
            continue
        if not arguments.since <= ran[job].began < arguments.until or ran[job].seconds <= 0:
            continue
        there = [Path(path) for path in job.outputs if Path(path).exists()]
        found = (1, job_seconds(job, cost, machine), ran[job].seconds, cost.kept)
        found = (*found, sum(map(size_of, there)))
        sums[job.rule] = [a + b for a, b in zip(sums[job.rule], found, strict=True)]
    for rule, (n, planned, measured, kept, there) in sums.items():
        say(
            f"{rule:22} {n:4.0f} jobs  {planned / n:8.1f} s planned {measured / n:8.1f} measured  "
            f"{kept / 1e6:9.1f} MB planned {there / 1e6:9.1f} there"
        )
    n, planned, measured, kept, there = (sum(column) for column in zip(*sums.values(), strict=True))
    return {
        "jobs": n,
        "planned_hours": round(planned / 3600, 3),
        "measured_hours": round(measured / 3600, 3),
        "time_ratio": round(planned / measured, 3),
        "planned_bytes": round(kept),
        "measured_bytes": round(there),
        "disk_ratio": round(kept / there, 3),
    }


def records(clock: str) -> dict[PlannedJob, Ran]:
    """Read Snakemake's records of the jobs that ended; their outputs are the records' names."""
    jobs: dict[tuple[str, str], tuple[dict[str, object], list[str]]] = {}
    for path in sorted(Path(".snakemake/metadata").rglob("*")):
        if not path.is_file():
            continue
        record = json.loads(path.read_text())
        if record.get("incomplete") or not record.get("endtime") or not record.get("shellcmd"):
            continue
        output = base64.b64decode(str(path.relative_to(".snakemake/metadata"))).decode()
        jobs.setdefault((record["rule"], record["shellcmd"]), (record, []))[1].append(output)
    ran = {}
    for (rule, command), (record, outputs) in jobs.items():
        inputs = tuple(record["input"])  # type: ignore[arg-type]
        words = command_words(command)
        if "explore" in words[:1]:
            continue
        job = PlannedJob(rule, inputs, tuple(sorted(outputs)), 1, 0, words)
        began, ended = float(record["starttime"]), float(record["endtime"])  # type: ignore[arg-type]
        ran[job] = Ran(began, ended - began if clock == "wall" else processor_seconds(command))
    return ran


def processor_seconds(command: str) -> float:
    """Return the last column of a job's benchmark file, which lies as its log does; else 0."""
    log = re.search(r"2> (\S+)/logs/(\S+)\.log", command)
    path = Path(f"{log[1]}/benchmarks/{log[2]}.tsv") if log else Path("none")
    return float(path.read_text().split()[-1]) if path.is_file() else 0.0


if __name__ == "__main__":
    main()
