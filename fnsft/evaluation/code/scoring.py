"""Programs of a whole benchmark: checked side by side, counted, and scored in their order."""

import multiprocessing
import signal
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from tqdm import tqdm

from fnsft.artifacts.items import ItemScore
from fnsft.errors import InputError
from fnsft.evaluation.benchmarks.contract import Scores, Scoring
from fnsft.evaluation.code.checking import Checked, check
from fnsft.evaluation.code.evalplus import as_called, evalplus_module
from fnsft.evaluation.code.tasks import CodeTask
from fnsft.evaluation.sandbox import Sandbox, choose_sandbox
from fnsft.evaluation.shares import share

_TIMED_TASKS = 6  # whose solutions tell how fast the machine is, and so many inputs of each
_TIMED_INPUTS = 20
_ROOM = 0.5  # share of a time limit that a reference solution may take before limits are scaled
_HOPELESS = 10.0  # times its limit


@dataclass(frozen=True)
class Pace:
    """How fast a machine is: the largest share of a time limit that a reference solution takes."""

    share: float

    @property
    def factor(self) -> float:
        """What time limits are multiplied by, so that reference solutions take half of them."""
        return 1.0 if self.share <= _ROOM else self.share / _ROOM


def score_programs(
    tasks: Sequence[CodeTask], rows: Sequence[dict[str, Any]], scoring: Scoring
) -> Scores:
    """Return pass@1 of one program a task, which rows hold by ``item`` and ``program``.

    ``pass_at_1`` is the share of tasks whose published tests a program passes; ``pass_at_1_plus``
    (EvalPlus's suites) also all further ones; ``format_ok`` the share of rows with a program
    that compiles and defines its function. A program that ran out of time is run once more with
    nothing beside it, after its task's reference solution: the machine may be slower by then.

    Raises
    ------
    InputError
        For rows of other tasks, where there is no sandbox, and on a machine so slow that
        reference solutions fail.
    """
    if plus := tasks[0].suite != "functions":
        evalplus_module("eval")  # before any worker starts
    tasks = [as_called(task) for task in tasks]
    programs = _by_task(tasks, rows, scoring.where)
    sandbox = choose_sandbox(scoring.settings.allow_unsandboxed)
    with _workers(scoring.settings.workers) as pool:
        time_references = partial(_pace, pool, sandbox=sandbox, where=scoring.where)
        step = max(1, len(tasks) // _TIMED_TASKS)
        pace = time_references(tasks[::step][:_TIMED_TASKS])
        checked = _check_all(pool, tasks, programs, sandbox, pace.factor)
        again = [i for i, found in enumerate(checked) if found.last.status == "timeout"]
        # One at a time, in a pool that is idle otherwise.
        for i in tqdm(again, desc="once more", unit="program", leave=None, disable=None):
            pace = time_references([tasks[i]], known=pace)
            alone = pool.submit(check, tasks[i], programs[i], sandbox, factor=pace.factor)
            checked[i] = alone.result()
    return _scores(tasks, programs, checked, len(again), plus, sandbox, pace)


def _by_task(
    tasks: Sequence[CodeTask], rows: Sequence[dict[str, Any]], where: str
) -> list[str | None]:
    programs = {row["item"]: row["program"] for row in rows}
    items, ids = [row["item"] for row in rows], [task.task_id for task in tasks]
    if sorted(items) != sorted(ids):
        wrong = sorted(set(items).symmetric_difference(ids)) or ["an item twice"]
        raise InputError(
            f"{where}: expected one row for each of the {len(ids)} tasks, found {len(items)} "
            f"({wrong[0]}); answer the benchmark again"
        )
    return [programs[task_id] for task_id in ids]


@contextmanager
def _workers(n: int) -> Iterator[ProcessPoolExecutor]:
    """Yield worker processes: reference solutions are timed, and threads would share one core."""
    pool = ProcessPoolExecutor(
        n,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=signal.signal,  # an interrupt is for the process that says so in one line
        initargs=(signal.SIGINT, signal.SIG_IGN),
    )
    try:
        yield pool
    except BrokenProcessPool:
        raise InputError(
            "workers: expected processes that live until all programs are checked, found one "
            "killed (by hand, or for want of memory); score again, with fewer workers"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _pace(
    pool: ProcessPoolExecutor,
    tasks: Sequence[CodeTask],
    sandbox: Sandbox,
    where: str,
    known: Pace = Pace(0.0),
) -> Pace:
    """Time reference solutions on the way that programs take; return the slower pace."""
    timing = partial(check, sandbox=sandbox, factor=_HOPELESS, max_inputs=_TIMED_INPUTS)
    futures = [pool.submit(timing, task, task.reference) for task in tasks]
    found = [future.result().base for future in futures]
    for task, verdict in zip(tasks, found, strict=True):
        if verdict.status == "timeout":
            raise InputError(
                f"{where}: expected a machine on which reference solutions run in time, found "
                f"{task.task_id} beyond {_HOPELESS:.0f} times its limit; score with --workers 1, "
                "or on a machine that has less to do"
            )
        if verdict.status != "passed":
            raise InputError(
                f"{where}: expected the canonical_solution of {task.task_id} to pass its tests, "
                f"found {verdict.message or verdict.status!r}; mend the benchmark's file, or look "
                f"at the sandbox ({sandbox.name})"
            )
    pace = Pace(max(verdict.used for verdict in found))
    if pace.share <= known.share:
        return known
    if pace.factor > 1:
        print(
            f"{where}: this machine is slow: a reference solution takes {pace.share:.0%} of its "
            f"time limit; all limits are multiplied by {pace.factor:.2f}",
            file=sys.stderr,
        )
    return pace


def _check_all(
    pool: ProcessPoolExecutor,
    tasks: Sequence[CodeTask],
    programs: Sequence[str | None],
    sandbox: Sandbox,
    factor: float,
) -> list[Checked]:
    """Check programs side by side; the order is that of the tasks."""
    futures = [
        pool.submit(check, task, program, sandbox, factor=factor)
        for task, program in zip(tasks, programs, strict=True)
    ]
    shown = tqdm(futures, desc="programs", unit="program", leave=None, disable=None)
    return [future.result() for future in shown]


def _scores(
    tasks: Sequence[CodeTask],
    programs: Sequence[str | None],
    checked: Sequence[Checked],
    n_again: int,
    plus: bool,
    sandbox: Sandbox,
    pace: Pace,
) -> Scores:
    hits = {"pass_at_1": [found.base.status == "passed" for found in checked]}
    if plus:
        hits["pass_at_1_plus"] = [
            found.plus is not None and found.plus.status == "passed" for found in checked
        ]
    hits["format_ok"] = [program is not None for program in programs]
    ended = [found.last.status for found in checked]
    return Scores(
        [share("", metric, found) for metric, found in hits.items()],
        [
            ItemScore("", metric, task.task_id, float(hit))
            for metric, found in hits.items()
            for task, hit in zip(tasks, found, strict=True)
        ],
        counts={
            "programs_out_of_time": ended.count("timeout"),
            "programs_that_died": ended.count("died"),
            "programs_run_twice": n_again,
        },
        packages=("evalplus",) if plus else (),
        notes={
            "sandbox": sandbox.name,
            "reference_share_of_time_limit": round(pace.share, 4),
            "time_limit_factor": round(pace.factor, 4),
        },
    )
