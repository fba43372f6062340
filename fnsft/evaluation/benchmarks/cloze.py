"""Kind ``cloze``: statements with a few possible endings, of which the likeliest is the answer."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from fnsft.artifacts.items import ItemScore
from fnsft.config.stages.evaluation import Benchmark
from fnsft.evaluation import cloze
from fnsft.evaluation.benchmarks.contract import Answers, Scores, Scoring, Subject, protocol_of


def answers(subject: Subject, benchmark: Benchmark) -> Answers:
    """Take the log-probability of every choice, in nats."""
    items = cloze.read_cloze(Path(benchmark.file))[: benchmark.limit]
    found = cloze.log_probabilities(
        subject.model, items, subject.tokenizer, subject.settings.batch_size
    )
    rows = [
        {"item": str(index)} | asdict(item) | {"log_probabilities": values.tolist()}
        for index, (item, values) in enumerate(zip(items, found, strict=True))
    ]
    how = {"extract": "log-probability|per-character"}
    return Answers(rows, protocol_of(subject, benchmark, how))


def scores(rows: Sequence[dict[str, Any]], benchmark: Benchmark, scoring: Scoring) -> Scores:
    """Take the likeliest choice of each item, as ``fnsft evaluate`` does."""
    items = [
        cloze.ClozeItem(row["prompt"], tuple(row["choices"]), row["answer"], row["subject"])
        for row in rows
    ]
    found = [np.array(row["log_probabilities"]) for row in rows]
    hits = zip(rows, cloze.hits(items, found), strict=True)
    return Scores(
        cloze.measure(items, found),
        [ItemScore("", "accuracy", row["item"], float(hit)) for row, hit in hits],
    )
