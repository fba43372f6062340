"""Kind ``mmlu-pro``: up to ten choices; the model reasons, then names a letter (lm-eval)."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fnsft.config.stages.evaluation import Benchmark
from fnsft.errors import InputError
from fnsft.evaluation import harness, harness_items, harness_scores
from fnsft.evaluation.benchmarks.contract import Answers, Scores, Scoring, Subject, protocol_of

LETTERS = "ABCDEFGHIJ"
CATEGORIES = (
    *("biology", "business", "chemistry", "computer science", "economics", "engineering"),
    *("health", "history", "law", "math", "other", "philosophy", "physics", "psychology"),
)
# The filter of lm-eval's task (tasks/mmlu_pro, version 3.1); its first match counts.
_ANSWER = re.compile(r"answer is \(?([ABCDEFGHIJ])\)?")


def answers(subject: Subject, benchmark: Benchmark) -> Answers:
    """Let the model reason to every question behind its shots."""
    harness.require_lm_eval(benchmark.kind)
    longest = benchmark.max_new_tokens
    if subject.positions is not None and subject.positions <= longest:
        raise InputError(
            f"max_new_tokens: expected less than the model's {subject.positions} positions, found "
            f"{longest}; lower it"
        )
    items = harness_items.spread(_read(Path(benchmark.file)), benchmark.limit)
    parts = harness_items.by_part(items)
    shots = harness_items.examples_by_part(benchmark, _read_examples, list(parts))
    generation = {
        "until": ["Question:"],
        "max_gen_toks": longest,
        "do_sample": False,
        "temperature": 0.0,
    }
    tasks = [
        harness.LocalTask(
            name := f"mmlu_pro_{part.replace(' ', '_')}",
            f"mmlu_pro/{name}.yaml",
            of_part,
            shots[part],
            "validation",
            {"generation_kwargs": generation},
        )
        for part, of_part in parts.items()
    ]
    found = harness.run_tasks(subject, benchmark, tasks)
    rows = [
        {
            "item": item.name,
            "category": item.part,
            "text": sample["resps"][0][0],
            "target": item.document["answer"],
        }
        for item, sample in found
    ]
    samples = [sample for _, sample in found]
    how = harness.asked(
        benchmark, "answer-is-(X)", stop="eos|Question:", max_new_tokens=str(longest)
    )
    counts = {"prompts_cut_to_fit": harness.n_cut(subject, samples, longest)}
    return Answers(rows, protocol_of(subject, benchmark, how), counts, harness.PACKAGES)


def scores(rows: Sequence[dict[str, Any]], benchmark: Benchmark, scoring: Scoring) -> Scores:
    """Read the letter that each answer names first; ``accuracy_macro`` is over categories."""
    named = [letter_of(row["text"]) for row in rows]
    correct = [letter == row["target"] for letter, row in zip(named, rows, strict=True)]
    categories = [row["category"] for row in rows]
    found = harness_scores.scores_by_part(
        [row["item"] for row in rows], correct, "category", categories
    )
    return replace(found, counts={"answers_without_letter": named.count(None)})


def letter_of(text: str) -> str | None:
    """Return the letter behind the first ``answer is``, None where there is none."""
    found = _ANSWER.search(text)
    return found[1] if found else None


def _read(path: Path) -> list[harness_items.Item]:
    return harness_items.items_of(path, "mmlu-pro", "category", _wrong, ("cot_content",))


def _read_examples(path: Path) -> list[harness_items.Item]:
    def wrong(row: dict[str, Any]) -> str | None:
        if not isinstance(row.get("cot_content"), str) or not row["cot_content"]:
            return f"cot_content: expected a worked answer, found {row.get('cot_content')!r:.60}"
        return _wrong(row)

    return harness_items.items_of(path, "mmlu-pro", "category", wrong, ("cot_content",))


def _wrong(row: dict[str, Any]) -> str | None:
    if row["category"] not in CATEGORIES:
        known = ", ".join(CATEGORIES)
        return f"category: expected one of {known}, found {row['category']!r:.60}"
    if not isinstance(row["question"], str):
        return f"question: expected a text, found {row['question']!r:.60}"
    if not harness_items.is_texts(row["options"], 2) or len(row["options"]) > len(LETTERS):
        return f"options: expected two to ten texts, found {row['options']!r:.60}"
    letters = LETTERS[: len(row["options"])]
    if (
        not isinstance(row["answer"], str)
        or len(row["answer"]) != 1
        or row["answer"] not in letters
    ):
        return f"answer: expected one of {letters}, found {row['answer']!r:.60}"
    return None
