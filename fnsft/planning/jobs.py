"""Snakemake's own plan of a configuration: every job, its files, its resources, its command."""

import io
import logging
import re
import shlex
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import yaml

from fnsft.errors import InputError


@dataclass(frozen=True)
class PlannedJob:
    """One job of a dry run. ``outputs`` are the files it makes, ``words`` its ``fnsft`` command.

    ``words`` is empty for rules that run something else, such as a copy.
    """

    rule: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    threads: int
    gpus: int
    words: tuple[str, ...]

    @classmethod
    def of_record(cls, record: Any) -> "PlannedJob":
        """Read the fields of Snakemake's event of a job."""
        return cls(
            rule=record.rule_name,
            inputs=tuple(map(str, record.input)),
            outputs=tuple(map(str, record.output)),
            threads=record.threads,
            gpus=int(record.resources.get("gpu", 0) or 0),
            words=command_words(record.shellcmd or ""),
        )

    def on(self, gpus: int) -> "PlannedJob":
        """Return the job where there are so many GPUs: it takes what there is, as in a profile."""
        return replace(self, gpus=min(self.gpus, gpus))


@dataclass(frozen=True)
class Command:
    """A parsed ``fnsft`` command: its stage, its paths and other arguments, its settings."""

    stage: str
    paths: Namespace
    settings: Any


def command_words(command: str) -> tuple[str, ...]:
    """Return the words of an ``fnsft`` command line after ``fnsft``; none for other commands.

    What stands before it, such as an environment variable, and redirections are left out.
    """
    words = shlex.split(re.sub(r"\s2>\s*\S+\s*$", "", command))
    return tuple(words[words.index("fnsft") + 1 :]) if "fnsft" in words else ()


class _Jobs(logging.Handler):
    """Keeps the events of jobs, and the last errors that Snakemake tells."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs: list[PlannedJob] = []

    def emit(self, record: logging.LogRecord) -> None:
        if str(getattr(record, "event", None) or "").lower() == "job_info":
            self.jobs.append(PlannedJob.of_record(record))


def plan_jobs(
    targets: Sequence[str],
    configfiles: Sequence[Path],
    config: Sequence[str],
    everything: bool,
) -> list[PlannedJob]:
    """Return the jobs of a dry run in an order in which they can run.

    Parameters
    ----------
    targets
        Files or rules; the workflow's default target when there are none.
    configfiles, config
        Overlays on the workflow's own configuration, and ``KEY=VALUE`` on top of them.
    everything
        Take every file as if it had to be made; else only what Snakemake would run.

    Raises
    ------
    InputError
        For a configuration or target that Snakemake refuses, in its own words.
    """
    from snakemake.api import SnakemakeApi
    from snakemake.settings.types import (
        ConfigSettings,
        DAGSettings,
        OutputSettings,
        ResourceSettings,
    )

    for file in configfiles:
        if not file.is_file():
            raise InputError(f"{file}: expected a YAML file, found none; see --configfile")
    if not any(Path(name).is_file() for name in ("Snakefile", "workflow/Snakefile")):
        raise InputError("Snakefile: none here; run fnsft plan where the workflow's Snakefile is")
    said = io.StringIO()
    handler = _Jobs()
    try:
        with (
            redirect_stdout(said),
            redirect_stderr(said),
            SnakemakeApi(OutputSettings(dryrun=True, enable_file_logging=False)) as api,
            _only(handler),
        ):
            workflow = api.workflow(
                ResourceSettings(),
                ConfigSettings(config=_mapping(config), configfiles=tuple(configfiles)),
            )
            settings = DAGSettings(targets=frozenset(targets), forceall=everything)
            workflow.dag(settings).execute_workflow(executor="dryrun")
    except SystemExit:
        raise InputError(_last_line(said.getvalue())) from None
    except InputError:
        raise
    except Exception as error:  # Snakemake's, of which there are many
        raise InputError(f"snakemake: {_in_one_line(error)}; see snakemake -n") from None
    return in_order(handler.jobs)


def in_order(jobs: Sequence[PlannedJob]) -> list[PlannedJob]:
    """Return jobs, always in the same order, so that each stands after what makes its inputs."""
    jobs = sorted(jobs, key=lambda job: (job.rule, job.outputs))
    needs = dict(enumerate(needed_by(jobs)))
    return [jobs[number] for number in TopologicalSorter(needs).static_order()]


def needed_by(jobs: Sequence[PlannedJob]) -> list[set[int]]:
    """Return of every job the numbers of those that make its inputs."""
    makers = {path: number for number, job in enumerate(jobs) for path in job.outputs}
    return [{makers[path] for path in job.inputs if path in makers} for job in jobs]


@contextmanager
def _only(handler: logging.Handler) -> Iterator[None]:
    """Let one handler alone see Snakemake's events."""
    logger = logging.getLogger("snakemake.logging")
    others, level = list(logger.handlers), logger.level
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.handlers = others
        logger.setLevel(level)


def _mapping(words: Sequence[str]) -> dict[str, Any]:
    found = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise InputError(f"config: expected KEY=VALUE, found {word!r}")
        found[key] = yaml.safe_load(value)
    return found


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "snakemake: refused the configuration; see snakemake -n"


def _in_one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:297]}..."
