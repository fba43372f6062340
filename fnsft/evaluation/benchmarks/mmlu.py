"""Kind ``mmlu``: four choices by subject; the letter that the model finds likeliest (lm-eval)."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fnsft.config.stages.evaluation import Benchmark
from fnsft.evaluation import harness, harness_items, harness_scores
from fnsft.evaluation.benchmarks.contract import Answers, Scores, Scoring, Subject, protocol_of

LETTERS = "ABCD"
FOLDER = "mmlu/default"


def answers(subject: Subject, benchmark: Benchmark) -> Answers:
    """Take the log-probability of every letter behind the question and its shots."""
    harness.require_lm_eval(benchmark.kind)
    items = harness_items.spread(_read(Path(benchmark.file)), benchmark.limit)
    parts = harness_items.by_part(items)
    shots = harness_items.examples_by_part(benchmark, _read, list(parts))
    tasks = [
        harness.LocalTask(f"mmlu_{part}", f"{FOLDER}/mmlu_{part}.yaml", of_part, shots[part], "dev")
        for part, of_part in parts.items()
    ]
    found = harness.run_tasks(subject, benchmark, tasks)
    rows = [
        {"item": item.name, "subject": item.part} | harness.choice_of(sample, LETTERS)
        for item, sample in found
    ]
    counts = {"prompts_cut_to_fit": harness.n_cut(subject, [sample for _, sample in found])}
    protocol = protocol_of(subject, benchmark, harness.asked(benchmark, "likeliest-letter"))
    return Answers(rows, protocol, counts, harness.PACKAGES)


def scores(rows: Sequence[dict[str, Any]], benchmark: Benchmark, scoring: Scoring) -> Scores:
    """Compare letters; ``accuracy`` is over items, ``accuracy_macro`` over subjects."""
    correct = [row["answer"] == row["target"] for row in rows]
    subjects = [row["subject"] for row in rows]
    return harness_scores.scores_by_part(
        [row["item"] for row in rows], correct, "subject", subjects
    )


def _read(path: Path) -> list[harness_items.Item]:
    known = {file.stem.removeprefix("mmlu_") for file in _definitions()}

    def check(row: dict[str, Any]) -> str | None:
        if str(row["subject"]) not in known:
            near = difflib.get_close_matches(str(row["subject"]), known, 1)
            hint = f"; is it {near[0]!r}?" if near else ""
            return f"subject: expected one of MMLU's 57, found {row['subject']!r:.60}{hint}"
        if not isinstance(row["question"], str):
            return f"question: expected a text, found {row['question']!r:.60}"
        if not harness_items.is_texts(row["choices"], 4) or len(row["choices"]) > 4:
            return f"choices: expected four texts, found {row['choices']!r:.60}"
        if type(row["answer"]) is not int or not 0 <= row["answer"] < 4:
            return f"answer: expected the index of a choice, 0 to 3, found {row['answer']!r:.60}"
        return None

    return harness_items.items_of(path, "mmlu", "subject", check)


def _definitions() -> list[Path]:
    return sorted((harness.definitions() / FOLDER).glob("mmlu_*.yaml"))
