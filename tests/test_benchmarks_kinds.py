"""Kinds of benchmarks: each found by its name, imported alone, scored from its rows."""

import importlib.util
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import pytest

from fnsft.artifacts.items import ItemScore
from fnsft.artifacts.records import Measurement
from fnsft.artifacts.storage import write_jsonl
from fnsft.config.stages.evaluation import (
    AnswerSettings,
    Benchmark,
    BenchmarkKind,
    ScoreSettings,
)
from fnsft.data.tokens import Encoder, load_tokenizer
from fnsft.evaluation.benchmarks import MODULES, kind_of
from fnsft.evaluation.benchmarks.contract import Scores, Scoring, Subject, named
from fnsft.evaluation.generation import Generation

SCORING = Scoring(ScoreSettings(), "rows.jsonl")


def scores(kind: str, rows: list[dict[str, Any]]) -> Scores:
    found = kind_of(kind).scores(rows, Benchmark(kind=kind, file="gone.jsonl"), SCORING)
    return named(found, "mine")


def value(found: Scores, metric: str, subset: str | None = None) -> float:
    (measurement,) = (m for m in found.measurements if (m.metric, m.subset) == (metric, subset))
    return measurement.value


def test_every_kind_has_a_module() -> None:
    assert set(MODULES) == set(get_args(BenchmarkKind))
    for module in MODULES.values():
        assert importlib.util.find_spec(f"fnsft.evaluation.benchmarks.{module}"), module


def test_a_kind_imports_no_package_of_another() -> None:
    code = (
        "import sys; from fnsft.evaluation.benchmarks import kind_of; kind_of('gsm8k'); "
        "print([name for name in ('evalplus', 'lm_eval') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout == "[]\n", found.stderr


def test_names_are_put_into_measurements_and_items() -> None:
    found = named(
        Scores([Measurement("", "accuracy", 1.0, None, 1)], [ItemScore("", "accuracy", "0", 1.0)]),
        "mine",
    )
    assert (found.measurements[0].benchmark, found.items[0].benchmark) == ("mine", "mine")


def test_problems_are_scored_by_three_readings_format_and_steps() -> None:
    gold = " 9 + 9 = <<9+9=18>>18\n#### 18"
    texts = ("#### 18", "#### 18.00", "so 18", "17")
    rows = [
        {"item": str(i), "text": text, "completion": gold if i < 3 else f" <<1=1>>{gold}"}
        for i, text in enumerate(texts)
    ]
    found = scores("gsm8k", rows)
    assert value(found, "accuracy") == 3 / 4
    assert value(found, "exact_match_strict") == 1 / 4
    assert value(found, "exact_match_flexible") == 2 / 4
    assert value(found, "format_ok") == 2 / 4
    assert value(found, "accuracy", "steps=1") == 1 and value(found, "accuracy", "steps=2") == 0
    assert [(x.item, x.value, x.weight) for x in found.items] == [
        ("0", 1.0, 1.0),
        ("1", 1.0, 1.0),
        ("2", 1.0, 1.0),
        ("3", 0.0, 1.0),
    ]


def test_texts_are_scored_against_completions() -> None:
    rows = [
        {"item": "a", "text": "(A)\nmore", "completion": "(A)"},
        {"item": "b", "text": "it is (B)", "completion": "(B)"},
    ]
    found = scores("exact", rows)
    assert (value(found, "accuracy"), value(found, "exact_match")) == (1 / 2, 0)
    assert value(found, "contains") == 1
    assert [x.value for x in found.items] == [1.0, 0.0]


def test_the_likeliest_choice_is_taken_by_text_and_by_character() -> None:
    row = {"prompt": "Ann is", "choices": [" a", " older"], "answer": 1, "subject": "age"}
    rows = [
        {"item": "0", "log_probabilities": [-2.0, -3.0]} | row,
        {"item": "1", "log_probabilities": [-9.0, -1.0]} | row,
    ]
    found = scores("cloze", rows)
    assert value(found, "accuracy") == value(found, "accuracy", "subject=age") == 1 / 2
    assert value(found, "accuracy_norm") == 1
    assert [x.value for x in found.items] == [0.0, 1.0]


def test_perplexity_weighs_samples_by_their_tokens() -> None:
    rows = [{"item": "0", "nll": 2.0, "tokens": 1}, {"item": "1", "nll": 1.0, "tokens": 5}]
    found = scores("perplexity", rows)
    assert value(found, "perplexity") == pytest.approx(math.exp(3 / 6))
    assert [(x.metric, x.value, x.weight) for x in found.items] == [
        ("perplexity", 2.0, 1),
        ("perplexity", 1.0, 5),
    ]


class Scripted:
    """A generator that says what it is told to; no model says just this."""

    name = "scripted"

    def __init__(self, generations: list[Generation]) -> None:
        self.generations = generations
        self.stops: Sequence[str] = ()

    def __call__(
        self, prompts: Any, *, max_new_tokens: int, stops: Sequence[str] = ()
    ) -> list[Generation]:
        self.stops = stops
        return self.generations


def subject_of(folder: Path, generator: Scripted) -> Subject:
    tokenizer = load_tokenizer(folder)
    return Subject(
        folder=folder,
        model=None,  # type: ignore[arg-type]
        tokenizer=tokenizer,
        encoder=Encoder.of(tokenizer),
        generator=generator,
        settings=AnswerSettings(),
        format=None,
        positions=None,
        tuned=False,
    )


def test_an_answer_that_begins_with_the_next_problem_is_none(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    row = {"prompt": "Question: 1?\nAnswer:", "completion": " 18\n#### 18"}
    write_jsonl(tmp_path / "math.jsonl", [row, row])
    benchmark = Benchmark(kind="gsm8k", file=str(tmp_path / "math.jsonl"))
    scripted = Scripted([Generation("Question: 2?\nAnswer: 18", False), Generation(" 18", True)])
    found = kind_of("gsm8k").answers(subject_of(tiny_model_dir, scripted), benchmark)
    assert scripted.stops == ("\nQuestion:",)
    assert [(row["text"], row["finished"]) for row in found.rows] == [("", True), (" 18", True)]


def test_the_gold_answer_of_a_chat_is_without_its_end(tiny_model_dir: Path, tmp_path: Path) -> None:
    row = {"prompt": "<s>1?", "completion": "\n#### 18</s>\n", "special_tokens": False}
    write_jsonl(tmp_path / "math.jsonl", [row])
    benchmark = Benchmark(kind="gsm8k", file=str(tmp_path / "math.jsonl"))
    scripted = Scripted([Generation("#### 18", True)])
    found = kind_of("gsm8k").answers(subject_of(tiny_model_dir, scripted), benchmark)
    assert found.rows[0]["completion"] == "\n#### 18"
