"""Kind ``gsm8k``: problems of a prepared split, whose answers end on a number."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fnsft.artifacts.items import ItemScore
from fnsft.config.stages.evaluation import Benchmark
from fnsft.evaluation import gsm8k
from fnsft.evaluation.benchmarks.contract import Answers, Scores, Scoring, Subject, protocol_of
from fnsft.evaluation.benchmarks.generated import answered, template_of
from fnsft.evaluation.questions import read_examples, scored_problems


def answers(subject: Subject, benchmark: Benchmark) -> Answers:
    """Answer the problems greedily, each up to the next one."""
    path = Path(benchmark.file)
    problems = scored_problems(read_examples(path, benchmark.limit))
    found = answered(subject, benchmark, problems, (gsm8k.STOP,))
    for row in found.rows:
        if gsm8k.begins_another(row["text"]):
            row |= {"text": "", "finished": True}
    how = {
        "shots": 0,
        "template": template_of(path),
        "extract": "decimal|strict|flexible",
        "stop": r"eos|\nQuestion:",
    }
    return Answers(found.rows, protocol_of(subject, benchmark, how), found.counts)


def scores(rows: Sequence[dict[str, Any]], benchmark: Benchmark, scoring: Scoring) -> Scores:
    """Read the number that each answer ends on, in the three ways of ``fnsft evaluate``."""
    scored = [gsm8k.score(row["text"], row["completion"]) for row in rows]
    steps = [gsm8k.step_count(row["completion"]) for row in rows]
    items = [
        ItemScore("", "accuracy", row["item"], float(answer.correct))
        for row, answer in zip(rows, scored, strict=True)
    ]
    return Scores(gsm8k.measure(scored, steps), items)
