"""Progress lines: what they say, and that they never stop a workflow."""

import logging

import pytest

from fnsft.reporting.progress import ProgressLines, is_calm


def record(event: str, message: str = "", **fields: object) -> logging.LogRecord:
    found = logging.LogRecord("snakemake", logging.INFO, "", 0, message, (), None)
    found.__dict__.update(event=event, **fields)
    return found


def start(lines: ProgressLines, jobid: int, rule: str) -> None:
    lines.emit(record("job_info", jobid=jobid, rule_name=rule, rule_msg=f"do {rule}"))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in a list so that a test can move it."""
    now = [0.0]
    monkeypatch.setattr("fnsft.reporting.progress.time.monotonic", lambda: now[0])
    return now


def test_the_time_left_is_that_of_the_jobs_to_come(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ProgressLines()
    lines.emit(record("run_info", stats={"train": 3, "total": 3}))
    lines.emit(record("job_started", jobs=[1]))
    start(lines, 1, "train")
    clock[0] = 60
    lines.emit(record("job_finished", job_id=1))
    start(lines, 2, "train")
    clock[0] = 90
    start(lines, 3, "train")
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "[  0/3] start  do train"
    assert told[1] == "[  1/3] done   do train in 60 s; about 2 min left"
    # Half of job 2 and all of job 3 are to come; 60 s of work ended in 90 s, one job at a time.
    assert told[3] == "[  1/3] start  do train; about 2 min left"


def test_no_time_is_told_before_the_common_jobs_are_timed(clock: list[float], capsys) -> None:
    lines = ProgressLines()
    lines.emit(record("run_info", stats={"prepare": 1, "train": 9}))
    lines.emit(record("job_started", jobs=[1]))
    start(lines, 1, "prepare")
    clock[0] = 1
    lines.emit(record("job_finished", job_id=1))
    assert "left" not in capsys.readouterr().err


def test_a_dry_run_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    lines = ProgressLines()
    start(lines, 1, "train")
    assert capsys.readouterr().err == ""


def test_a_failed_job_shows_the_end_of_its_log(tmp_path, capsys) -> None:
    log = tmp_path / "train.log"
    log.write_text("".join(f"line {i}\n" for i in range(20)))
    lines = ProgressLines()
    lines.emit(record("job_started", jobs=[1]))
    start(lines, 1, "train")
    lines.emit(record("job_error", jobid=1, rule_name="train", log=[str(log)]))
    told = capsys.readouterr().err
    assert "FAILED do train" in told
    assert "line 19" in told
    assert "line 11\n" not in told


def test_an_event_with_missing_fields_is_not_fatal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    lines = ProgressLines()
    lines.emit(record("job_started"))
    lines.emit(record("job_info"))


def test_only_what_the_lines_repeat_is_kept_back() -> None:
    assert not is_calm(record("progress"))
    assert not is_calm(record("", "Select jobs to execute..."))
    assert is_calm(record("error", "disk full"))
    assert is_calm(record("", "Nothing to be done"))
