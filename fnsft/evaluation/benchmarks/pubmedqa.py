"""Kind ``pubmedqa``: yes, no or maybe to a question about an abstract (lm-eval)."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fnsft.config.stages.evaluation import Benchmark
from fnsft.evaluation import harness, harness_items, harness_scores
from fnsft.evaluation.benchmarks.contract import Answers, Scores, Scoring, Subject, protocol_of

CHOICES = ("yes", "no", "maybe")


def answers(subject: Subject, benchmark: Benchmark) -> Answers:
    """Take the log-probability of every decision behind the abstract and the question."""
    harness.require_lm_eval(benchmark.kind)
    items = harness_items.items_of(Path(benchmark.file), "pubmedqa", None, _wrong)[
        : benchmark.limit
    ]
    splits = {"training_split": None, "validation_split": None}
    task = harness.LocalTask("pubmedqa", "pubmedqa/pubmedqa.yaml", items, changes=splits)
    found = harness.run_tasks(subject, benchmark, [task])
    rows = [{"item": item.name} | harness.choice_of(sample, CHOICES) for item, sample in found]
    counts = {"prompts_cut_to_fit": harness.n_cut(subject, [sample for _, sample in found])}
    protocol = protocol_of(subject, benchmark, harness.asked(benchmark, "likeliest-decision"))
    return Answers(rows, protocol, counts, harness.PACKAGES)


def scores(rows: Sequence[dict[str, Any]], benchmark: Benchmark, scoring: Scoring) -> Scores:
    """Compare decisions; the largest class's share is what always one answer would score."""
    found = harness_scores.scores_of(
        [row["item"] for row in rows], [row["answer"] == row["target"] for row in rows]
    )
    ((decision, n),) = Counter(row["target"] for row in rows).most_common(1)
    return replace(found, notes={"largest_class": decision, "largest_class_share": n / len(rows)})


def _wrong(row: dict[str, Any]) -> str | None:
    if not isinstance(row["QUESTION"], str):
        return f"QUESTION: expected a text, found {row['QUESTION']!r:.60}"
    if not harness_items.is_texts(row["CONTEXTS"]):
        return f"CONTEXTS: expected a list of texts, found {row['CONTEXTS']!r:.60}"
    if row["final_decision"] not in CHOICES:
        return f"final_decision: expected yes, no or maybe, found {row['final_decision']!r:.60}"
    return None
