"""Kind ``functions``: tasks with a test function each, such as plain HumanEval."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fnsft.config.stages.evaluation import Benchmark
from fnsft.evaluation.benchmarks.contract import Answers, Scores, Scoring, Subject
from fnsft.evaluation.code.answering import write_programs
from fnsft.evaluation.code.tasks import read_tasks


def answers(subject: Subject, benchmark: Benchmark) -> Answers:
    """Ask for one program a task."""
    return write_programs(subject, benchmark, "functions")


def scores(rows: Sequence[dict[str, Any]], benchmark: Benchmark, scoring: Scoring) -> Scores:
    """Run the programs in a sandbox, and judge them outside of it."""
    from fnsft.evaluation.code.scoring import score_programs

    tasks = read_tasks(Path(benchmark.file), "functions", benchmark.limit)
    return score_programs(tasks, rows, scoring)
