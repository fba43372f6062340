"""Rows of anyone's file, scored: written as training wrote them, read by a preset or by name."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from runs import train
from transformers import AutoTokenizer

from fnsft.artifacts.prompt_formats import write_prompt_format
from fnsft.artifacts.records import read_records
from fnsft.artifacts.storage import write_jsonl
from fnsft.cli.main import main
from fnsft.config.stages import DataSettings
from fnsft.data.preparation import prepare
from fnsft.data.row_files import read_rows_by_split
from fnsft.data.templates import choose_format
from fnsft.data.tokens import load_tokenizer

NAMES = ("--model-name", "tiny", "--task", "t")
CHAT = (
    "{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)
PRESET = "bbh/logical_deduction"


@pytest.fixture
def folder(tiny_model_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))


def bbh(n: int) -> list[dict[str, str]]:
    """Return questions about an order, whose answers differ."""
    numbers = random.Random(0)
    things = ("owl", "crow", "hawk", "robin", "quail")
    rows = []
    for _ in range(n):
        first, second = numbers.sample(things, 2)
        answer = f"({numbers.choice('ABCDE')})"
        rows.append({"input": f"The {first} is left of the {second}.\nWhich?", "target": answer})
    return rows


def write_bbh(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text(json.dumps({"canary": "do not train on this", "examples": rows}))
    return path


def evaluate(model: Path, output: Path, *more: str) -> int:
    words = ["--model", str(model), "--output", str(output), "--max-new-tokens", "8"]
    return main(["evaluate", *words, *more])


def values(output: Path) -> dict[tuple[str, str], tuple[float, int]]:
    return {(r.benchmark, r.metric): (r.value, r.n) for r in read_records([output])}


def generations(output: Path) -> list[dict[str, Any]]:
    path = output.with_name(f"{output.stem}.generations.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def inputs_of(output: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(f"{output}.manifest.json").read_text())["inputs"]
    return found


def test_bbh_is_trained_and_scored(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_bbh(tmp_path / "f.json", bbh(12))
    settings = {"max_steps": 2, "validations": 1, "preset": PRESET}
    assert train(tiny_model_dir, file, tmp_path / "tuned", **settings) == 0
    assert evaluate(tmp_path / "tuned", tmp_path / "m.jsonl", "--rows", str(file)) == 0
    assert set(values(tmp_path / "m.jsonl")) == {("perplexity", "perplexity")}
    capsys.readouterr()
    words = ("--rows", str(file), "--preset", PRESET)
    assert evaluate(tmp_path / "tuned", tmp_path / "m.jsonl", *words) == 0
    found = values(tmp_path / "m.jsonl")
    names = ("accuracy", "exact_match", "contains")
    assert set(found) == {("perplexity", "perplexity"), *(("exact", name) for name in names)}
    assert {n for _, n in found.values()} == {12}
    assert {(r.task, r.method) for r in read_records([tmp_path / "m.jsonl"])} == {(PRESET, "sft")}
    notes = json.loads((tmp_path / "m.jsonl.manifest.json").read_text())["notes"]
    assert (notes["score"], notes["template"], notes["preset"]) == ("exact", "basic", PRESET)
    said = capsys.readouterr().err
    assert "template: basic; score: exact" in said and "preset bbh/logical_deduction" in said
    first = bbh(12)[0]["input"]
    assert generations(tmp_path / "m.jsonl")[0]["prompt"] == f"Question: {first}\nAnswer:"


def test_a_model_that_gives_the_answers_scores_one_and_its_limit_counts(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    file, output, rows = tmp_path / "f.json", tmp_path / "m.jsonl", bbh(5)
    words = (*NAMES, "--rows", str(write_bbh(file, rows)), "--preset", PRESET)
    assert evaluate(tiny_model_dir, output, *words) == 0
    assert values(output)["exact", "accuracy"] == (0, 5)
    for row, own in zip(rows[:4], generations(output), strict=False):
        row["target"] = own["text"]
    write_bbh(file, rows)
    assert evaluate(tiny_model_dir, output, *words) == 0
    assert values(output)["exact", "accuracy"] == (0.8, 5)
    assert evaluate(tiny_model_dir, output, *words, "--exact-limit", "4") == 0
    assert values(output)["exact", "accuracy"] == (1, 4)
    assert values(output)["perplexity", "perplexity"][1] == 5


@pytest.mark.parametrize("template", ["chat", "alpaca", "chatml", "basic"])
def test_prompts_and_perplexity_are_those_of_the_split_that_training_reads(
    folder: Path, tmp_path: Path, template: Any
) -> None:
    if template == "chat":
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokenizer.chat_template = CHAT
        tokenizer.save_pretrained(folder)
    tokenizer = load_tokenizer(folder)
    system = "" if template == "basic" else "Be brief."
    rows = [{"question": r["input"], "answer": r["target"], "context": "Birds."} for r in bbh(9)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    settings = DataSettings(template=template, system=system, deduplicate=False)
    of_file = read_rows_by_split(tmp_path / "rows.jsonl")
    splits = of_file | {"test": of_file["train"]}
    prepare(splits, None, None, settings, tokenizer, tmp_path / "data")
    write_prompt_format(folder, choose_format(template, "question", system, tokenizer))
    prepared = str(tmp_path / "data" / "test.jsonl")
    found = []
    for words in (
        ("--rows", str(tmp_path / "rows.jsonl"), "--score", "exact"),
        ("--perplexity", prepared, "--exact", prepared),
    ):
        output = tmp_path / f"{words[0]}.jsonl"
        assert evaluate(folder, output, *NAMES, *words) == 0
        found.append((values(output), generations(output)))
    assert found[0] == found[1]
    assert len(found[0][1]) == 9


def test_a_base_model_answers_prompts_as_training_would_choose_to_write_them(
    folder: Path, tmp_path: Path
) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [{"instruction": "Add", "output": "1\n#### 1"}])
    words = (*NAMES, "--rows", str(tmp_path / "rows.jsonl"), "--score", "number")
    assert evaluate(folder, tmp_path / "m.jsonl", *words) == 0
    assert ("gsm8k", "accuracy") in values(tmp_path / "m.jsonl")
    (row,) = generations(tmp_path / "m.jsonl")
    assert "### Instruction:\nAdd" in row["prompt"] and row["gold"] == "1"


def test_a_preset_of_ones_own_says_how_answers_are_scored(folder: Path, tmp_path: Path) -> None:
    preset = tmp_path / "mine.yaml"
    preset.write_text('kind: plain\nprompt: "{q}"\ncompletion: "{a}"\nscore: exact\n')
    write_jsonl(tmp_path / "rows.jsonl", [{"q": "Which?", "a": "x"}])
    words = (*NAMES, "--rows", str(tmp_path / "rows.jsonl"), "--preset", str(preset))
    assert evaluate(folder, tmp_path / "m.jsonl", *words) == 0
    assert ("exact", "accuracy") in values(tmp_path / "m.jsonl")
    assert set(inputs_of(tmp_path / "m.jsonl")) == {"model", "rows", "preset"}
    assert evaluate(folder, tmp_path / "m.jsonl", *words, "--score", "none") == 0
    assert set(values(tmp_path / "m.jsonl")) == {("perplexity", "perplexity")}


def test_of_several_splits_the_one_that_tests_is_measured_and_columns_are_named(
    folder: Path, tmp_path: Path
) -> None:
    for name, n in (("train", 7), ("validation", 3), ("test", 2)):
        write_jsonl(
            tmp_path / "data" / f"{name}.jsonl", [{"q": f"{i}?", "a": "x"} for i in range(n)]
        )
    words = (*NAMES, "--rows", str(tmp_path / "data"), "--columns", "prompt=q,completion=a")
    counts = []
    for gone in (None, "test", "validation"):
        if gone:
            (tmp_path / "data" / f"{gone}.jsonl").unlink()
        assert evaluate(folder, tmp_path / "m.jsonl", *words) == 0
        counts.append(values(tmp_path / "m.jsonl")["perplexity", "perplexity"][1])
    assert counts == [2, 3, 7]


def test_texts_are_cut_into_pieces_and_longer_samples_left_out_and_counted(
    folder: Path, tmp_path: Path
) -> None:
    write_jsonl(tmp_path / "t.jsonl", [{"text": "one two three four " * 20}])
    short, long = ({"prompt": "one " * n, "completion": "x"} for n in (1, 99))
    write_jsonl(tmp_path / "p.jsonl", [short, long])
    found = {}
    for name in ("t", "p"):
        words = (*NAMES, "--rows", str(tmp_path / f"{name}.jsonl"), "--max-tokens", "50")
        assert evaluate(folder, tmp_path / "m.jsonl", *words) == 0
        notes = json.loads((tmp_path / "m.jsonl.manifest.json").read_text())["notes"]
        n = values(tmp_path / "m.jsonl")["perplexity", "perplexity"][1]
        found[name] = (n, notes["perplexity_samples_too_long"])
    assert found["t"][0] > 1 and found["t"][1] == 0
    assert found["p"] == (1, 1)


def test_samples_longer_than_the_models_positions_are_left_out(
    folder: Path, tmp_path: Path
) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 64}))
    rows = [{"prompt": "a b c d " * n, "completion": "x"} for n in (1, 40)]
    for words in ("--rows", str(tmp_path / "p.jsonl")), ("--perplexity", str(tmp_path / "p.jsonl")):
        write_jsonl(tmp_path / "p.jsonl", rows)
        assert evaluate(folder, tmp_path / "m.jsonl", *NAMES, *words) == 0
        assert values(tmp_path / "m.jsonl")["perplexity", "perplexity"][1] == 1


ROW = {"prompt": "p", "completion": "c"}


@pytest.mark.parametrize(
    ("rows", "words", "message"),
    [
        ([ROW], ["--exact", "e.jsonl"], "--exact: is about a prepared split, found with --rows"),
        (None, ["--preset", PRESET], "--preset: is about rows that are not prepared, found with"),
        (None, ["--columns", "text=a"], "--columns: is about rows that are not prepared"),
        (None, ["--score", "exact"], "--score: is about rows that are not prepared"),
        (None, ["--rows", "nowhere.csv"], "nowhere.csv: no such file or folder"),
        ([ROW], ["--output", "rows.jsonl"], "rows.jsonl: expected another file than --rows"),
        ([ROW], ["--preset", "bhb"], "preset: expected one of"),
        ([ROW], ["--preset", PRESET], "row 1: expected the field 'input', found prompt"),
        ([{"a": "b"}], [], "expected fields of a known schema"),
        (
            [ROW | {"completion": ""}],
            [],
            "expected a row with an answer, found 1 row with an empty",
        ),
        ([ROW], ["--score", "number"], "row 1: completion: expected a number after ####"),
        ([{"text": "t"}], ["--score", "exact"], "score: texts have no prompt to answer"),
        ([ROW], ["--max-tokens", "2"], "expected a sample of at most max_tokens=2 tokens"),
        (
            [ROW],
            ["--score", "exact", "--max-new-tokens", "512"],
            "row 1: expected at most 0 tokens, so that the prompt and max_new_tokens fit",
        ),
        (
            [{"instruction": "i", "output": "o"}],
            ["basic plain"],
            "rows: expected samples of kind plain, which",
        ),
        ([ROW], ["prepared"], "rows: expected raw rows, found prepared ones"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    rows: list[dict[str, str]] | None,
    words: list[str],
    message: str,
) -> None:
    format = choose_format("basic", "plain", "", load_tokenizer(folder))
    if words == ["basic plain"]:
        write_prompt_format(folder, format)
    if words == ["prepared"]:
        write_prompt_format(tmp_path, format)
    words = [str(tmp_path / word) if word == "rows.jsonl" else word for word in words]
    words = words if words[:1] and words[0].startswith("--") else []
    if rows is not None:
        write_jsonl(tmp_path / "rows.jsonl", rows)
        words = ["--rows", str(tmp_path / "rows.jsonl"), *words]
    before = sorted(tmp_path.rglob("*"))
    given = words if "--rows" in words else ["--cloze", "c.jsonl", *words]
    assert evaluate(folder, tmp_path / "out" / "m.jsonl", *NAMES, *given) == 2
    error = capsys.readouterr().err
    assert message in error.splitlines()[-1] and "Traceback" not in error
    assert sorted(tmp_path.rglob("*")) == before
