"""Locks: one holder at a time, none left behind, and Snakemake's own when their head is dead."""

import os
import signal
from pathlib import Path

import pytest

from fnsft.artifacts import locks
from fnsft.artifacts.locks import held, join_heads
from fnsft.artifacts.storage import HOST
from fnsft.errors import InputError


def test_a_lock_has_one_holder_and_leaves_nothing(tmp_path: Path) -> None:
    file = tmp_path / "runs" / ".run.lock"
    with held(file, "run"):
        message = f"run: expected nobody to use it, found process {os.getpid()} on {HOST}; wait"
        with pytest.raises(InputError, match=message), held(file, "run"):
            raise AssertionError("two holders")
        assert file.exists()
    with held(file, "run"):
        pass
    assert not list(file.parent.iterdir())


def test_a_lock_ends_with_a_killed_holder(tmp_path: Path) -> None:
    file = tmp_path / ".run.lock"
    child = os.fork()
    if child == 0:
        with held(file, "run"):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert str(child) in file.read_text()
    with held(file, "run"):
        pass


def test_who_opened_a_lock_that_then_went_takes_the_new_one(tmp_path: Path) -> None:
    file = tmp_path / ".run.lock"
    file.touch()
    with file.open() as old:
        assert locks._is_still(file, old)
        file.unlink()
        assert not locks._is_still(file, old)
        file.touch()
        assert not locks._is_still(file, old)


@pytest.mark.parametrize(
    ("heads_live", "host", "cleared"),
    [(False, HOST, True), (True, HOST, False), (False, "elsewhere", False), (False, "", False)],
)
def test_locks_of_snakemake_go_with_the_last_head_of_this_machine(
    tmp_path: Path, heads_live: bool, host: str, cleared: bool
) -> None:
    folder = tmp_path / ".snakemake"
    join_heads(folder)
    assert (folder / "fnsft.heads").read_text() == HOST
    if not heads_live:
        locks._HEADS.pop().close()
    (folder / "fnsft.heads").write_text(host)
    lock = folder / "locks" / "0.output.lock"
    lock.parent.mkdir()
    lock.write_text("results/table1.tex")
    join_heads(folder)
    assert lock.exists() != cleared
    assert (folder / "fnsft.heads").read_text() == (HOST if cleared else host)
