"""Kind ``perplexity``: how likely a model finds the completions of a prepared split."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fnsft.artifacts.items import ItemScore
from fnsft.config.stages.evaluation import Benchmark
from fnsft.data.tokens import load_split
from fnsft.evaluation import perplexity
from fnsft.evaluation.benchmarks.contract import Answers, Scores, Scoring, Subject, protocol_of
from fnsft.evaluation.benchmarks.generated import template_of
from fnsft.training.completion_loss import SampleLosses, completion_loss


def answers(subject: Subject, benchmark: Benchmark) -> Answers:
    """Take the loss of every completion given its prompt, summed over its tokens, in nats."""
    path = Path(benchmark.file)
    split = load_split(
        path,
        subject.tokenizer,
        subject.settings.max_tokens,
        subject.encoder.stop_ids,
        subject.positions,
    )
    samples = split.samples[: benchmark.limit]
    losses = completion_loss(subject.model, samples, subject.settings.batch_size)
    rows = [
        {"item": str(index), "nll": nll, "tokens": tokens}
        for index, (nll, tokens) in enumerate(
            zip(losses.nll.tolist(), losses.tokens.tolist(), strict=True)
        )
    ]
    how = {"template": template_of(path), "max_tokens": split.max_tokens}
    counts = {"samples_too_long": split.n_left_out}
    return Answers(rows, protocol_of(subject, benchmark, how), counts)


def scores(rows: Sequence[dict[str, Any]], benchmark: Benchmark, scoring: Scoring) -> Scores:
    """Take the perplexity over all tokens, as ``fnsft evaluate`` does."""
    losses = SampleLosses(
        np.array([row["nll"] for row in rows]), np.array([row["tokens"] for row in rows])
    )
    items = [ItemScore("", "perplexity", row["item"], row["nll"], row["tokens"]) for row in rows]
    return Scores(perplexity.measure(losses), items)
