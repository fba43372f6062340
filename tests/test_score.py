"""Scores of answers: what is read must be what was written, and of the same data."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from benchmark_files import MAX_NEW_TOKENS, benchmark_words, write_benchmark_files

from fnsft.artifacts.answers import (
    Answered,
    AnswersFolder,
    data_sha256_of,
    read_answers,
    versions_of,
    write_answers,
)
from fnsft.artifacts.records import Measurement
from fnsft.artifacts.storage import write_jsonl
from fnsft.artifacts.training import Run
from fnsft.cli.main import main
from fnsft.config.stages.evaluation import Benchmark
from fnsft.errors import InputError
from fnsft.evaluation.benchmarks.contract import Scores
from fnsft.evaluation.scoring import records_of, with_data


@pytest.fixture(scope="module")
def answered(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("answered")
    files = write_benchmark_files(folder, tiny_model_dir, n=3)
    words = benchmark_words(files, f"max_new_tokens={MAX_NEW_TOKENS}")
    command = ["answer", "--model", str(tiny_model_dir), "--model-name", "tiny"]
    assert main([*command, "--output", str(folder / "answers"), *words]) == 0
    return folder / "answers"


def code_folder(tmp_path: Path) -> tuple[AnswersFolder, Path]:
    """Return one answered benchmark of code, and its file."""
    data = tmp_path / "tasks.jsonl"
    write_jsonl(data, [{"task_id": "a"}])
    benchmark = Benchmark(kind="functions", file=str(data), measures="code")
    found = Answered(
        benchmark, "functions …", data_sha256_of(benchmark), "torch 2", {"cut": 1}, [{"item": "a"}]
    )
    facts = dataclasses.replace(found, benchmark=Benchmark(kind="cloze", file="gone.jsonl"))
    run = Run("tiny", "code", "sft", stage=2, sequence="math>code")
    return AnswersFolder(run, "off", {"code": found, "facts": facts}), data


def test_answers_come_back_as_they_were_written(tmp_path: Path) -> None:
    answers, _ = code_folder(tmp_path)
    folder = tmp_path / "answers"
    folder.mkdir()
    write_answers(folder, answers)
    assert read_answers(folder) == answers


def test_one_summary_line_tells_of_each_benchmark(
    answered: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "scores.jsonl"
    assert main(["score", str(answered), "--output", str(output)]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0].removesuffix("-x") for line in lines[:-1]] == [
        "gsm8k",
        "exact",
        "cloze",
        "perplexity",
    ]
    assert all(line.endswith("3 items") for line in lines[:-1])
    assert lines[-1].startswith(f"{output}: tiny base: ")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("truncated", "gsm8k-x.jsonl: expected the 3 answers that benchmarks.json describes"),
        ("exchanged", "gsm8k-x.jsonl: expected the 3 answers that benchmarks.json describes"),
        ("row gone", "gsm8k-x.jsonl: no such file"),
        ("no index", "expected answers with a benchmarks.json, found none"),
        ("foreign", "benchmarks.json: expected answers of schema 1"),
        ("no run", "benchmarks.json: expected answers, found damage ('run')"),
        ("list", "benchmarks.json: expected answers, found damage"),
        ("kind", "benchmarks.json: gsm8k-x: kind: expected one of"),
    ],
)
def test_answers_that_are_not_as_they_were_written_are_refused_in_a_line(
    damage: str,
    message: str,
    answered: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "answers"
    shutil.copytree(answered, folder)
    index, rows = folder / "benchmarks.json", folder / "gsm8k-x.jsonl"
    content = json.loads(index.read_text())
    if damage == "truncated":
        rows.write_text("".join(rows.read_text().splitlines(keepends=True)[:2]))
    elif damage == "exchanged":
        shutil.copy(folder / "exact-x.jsonl", rows)
    elif damage == "row gone":
        rows.unlink()
    elif damage == "no index":
        index.unlink()
    elif damage == "foreign":
        index.write_text('{"schema": "other"}')
    elif damage == "no run":
        del content["run"]
    elif damage == "list":
        content["benchmarks"] = []
    elif damage == "kind":
        content["benchmarks"]["gsm8k-x"]["benchmark"]["kind"] = "riddles"
    if damage in ("no run", "list", "kind"):
        index.write_text(json.dumps(content))
    output = tmp_path / "out" / "scores.jsonl"
    assert main(["score", str(folder), "--output", str(output)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not output.parent.exists()


def test_tests_that_scoring_reads_again_must_be_those_that_were_answered(tmp_path: Path) -> None:
    answers, data = code_folder(tmp_path)
    assert with_data(answers, {})["code"].file == str(data)
    moved = tmp_path / "moved.jsonl"
    data.rename(moved)
    with pytest.raises(InputError, match=r"no such file, .* --data code=FILE"):
        with_data(answers, {})
    found = with_data(answers, {"code": moved})
    assert (found["code"].file, found["code"].measures) == (str(moved), "code")
    moved.write_text('{"task_id": "b"}\n')
    with pytest.raises(InputError, match="expected the file that code was answered from"):
        with_data(answers, {"code": moved})


def test_data_that_no_benchmark_reads_again_are_refused(tmp_path: Path) -> None:
    answers, data = code_folder(tmp_path)
    with pytest.raises(InputError, match="no benchmark 'cod'; did you mean 'code'"):
        with_data(answers, {"cod": data})
    with pytest.raises(InputError, match="data facts: expected a benchmark of code"):
        with_data(answers, {"facts": data})


@pytest.mark.parametrize("words", [["x"], ["x="], ["=x"], ["x=1", "x=2"]])
def test_moved_files_are_given_by_name(
    words: list[str], answered: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "scores.jsonl"
    assert main(["score", str(answered), "--output", str(output), "--data", *words]) == 2
    assert "data: expected NAME=FILE, each name once" in capsys.readouterr().err


def test_versions_at_answering_stand_before_those_at_scoring_each_once() -> None:
    import numpy
    import torch

    joined = versions_of(("numpy", "torch"), f"torch {torch.__version__}, evalplus 0.3.0")
    assert joined == f"torch {torch.__version__}, evalplus 0.3.0, numpy {numpy.__version__}"


def test_records_join_the_run_with_what_was_asked(tmp_path: Path) -> None:
    import numpy

    answers, _ = code_folder(tmp_path)
    scores = Scores([Measurement("code", "pass_at_1", 1.0, None, 1)], [], packages=("numpy",))
    (record,) = records_of(answers, "code", scores)
    assert (record.sequence, record.stage, record.measures) == ("math>code", 2, "code")
    assert (record.protocol, record.forward_mask) == ("functions …", "off")
    assert record.versions == f"torch 2, numpy {numpy.__version__}"
    assert record.data_sha256 == answers.answered["code"].data_sha256


def test_examples_are_hashed_with_the_items(tmp_path: Path) -> None:
    for name in ("items", "examples"):
        (tmp_path / name).write_text(name)
    alone = Benchmark(kind="mmlu", file=str(tmp_path / "items"), shots=0)
    both = Benchmark(kind="mmlu", file=alone.file, examples=str(tmp_path / "examples"))
    assert data_sha256_of(both).split("+")[0] == data_sha256_of(alone)
    (tmp_path / "examples").write_text("others")
    assert len({data_sha256_of(both), data_sha256_of(alone)}) == 2
