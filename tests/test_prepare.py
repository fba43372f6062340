"""Rows to splits: rendering, disjointness, seeds, and rows that are not what they should be."""

import json
from pathlib import Path

import pytest

from fnsft.artifacts.prompt_formats import PromptFormat, read_prompt_format
from fnsft.artifacts.rows import numbered_rows, typed_row
from fnsft.cli.main import main
from fnsft.config.stages import PrepareSettings
from fnsft.data.formats import Example
from fnsft.data.splits import shared_prompts, split
from fnsft.errors import InputError

POOL = [Example(f"Question: {i}\nAnswer:", f" {i}") for i in range(50)]
SETTINGS = PrepareSettings(n_train=20, n_validation=10, n_test=5)


def write_rows(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_splits_are_disjoint_and_of_the_asked_sizes() -> None:
    splits = split(POOL, None, SETTINGS)
    parts = [splits.train, splits.validation, splits.test]
    assert [len(part) for part in parts] == [20, 10, 5]
    assert len({example for part in parts for example in part}) == 35
    assert shared_prompts(splits) == 0


def test_a_seed_changes_the_training_sample_and_nothing_else() -> None:
    one = split(POOL, None, SETTINGS)
    other = split(POOL, None, PrepareSettings(n_train=20, n_validation=10, n_test=5, seed=1))
    assert one.train != other.train
    assert (one.validation, one.test) == (other.validation, other.test)
    assert split(POOL, None, SETTINGS) == one


def test_a_given_test_set_is_kept_in_its_order() -> None:
    test = [Example(f"Question: t{i}\nAnswer:", " 0") for i in range(8)]
    assert split(POOL, test, SETTINGS).test == test[:5]


def test_training_prompts_that_are_also_held_out_are_counted() -> None:
    assert shared_prompts(split(POOL, POOL, PrepareSettings(n_train=20, n_validation=10))) == 20


def test_too_few_rows_are_refused_with_the_counts() -> None:
    with pytest.raises(InputError, match="expected at most 40, found 41"):
        split(POOL, POOL, PrepareSettings(n_train=41, n_validation=10))


def prepare(train: Path, output: Path, *flags: str) -> int:
    sizes = ["--n-train", "2", "--n-validation", "1", "--n-test", "1"]
    return main(["prepare", "--train", str(train), "--output", str(output), *sizes, *flags])


def test_the_stage_writes_three_splits_and_a_manifest(tmp_path: Path) -> None:
    rows = [{"question": f"{i}?", "answer": f"<<1+{i}={i + 1}>>\n#### {i}"} for i in range(4)]
    output = tmp_path / "out"
    assert prepare(write_rows(tmp_path / "rows.jsonl", rows), output) == 0
    assert sorted(file.name for file in output.iterdir()) == [
        "prompt_format.json",
        "test.jsonl",
        "train.jsonl",
        "validation.jsonl",
    ]
    assert read_prompt_format(output) == PromptFormat("basic", "question")
    manifest = json.loads((tmp_path / "out.manifest.json").read_text())
    assert manifest["notes"]["train"] == 2
    assert manifest["settings"]["n_train"] == 2
    assert manifest["wall_seconds"] >= 0
    assert manifest["peak_memory_mib"] > 0


def test_a_folder_of_csv_files_is_prepared_by_a_preset_of_ones_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "train.csv").write_text("q,a\n" + "".join(f"{i}?,{i}\n" for i in range(5)) + "5?,\n")
    (data / "test.csv").write_text("q,a\nt?,0\n")
    (data / "README.md").write_text("not data")
    preset = tmp_path / "mine.yaml"
    preset.write_text('kind: instruction\nprompt: "{q}"\ncompletion: "{a}"\n')
    flags = ["--format", str(preset), "--test", str(data)]
    assert prepare(data, tmp_path / "out", *flags) == 0
    (test,) = (tmp_path / "out" / "test.jsonl").read_text().splitlines()
    assert json.loads(test) == {"prompt": "Instruction: t?\nResponse:\n", "completion": "0"}
    said = capsys.readouterr().err
    assert said.count(f"{data}: passed over README.md") == 1
    assert "left out 1 row with an empty answer (the first is row 6)" in said
    manifest = json.loads((tmp_path / "out.manifest.json").read_text())
    assert set(manifest["inputs"]) == {"train", "test", "preset"}


