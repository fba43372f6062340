"""Kind ``exact``: samples of a prepared split, answered right with the completion's text."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fnsft.artifacts.items import ItemScore
from fnsft.config.stages.evaluation import Benchmark
from fnsft.evaluation import exact
from fnsft.evaluation.benchmarks.contract import Answers, Scores, Scoring, Subject, protocol_of
from fnsft.evaluation.benchmarks.generated import answered, template_of
from fnsft.evaluation.questions import read_examples, scored_questions


def answers(subject: Subject, benchmark: Benchmark) -> Answers:
    """Answer the questions greedily, up to the end of sequence."""
    path = Path(benchmark.file)
    examples = read_examples(path, benchmark.limit)
    found = answered(subject, benchmark, scored_questions(examples, subject.encoder))
    how = {"template": template_of(path), "extract": "lines|whole|contains", "stop": "eos"}
    return Answers(found.rows, protocol_of(subject, benchmark, how), found.counts)


def scores(rows: Sequence[dict[str, Any]], benchmark: Benchmark, scoring: Scoring) -> Scores:
    """Compare each answer with the completion, in the three ways of ``fnsft evaluate``."""
    scored = [exact.score(row["text"], row["completion"]) for row in rows]
    items = [
        ItemScore("", "accuracy", row["item"], float(answer.correct))
        for row, answer in zip(rows, scored, strict=True)
    ]
    return Scores(exact.measure(scored), items)
