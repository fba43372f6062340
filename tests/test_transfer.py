"""What a sequence of stages learned and forgot: the score matrix, and the records of one run."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from fnsft.artifacts.records import Measurement, Record, read_records, write_records
from fnsft.artifacts.training import Run
from fnsft.cli.main import main
from fnsft.reporting.transfer import continual_measures

TASKS = ("math", "code", "medical")
BENCHMARKS = {"gsm8k": "math", "humaneval": "code", "mbpp": "code", "pubmedqa": "medical"}
METRICS = {"humaneval": "pass_at_1", "mbpp": "pass_at_1"}
# After the base model and three stages; code is the mean of its two benchmarks.
SCORES = {
    "gsm8k": (0.10, 0.60, 0.50, 0.30),
    "humaneval": (0.10, 0.10, 0.60, 0.50),
    "mbpp": (0.30, 0.20, 0.60, 0.50),
    "pubmedqa": (0.40, 0.42, 0.46, 0.80),
    "cloze": (0.90, 0.80, 0.70, 0.55),
    "mmlu": (0.25, 0.25, 0.25, 0.30),
}


def slow(matrix: Sequence[Sequence[float]]) -> dict[str, float]:
    """DESIGN's formulas, index by index from 1."""
    n = len(matrix) - 1

    def score(i: int, j: int) -> float:
        return matrix[i][j - 1]

    found = {"average_accuracy": sum(score(n, j) for j in range(1, n + 1)) / n}
    if n == 1:
        return found
    before_last, later = range(1, n), range(2, n + 1)
    terms = {
        "backward_transfer": [score(n, j) - score(j, j) for j in before_last],
        "forward_transfer": [score(j - 1, j) - score(0, j) for j in later],
        "forgetting": [max(score(i, j) for i in range(1, n)) - score(n, j) for j in before_last],
    }
    return found | {name: sum(values) / (n - 1) for name, values in terms.items()}


def record_of(
    stage: int, benchmark: str, value: float, tasks: Sequence[str] = TASKS, **other: object
) -> Record:
    run = Run("tiny", "", "base")
    if stage:
        sequence = ">".join(tasks[:stage])
        method = "replay" if stage == len(tasks) else "sft"
        run = Run("tiny", tasks[stage - 1], method, stage=stage, seed=3, sequence=sequence)
    measurement = Measurement(benchmark, METRICS.get(benchmark, "accuracy"), value, 0.02, 100)
    record = Record.of(
        run,
        measurement,
        measures=BENCHMARKS.get(benchmark),
        protocol=f"{benchmark} shots=0",
        data_sha256=f"sha of {benchmark}",
    )
    return dataclasses.replace(record, **other)


def records_of(stage: int, tasks: Sequence[str] = TASKS) -> list[Record]:
    return [record_of(stage, name, values[stage], tasks) for name, values in SCORES.items()]


def written(folder: Path, name: str, records: Sequence[Record]) -> str:
    write_records(folder / name, records)
    return str(folder / name)


def run_transfer(folder: Path, stages: Sequence[Sequence[Record]], *more: str) -> int:
    base, *others = (written(folder, f"{i}.jsonl", found) for i, found in enumerate(stages))
    output = str(folder / "out.jsonl")
    return main(["transfer", "--base", base, "--stages", *others, *more, "--output", output])


def measures_in(path: Path) -> dict[str, float]:
    found = [r for r in read_records([path]) if r.benchmark == "continual" and r.subset is None]
    return {record.metric: record.value for record in found}


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_continual_measures_are_the_formulas_index_by_index(n: int) -> None:
    for seed in range(20):
        matrix = np.random.default_rng([n, seed]).random((n + 1, n))
        found = continual_measures(matrix)
        assert {name: value for name, (value, _) in found.items()} == pytest.approx(
            slow(matrix.tolist())
        )


def test_continual_measures_of_three_tasks_by_hand(tmp_path: Path) -> None:
    assert run_transfer(tmp_path, [records_of(stage) for stage in range(4)]) == 0
    assert measures_in(tmp_path / "out.jsonl") == pytest.approx(
        {
            "average_accuracy": (0.3 + 0.5 + 0.8) / 3,
            "backward_transfer": ((0.3 - 0.6) + (0.5 - 0.6)) / 2,
            "forward_transfer": ((0.15 - 0.2) + (0.46 - 0.4)) / 2,
            "forgetting": ((0.6 - 0.3) + (0.6 - 0.5)) / 2,
            "general_retention": ((0.55 - 0.9) + (0.3 - 0.25)) / 2,
        }
    )