@pytest.mark.parametrize("space", ["", " "])
def test_the_seam_of_plain_prompts_is_noted(tmp_path: Path, space: str) -> None:
    """Without it a model would be asked with a line break that no training sample has."""
    preset = tmp_path / "mine.yaml"
    preset.write_text('kind: plain\nprompt: "{q}"\ncompletion: "{a}"\n')
    rows = write_rows(tmp_path / "rows.jsonl", [{"q": "4+0=", "a": f"{space}4"}] * 4)
    assert prepare(rows, tmp_path / "out", "--format", str(preset)) == 0
    format = read_prompt_format(tmp_path / "out")
    assert format == PromptFormat("basic", "plain", spaced=bool(space))


def test_prepared_rows_hold_any_character_and_are_read_back(tmp_path: Path) -> None:
    answer = "one\u2028two\x85three\x1c \ud7ff\r\n#### 4"
    rows = write_rows(tmp_path / "rows.jsonl", [{"question": "\x0b?", "answer": answer}] * 4)
    assert prepare(rows, tmp_path / "out") == 0
    read = [typed_row(Example, row, "") for _, row in numbered_rows(tmp_path / "out/train.jsonl")]
    assert read == [Example("Question: \x0b?\nAnswer:", f" {answer}")] * 2


def test_a_prepared_row_may_say_that_special_tokens_are_there_and_nothing_else() -> None:
    row = {"prompt": "p", "completion": "c"}
    assert typed_row(Example, row, "") == Example("p", "c", special_tokens=True)
    assert not typed_row(Example, row | {"special_tokens": False}, "").special_tokens
    for wrong in (0, "false", None):
        with pytest.raises(InputError, match="special_tokens: expected true or false, found"):
            typed_row(Example, row | {"special_tokens": wrong}, "")
    with pytest.raises(InputError, match="prompt: expected a text, found True"):
        typed_row(Example, row | {"prompt": True}, "")
    with pytest.raises(InputError, match="the field 'completion' is missing"):
        typed_row(Example, {"prompt": "p", "special_tokens": True}, "")


def test_calculator_annotations_are_kept_or_stripped(tmp_path: Path) -> None:
    row = {"question": "1+1?", "answer": "<<1+1=2>>2 > 1\n#### 2"}
    rows = write_rows(tmp_path / "rows.jsonl", [row] * 4)
    for choice, answer in [("keep", " <<1+1=2>>2 > 1\n#### 2"), ("strip", " 2 > 1\n#### 2")]:
        assert prepare(rows, tmp_path / choice, "--calculator-annotations", choice) == 0
        line = (tmp_path / choice / "train.jsonl").read_text().splitlines()[0]
        assert json.loads(line)["completion"] == answer


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ("", "expected at least one row, found none"),
        ('{"question": "1?"}\n', "row 1: expected the field 'answer', found question"),
        ('{"question": "1?", "answer": "1"}\n[1]\n', "row 2: expected an object"),
        ('{"question": "1?", "answer": "1"}\n{"quest', "line 2: expected JSON"),
        ('{"question": "1?", "answer": "1"}\n', "n_train: expected at most"),
        ('{"question": "1?", "answer": ""}\n', "found 1 row with an empty answer"),
    ],
)
def test_bad_rows_give_one_line_and_leave_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, message: str
) -> None:
    rows = tmp_path / "rows.jsonl"
    if content is not None:
        rows.write_text(content)
    assert prepare(rows, tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert {file.name for file in tmp_path.iterdir()} <= {"rows.jsonl"}
