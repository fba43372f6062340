"""One line a job and the time that is left, from the workflow manager's own events."""

import logging
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any


class ProgressLines(logging.Handler):
    """Prints a line when a job starts, ends or fails; reads the fields of Snakemake's events.

    The time left is the sum over the jobs to come of the mean duration of their rule so far
    (of all rules, where none has ended yet), divided by the mean number of jobs at a time. It
    is told once jobs have ended of the rules that at least half of the jobs to come belong to.
    """

    def __init__(self) -> None:
        super().__init__()
        self.started = time.monotonic()
        self.waiting: Counter[str] = Counter()
        self.live = False
        self.total = 0
        self.done = 0
        self.running: dict[int, tuple[str, str, float]] = {}
        self.durations: dict[str, list[float]] = defaultdict(list)

    def emit(self, record: logging.LogRecord) -> None:
        """Handle one event; the others pass. A mistake here must not stop a workflow."""
        try:
            getattr(self, f"_{event_of(record)}", lambda _: None)(record)
        except Exception:
            self.handleError(record)

    def _run_info(self, record: Any) -> None:
        jobs = {rule: int(n) for rule, n in record.stats.items() if rule != "total"}
        self.waiting, self.total = Counter(jobs), sum(jobs.values())

    def _job_started(self, record: Any) -> None:
        self.live = True  # a dry run plans jobs without starting any

    def _job_info(self, record: Any) -> None:
        if not self.live:
            return
        rule = record.rule_name
        message = record.rule_msg or rule
        self.running[record.jobid] = (rule, message, time.monotonic())
        self.waiting[rule] -= 1
        self._print(f"[{self.done:>3}/{self.total}] start  {message}{self._left()}")

    def _job_finished(self, record: Any) -> None:
        if record.job_id not in self.running:
            return
        rule, message, begun = self.running.pop(record.job_id)
        seconds = time.monotonic() - begun
        self.durations[rule].append(seconds)
        self.done += 1
        self._print(
            f"[{self.done:>3}/{self.total}] done   {message} in {_duration(seconds)}{self._left()}"
        )

    def _job_error(self, record: Any) -> None:
        _, message, _ = self.running.pop(record.jobid, ("", record.rule_name, 0.0))
        self._print(f"[{self.done:>3}/{self.total}] FAILED {message}")
        for log in record.log or ():
            lines = Path(log).read_text().splitlines() if Path(log).exists() else []
            self._print("\n".join([f"  {log}:", *(f"    {line}" for line in lines[-8:])]))

    def _left(self) -> str:
        known = [seconds for rule in self.durations.values() for seconds in rule]
        waiting = {rule: n for rule, n in self.waiting.items() if n > 0}
        timed = sum(n for rule, n in waiting.items() if rule in self.durations)
        if not known or self.done >= self.total or 2 * timed < sum(waiting.values()):
            return ""
        now = time.monotonic()
        typical = {rule: sum(seen) / len(seen) for rule, seen in self.durations.items()}
        overall = sum(known) / len(known)
        work = sum(n * typical.get(rule, overall) for rule, n in waiting.items())
        for rule, _, begun in self.running.values():
            work += max(0.0, typical.get(rule, overall) - (now - begun))
        at_a_time = max(1.0, sum(known) / (now - self.started))
        return f"; about {_duration(work / at_a_time)} left"

    def _print(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def event_of(record: logging.LogRecord) -> str:
    """Return the name of a record's event in lower case; empty for plain messages."""
    return str(getattr(record, "event", None) or "").lower()


def is_calm(record: logging.LogRecord) -> bool:
    """Tell whether a record is worth a line of its own beside the progress lines."""
    repeated = ("progress", "job_started", "job_finished", "job_error", "resources_info")
    return event_of(record) not in repeated and record.getMessage() != "Select jobs to execute..."


def report_progress() -> None:
    """Add the lines to Snakemake's logger, and keep its own handlers from repeating them."""
    logger = logging.getLogger("snakemake.logging")
    for handler in logger.handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stderr:
            handler.addFilter(is_calm)
    logger.addHandler(ProgressLines())