def test_forgetting_looks_at_stages_and_not_at_the_base_model() -> None:
    # The base knew task 1 better than any stage.
    found = continual_measures(np.array([[0.9, 0.1], [0.5, 0.1], [0.4, 0.8]]))
    assert found["forgetting"] == (pytest.approx(0.1), 1)


def test_stages_that_another_method_trained_are_counted_under_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_transfer(tmp_path, [records_of(stage) for stage in range(4)]) == 0
    (found,) = [r for r in read_records([tmp_path / "out.jsonl"]) if r.metric == "others_stages"]
    assert (found.method, found.subset, found.value, found.n) == ("replay", "sft", 2, 3)
    assert "stages 2" not in capsys.readouterr().err
    assert run_transfer(tmp_path, [records_of(0), records_of(1, TASKS[:1])]) == 0
    assert not any(r.metric == "others_stages" for r in read_records([tmp_path / "out.jsonl"]))


def test_every_record_passes_through_under_the_last_stages_run(tmp_path: Path) -> None:
    drift = dataclasses.replace(
        record_of(3, "drift", 0.2), metric="kl_forward", protocol=None, data_sha256=None
    )
    more = written(tmp_path, "drift.jsonl", [drift])
    stages = [records_of(stage) for stage in range(4)]
    assert run_transfer(tmp_path, stages, "--drift", more) == 0
    found = read_records([tmp_path / "out.jsonl"])
    assert {(r.method, r.seed, r.sequence, r.model) for r in found} == {
        ("replay", 3, "math>code>medical", "tiny")
    }
    passed = [r for r in found if r.benchmark != "continual"]
    values = {(r.stage, r.benchmark, r.metric, r.value, r.protocol) for r in passed}
    expected = {
        (r.stage, r.benchmark, r.metric, r.value, r.protocol)
        for records in [*stages, [drift]]
        for r in records
    }
    assert values == expected and len(passed) == len(expected)
    own = [r for r in found if r.benchmark == "continual"]
    assert {(r.stage, r.protocol, r.data_sha256, r.measures) for r in own} == {(3, *[None] * 3)}


def test_files_of_one_stage_follow_each_other_and_are_joined(tmp_path: Path) -> None:
    one, two = records_of(1, TASKS[:2]), records_of(2, TASKS[:2])
    files = [records_of(0), one[:2], one[2:], two[:3], two[3:]]
    assert run_transfer(tmp_path, files) == 0
    assert set(measures_in(tmp_path / "out.jsonl")) == set(slow([[0, 0]] * 3)) | {
        "general_retention"
    }


def test_one_stage_has_an_average_and_no_transfer(tmp_path: Path) -> None:
    assert run_transfer(tmp_path, [records_of(0), records_of(1, TASKS[:1])]) == 0
    found = measures_in(tmp_path / "out.jsonl")
    # Code and medicine were never trained on in this sequence, and count as general.
    others = [name for name in SCORES if name != "gsm8k"]
    assert found == pytest.approx(
        {
            "average_accuracy": 0.6,
            "general_retention": np.mean([SCORES[b][1] - SCORES[b][0] for b in others]),
        }
    )


def test_a_continual_task_without_a_share_leaves_the_four_out_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = TASKS[:2]
    stages = [[r for r in records_of(i, tasks) if r.benchmark != "gsm8k"] for i in range(3)]
    for i, found in enumerate(stages):
        found.append(record_of(i, "ppl", 2.0, tasks, metric="perplexity", measures="math"))
    assert run_transfer(tmp_path, stages) == 0
    assert set(measures_in(tmp_path / "out.jsonl")) == {"general_retention"}
    assert "left out: average accuracy, transfer, forgetting: no share for math" in (
        capsys.readouterr().err
    )
    manifest = json.loads((tmp_path / "out.jsonl.manifest.json").read_text())
    assert "no share for math" in manifest["notes"]["left_out"][0]
    assert sum(r.metric == "perplexity" for r in read_records([tmp_path / "out.jsonl"])) == 3


