"""Rows to splits: rendering, disjointness, seeds, and rows that are not what they should be."""

import json
from pathlib import Path

import pytest

from fnsft.cli.main import main
from fnsft.config.stages import PrepareSettings
from fnsft.data.formats import Example, alpaca, gsm8k, medical_o1, read_examples
from fnsft.data.splits import shared_prompts, split
from fnsft.errors import InputError

POOL = [Example(f"Question: {i}\nAnswer:", f" {i}") for i in range(50)]
SETTINGS = PrepareSettings(n_train=20, n_validation=10, n_test=5)


def write_rows(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_prompt_ends_where_generation_begins() -> None:
    assert gsm8k({"question": "1+1?", "answer": "2\n#### 2"}) == Example(
        "Question: 1+1?\nAnswer:", " 2\n#### 2"
    )
    row = {"instruction": "Add.", "input": "1, 2", "output": "3"}
    assert alpaca(row) == Example("Instruction: Add.\n1, 2\nResponse:\n", "3")
    assert (
        alpaca({"instruction": "Add.", "response": "3"}).prompt == "Instruction: Add.\nResponse:\n"
    )
    row = {"Question": "Why?", "Complex_CoT": "Hm.", "Response": "So."}
    assert medical_o1(row) == Example("Question: Why?\nAnswer:", " Hm.\n\nSo.")


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


def test_real_gsm8k_and_codealpaca_are_read(shared_data: Path) -> None:
    assert len(read_examples(shared_data / "gsm8k/train.jsonl", "gsm8k")) == 7_473
    assert len(read_examples(shared_data / "codealpaca/code_alpaca_2k.json", "alpaca")) == 2_017
    assert len(read_examples(shared_data / "codealpaca/new_codealpaca.json", "alpaca")) == 4_535
    assert read_examples(shared_data / "medical/huatuo_demo_data.json", "medical-o1")


def prepare(train: Path, output: Path) -> int:
    sizes = ["--n-train", "2", "--n-validation", "1", "--n-test", "1"]
    return main(["prepare", "--train", str(train), "--output", str(output), *sizes])


def test_the_stage_writes_three_splits_and_a_manifest(tmp_path: Path) -> None:
    rows = [{"question": f"{i}?", "answer": f"<<1+{i}={i + 1}>>\n#### {i}"} for i in range(4)]
    output = tmp_path / "out"
    assert prepare(write_rows(tmp_path / "rows.jsonl", rows), output) == 0
    assert sorted(file.name for file in output.iterdir()) == [
        "test.jsonl",
        "train.jsonl",
        "validation.jsonl",
    ]
    manifest = json.loads((tmp_path / "out.manifest.json").read_text())
    assert manifest["notes"]["train"] == 2
    assert manifest["settings"]["n_train"] == 2
    assert manifest["wall_seconds"] >= 0
    assert manifest["peak_memory_mib"] > 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ("", "expected at least one row, found an empty file"),
        ('{"question": "1?"}\n', "row 1: format 'gsm8k' needs the field 'answer', found question"),
        ('{"question": "1?", "answer": "1"}\n[1]\n', "row 2: expected an object"),
        ('{"question": "1?", "answer": "1"}\n{"quest', "line 2: expected JSON"),
        ('{"question": "1?", "answer": "1"}\n', "n_train: expected at most"),
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
