"""``fnsft plan``: what a configuration costs, and whether it fits, before anything runs."""

import argparse
import dataclasses
import functools
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from fnsft.cli.flags import read_settings
from fnsft.errors import InputError

if TYPE_CHECKING:
    from fnsft.planning.jobs import Command, PlannedJob
    from fnsft.planning.machines import Machine

SETTINGS = None


def add_paths(parser: argparse.ArgumentParser) -> None:
    """Add the configuration as Snakemake takes it, the machine, and the form of the output."""
    parser.add_argument(
        "targets", nargs="*", help="files or rules, as for snakemake; its default when absent"
    )
    parser.add_argument(
        "--configfile", type=Path, nargs="+", default=[], help="overlays, as for snakemake"
    )
    parser.add_argument("--config", nargs="+", default=[], metavar="KEY=VALUE", help="the same")
    parser.add_argument(
        "--machine",
        default="a100",
        metavar="NAME|FILE",
        help="rates, by a name in workflow/machines or from a YAML file (default a100)",
    )
    parser.add_argument("--gpus", type=int, metavar="N", help="GPUs at a time, not the machine's")
    parser.add_argument("--cores", type=int, metavar="N", help="cores at a time, the same")
    parser.add_argument("--price", type=float, metavar="X", help="of a GPU hour, the same")
    parser.add_argument(
        "--disk-gib",
        type=float,
        metavar="X",
        help="free on the disk of the results (default: what is free here)",
    )
    parser.add_argument(
        "--all", action="store_true", help="count what is finished too, as from nothing"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object")


def run(arguments: argparse.Namespace, settings: None) -> None:
    """Ask Snakemake for its jobs, cost each, print the sums; refuse what cannot fit."""
    from fnsft.planning.costing import costs_of
    from fnsft.planning.jobs import plan_jobs
    from fnsft.planning.known import Known
    from fnsft.planning.summary import summarise
    from fnsft.planning.text import lines_of

    machine = machine_of(arguments)
    asked = (arguments.targets, arguments.configfile, arguments.config)
    # Also the finished jobs say what the others read.
    jobs = [job.on(machine.gpus) for job in plan_jobs(*asked, everything=True)]
    costs = costs_of(jobs, [command_of(job) for job in jobs], Known())
    if not arguments.all and any(Path(path).exists() for job in jobs for path in job.outputs):
        left = {(job.rule, job.outputs) for job in plan_jobs(*asked, everything=False)}
        chosen = [i for i, job in enumerate(jobs) if (job.rule, job.outputs) in left]
        jobs, costs = [jobs[i] for i in chosen], [costs[i] for i in chosen]
    free = shutil.disk_usage(Path.cwd()).free
    if arguments.disk_gib is not None:
        free = int(arguments.disk_gib * (1 << 30))
    found = summarise(jobs, costs, machine, free)
    if arguments.json:
        print(json.dumps(dataclasses.asdict(found), indent=1))
    else:
        print("\n".join(lines_of(found, machine)))
    if found.refusals:
        more = len(found.refusals) - 1
        raise InputError(found.refusals[0] + (f" (and {more} more)" if more else ""))


def machine_of(arguments: argparse.Namespace) -> "Machine":
    """Return the machine with what the flags put in its place."""
    from fnsft.planning.machines import read_machine

    machine = read_machine(arguments.machine)
    given = {name: getattr(arguments, name) for name in ("gpus", "cores", "price")}
    given = {name: value for name, value in given.items() if value is not None}
    if given.get("gpus") and not machine.has_gpus:
        raise InputError(f"gpus: {arguments.machine} has none; leave --gpus off")
    return dataclasses.replace(machine, **given)


def command_of(job: "PlannedJob") -> "Command | None":
    """Read a job's ``fnsft`` command with the parser of its stage; None for another command."""
    from fnsft.planning.jobs import Command

    if not job.words:
        return None
    stage = job.words[0]
    parser, cls = _stage(stage)
    paths = parser.parse_args(job.words)
    if stage == "answer":
        from fnsft.cli.answer import benchmarks_of

        paths.benchmark = benchmarks_of(paths.benchmark)
    return Command(stage, paths, read_settings(paths, cls) if cls else None)


@functools.cache
def _stage(name: str) -> tuple[argparse.ArgumentParser, type | None]:
    from fnsft.cli.main import _module, _parser

    return _parser(name), _module(name).SETTINGS