def test_continual_stages_of_several_runs_or_asked_otherwise_are_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = TASKS[:2]
    base, one, two = (records_of(stage, tasks) for stage in range(3))

    def changed(records: Sequence[Record], **fields: object) -> list[Record]:
        return [dataclasses.replace(record, **fields) for record in records]

    def first(records: Sequence[Record], **fields: object) -> list[Record]:
        return [*changed(records[:1], **fields), *records[1:]]

    for files, message in (
        ([base, two, one], "expected files of the stages 1, 2, … in order, found 2, 1"),
        ([base, two], "in order, found 2"),
        ([base, one, []], "in order, found 1, and an empty file"),
        ([one, one, two], "base: expected records of a model that was not fine-tuned (stage 0)"),
        ([base, changed(one, seed=4), two], "seed: expected one for all records of a run, found 4"),
        ([base, changed(one, model="B"), two], "model: expected one for all records of a run"),
        ([changed(base, model="B"), one, two], "model: expected one for all records of a run"),
        ([base, first(one, lam=0.2), two], "lam: expected one for all records of a run"),
        ([base, changed(one, sequence="law"), two], "stage 1 is the end of law, expected math"),
        ([base, one, changed(two, sequence="law>code")], "is the end of law>code, expected math>"),
        ([base, first(one, protocol="shots=5"), two], "protocol: expected that of stage 2, gsm8k"),
        ([base, first(one, data_sha256="9"), two], "gsm8k: data_sha256: expected that of stage 2"),
        ([first(base, data_sha256="9"), one, two], "gsm8k: data_sha256: expected that of stage 2"),
        (
            [base, first(one, n=20), two],
            "gsm8k accuracy: expected the 100 items of stage 2, found 2",
        ),
        (
            [first(base, n=20), one, two],
            "gsm8k accuracy: expected the 100 items of stage 2, found 2",
        ),
        ([base, one[1:], two], "gsm8k: expected a score of every stage, found none at stage 1"),
        ([base, one, [*two, two[0]]], "gsm8k accuracy: expected one record of stage 2, found two"),
    ):
        assert run_transfer(tmp_path, files) == 2, message
        error = capsys.readouterr().err
        assert message in error and len(error.splitlines()) == 1, error
        assert not (tmp_path / "out.jsonl").exists()


def test_drift_of_another_run_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = TASKS[:2]
    stages = [records_of(stage, tasks) for stage in range(3)]

    def drift(stage: int, **fields: object) -> Record:
        found = record_of(min(stage, 2), "drift", 0.2, tasks, metric="kl_forward")
        return dataclasses.replace(found, **{"stage": stage} | fields)

    good = [drift(1), drift(2), drift(2, metric="kl_reverse")]
    more = written(tmp_path, "good.jsonl", good)
    assert run_transfer(tmp_path, stages, "--drift", more) == 0
    (tmp_path / "out.jsonl").unlink()
    capsys.readouterr()
    for bad, message in (
        ([drift(2, sequence="law>code")], "drift: stage 2 is the end of law>code, expected math>c"),
        ([drift(2, method="lora")], "method: expected one for all records of a run, found lora"),
        ([drift(1, method="replay")], "method: expected one for all records of a run, found repl"),
        ([drift(2, fraction=0.1)], "fraction: expected one for all records of a run, found 0.1"),
        ([drift(2, task="law")], "task: expected one for all records of a run, found law"),
        ([drift(7)], "drift: expected records of the stages 1 to 2, found stage 7"),
        ([drift(0)], "drift: expected records of the stages 1 to 2, found stage 0"),
        ([drift(2, protocol="drift since=any")], "measure it with --since stage"),
        ([drift(2), drift(2, value=1.0)], "drift kl_forward: expected one record of stage 2"),
    ):
        more = written(tmp_path, "bad.jsonl", bad)
        assert run_transfer(tmp_path, stages, "--drift", more) == 2, message
        error = capsys.readouterr().err
        assert message in error and len(error.splitlines()) == 1, error
        assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("benchmark", "lost"),
    [("gsm8k", None), ("mbpp", "forward transfer"), ("mmlu", "general retention")],
)
def test_what_starts_from_a_base_that_was_asked_otherwise_is_left_out_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], benchmark: str, lost: str | None
) -> None:
    tasks = TASKS[:2]
    base, *stages = (records_of(stage, tasks) for stage in range(3))
    assert run_transfer(tmp_path, [base, *stages]) == 0
    every = measures_in(tmp_path / "out.jsonl")
    capsys.readouterr()
    asked = [
        dataclasses.replace(r, protocol="shots=5") if r.benchmark == benchmark else r for r in base
    ]
    assert run_transfer(tmp_path, [asked, *stages]) == 0
    found = measures_in(tmp_path / "out.jsonl")
    assert found == {m: v for m, v in every.items() if m.replace("_", " ") != lost}
    notes = json.loads((tmp_path / "out.jsonl.manifest.json").read_text())["notes"]
    assert notes["base_protocol_differs"] == [benchmark]
    reason = f"{lost}: the base model was asked in another way, {benchmark}"
    assert notes["left_out"] == ([reason] if lost else [])
    assert (f"left out: {reason}" in capsys.readouterr().err) == (lost is not None)
