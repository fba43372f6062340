"""What kinds share whose items are a prepared split and whose answers are generated."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fnsft.artifacts.prompt_formats import read_prompt_format
from fnsft.config.stages.evaluation import Benchmark
from fnsft.data.formats import Example
from fnsft.evaluation.benchmarks.contract import Subject, ask
from fnsft.evaluation.questions import answer_of


@dataclass(frozen=True)
class Answered:
    """Rows with item, prompt, text, completion (the gold answer) and finished; and counts."""

    rows: list[dict[str, Any]]
    counts: dict[str, int]


def answered(
    subject: Subject, benchmark: Benchmark, examples: Sequence[Example], stops: Sequence[str] = ()
) -> Answered:
    """Answer the prompts of a prepared split; items are numbered from 0."""
    encoder = subject.encoder
    prompts = [encoder.encode(example).prompt_ids for example in examples]
    asked = ask(subject, prompts, benchmark.max_new_tokens, stops)
    rows = [
        {
            "item": str(index),
            "prompt": example.prompt,
            "text": answer.text,
            "completion": answer_of(example, encoder),
            "finished": answer.finished,
        }
        for index, (example, answer) in enumerate(zip(examples, asked.generations, strict=True))
    ]
    return Answered(rows, asked.counts)


def template_of(split: Path) -> str:
    """Return how the prompts of a prepared split were written, where its folder says it."""
    format = read_prompt_format(split.parent)
    return "as-written" if format is None else format.template
