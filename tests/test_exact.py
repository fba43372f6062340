"""Exact match: which texts count as the completion, and records of a model's own answers."""

import json
from pathlib import Path
from typing import Any

import pytest

from fnsft.artifacts.records import read_records
from fnsft.artifacts.storage import write_jsonl
from fnsft.cli.main import main
from fnsft.data.formats import Example
from fnsft.data.tokens import Encoder, encode, load_tokenizer
from fnsft.evaluation import exact
from fnsft.evaluation.generation import generate
from fnsft.evaluation.loading import load_model
from fnsft.evaluation.suite import answer_of

NAMES = ["--model-name", "tiny", "--task", "t"]


@pytest.mark.parametrize(
    ("text", "completion", "correct", "whole", "contains"),
    [
        (" (A)", " (A)", True, True, True),
        ("\n (A) \n", "(A)", True, True, True),
        ("(A)\n(B)", " (A)", True, False, True),
        ("so (A)", " (A)", False, False, True),
        ("(B)", " (A)", False, False, False),
        ("(a)", " (A)", False, False, False),
        ("", "(A)", False, False, False),
        ("two \t words", "two words", True, True, True),
        ("cats", "cat", False, False, False),
        ("bobcat", "cat", False, False, False),
        ("a cat.", "cat", False, False, True),
        ("one\n\ntwo\nthree", "one\ntwo", True, False, True),
        ("one", "one\ntwo", False, False, False),
    ],
)
def test_three_readings_of_an_answer(
    text: str, completion: str, correct: bool, whole: bool, contains: bool
) -> None:
    found = exact.score(text, completion)
    assert (found.correct, found.exact, found.contains) == (correct, whole, contains)


def own_answer(model: Path, prompt: str) -> str:
    tokenizer = load_tokenizer(model)
    ids = encode(tokenizer, Example(prompt, "")).prompt_ids
    loaded = load_model(model, "float32")
    (found,) = generate(loaded, tokenizer, [ids], batch_size=1, max_new_tokens=8)
    return found.text


def evaluate(model: Path, file: Path, output: Path, *more: str) -> int:
    words = ["--model", str(model), "--exact", str(file), "--output", str(output)]
    return main(["evaluate", *words, "--max-new-tokens", "8", *more])


def test_a_models_own_answers_are_right_and_others_wrong(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    prompts = ["Ada has", "Write a function", "Question: 3"]
    rows = [{"prompt": p, "completion": own_answer(tiny_model_dir, p)} for p in prompts]
    rows[1]["completion"] += " and more"
    write_jsonl(tmp_path / "test.jsonl", rows)
    output = tmp_path / "m.jsonl"
    assert evaluate(tiny_model_dir, tmp_path / "test.jsonl", output, *NAMES) == 0
    found = {(r.benchmark, r.metric): (r.value, r.n) for r in read_records([output])}
    assert found == {
        ("exact", "accuracy"): (pytest.approx(2 / 3), 3),
        ("exact", "exact_match"): (pytest.approx(2 / 3), 3),
        ("exact", "contains"): (pytest.approx(2 / 3), 3),
    }
    shown = [json.loads(x) for x in (tmp_path / "m.generations.jsonl").read_text().splitlines()]
    assert [(row["benchmark"], row["correct"]) for row in shown] == [
        ("exact", True),
        ("exact", False),
        ("exact", True),
    ]
    assert evaluate(tiny_model_dir, tmp_path / "test.jsonl", output, *NAMES, "--exact-limit=1") == 0
    assert {r.n for r in read_records([output])} == {1}


def test_the_tokens_of_a_chat_template_are_no_part_of_the_answer(tiny_model_dir: Path) -> None:
    tokenizer: Any = load_tokenizer(tiny_model_dir)
    written = Example("<s>user: which?", " (A)</s>\n", special_tokens=False)
    encoder = Encoder.of(tokenizer)
    assert answer_of(written, encoder) == " (A)"
    (bar,) = tokenizer("|")["input_ids"]  # no special token, but the model stops at it
    ended = Example("<s>user: which?", " (A)|\n", special_tokens=False)
    assert answer_of(ended, Encoder.of(tokenizer, [bar])) == " (A)"
    assert answer_of(Example("which?", " (A)"), encoder) == " (A)"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt": "p", "completion": " \n"}], "line 1: completion: expected an answer"),
        (
            [{"prompt": "p", "completion": "</s>\n", "special_tokens": False}],
            "line 1: completion: expected an answer",
        ),
        ([{"prompt": "p"}], "line 1: the field 'completion' is missing"),
        ([], "expected at least one problem, found none"),
    ],
)
def test_a_split_that_cannot_be_scored_is_told_in_one_line(
    tiny_model_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    rows: list[dict[str, object]],
    message: str,
) -> None:
    write_jsonl(tmp_path / "bad.jsonl", rows)
    assert evaluate(tiny_model_dir, tmp_path / "bad.jsonl", tmp_path / "m.jsonl", *NAMES) == 2
    error = capsys.readouterr().err
    assert f"bad.jsonl {message}" in error.replace("jsonl:", "jsonl") and error.count("\n") == 1
    assert not (tmp_path / "m.jsonl").exists()
