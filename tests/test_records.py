"""Metric records and training records: what is written is read back, what is wrong is named."""

import dataclasses
import json
from pathlib import Path

import pytest

from fnsft.artifacts.records import Measurement, Record, read_records, write_records
from fnsft.artifacts.training import Run, TrainingRecord, read_training, write_training
from fnsft.errors import InputError

RUN = Run("tiny", "math", "collab", 0.5, 0.5, "knn", "gradient", None, 1, 0, 1e-3)
RECORD = Record.of(RUN, Measurement("gsm8k", "accuracy", 0.5, 0.1, 26, "steps=2"))
POINT = {"step": 0, "epoch": 0.0, "loss": 0.7, "perplexity": 2.01, "samples": 9, "tokens": 80}
TRAINING = TrainingRecord(
    RUN, [POINT], [{"step": 1, "loss": 0.9}], 2, 126, 1.5, 189, None, 27.5, 900.0
)


def test_records_come_back_as_they_were_written(tmp_path: Path) -> None:
    base = Record.of(Run("tiny", "math", "base"), Measurement("cloze", "accuracy", 1.0, None, 1))
    write_records(tmp_path / "a.jsonl", [RECORD])
    write_records(tmp_path / "b.jsonl", [base, RECORD])
    read = read_records([tmp_path / "a.jsonl", tmp_path / "b.jsonl"])
    assert read == [RECORD, base, RECORD]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": "high"}, "line 2: value: expected a number, found 'high'"),
        ({"value": float("nan")}, "line 2: value: expected a number, found nan"),
        ({"n": 3.5}, "line 2: n: expected a whole number, found 3.5"),
        ({"model": None}, "line 2: model: expected a text, found None"),
        ({"seed": "0"}, "line 2: seed: expected a whole number or null, found '0'"),
        ({"stage": True}, "line 2: stage: expected a whole number, found True"),
        ({"extra": 1}, "line 2: unknown field 'extra'"),
    ],
)
def test_a_wrong_row_is_named_with_its_line(tmp_path: Path, change: dict, message: str) -> None:
    rows = [dataclasses.asdict(RECORD), dataclasses.asdict(RECORD) | change]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(InputError, match=message):
        read_records([tmp_path / "a.jsonl"])


@pytest.mark.parametrize(("text", "message"), [("{", "expected JSON"), ("[1]", "an object")])
def test_a_damaged_row_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(InputError, match=f"line 1: expected .*{message.split()[-1]}"):
        read_records([tmp_path / "a.jsonl"])


def test_a_training_record_comes_back_from_its_folder_or_file(tmp_path: Path) -> None:
    write_training(tmp_path, TRAINING)
    assert read_training(tmp_path) == read_training(tmp_path / "training.json") == TRAINING


def test_a_training_record_that_lacks_something_says_what(tmp_path: Path) -> None:
    write_training(tmp_path, TRAINING)
    file = tmp_path / "training.json"
    whole = json.loads(file.read_text())
    cases = {
        "expected a training record of schema 2": whole | {"schema": 1},
        "run: the field 'task' is missing": whole
        | {"run": {k: v for k, v in whole["run"].items() if k != "task"}},
        "the field 'best_step' is missing": {k: v for k, v in whole.items() if k != "best_step"},
        "validation point 1 has no 'epoch'": whole | {"validation": [{"step": 0}]},
    }
    for message, content in cases.items():
        file.write_text(json.dumps(content))
        with pytest.raises(InputError, match=message):
            read_training(tmp_path)
