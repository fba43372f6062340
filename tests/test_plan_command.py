"""``fnsft plan`` on the repository's own configurations."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from clock import starts
from workflow_runs import copy_tree, planned

from fnsft.cli.main import main

pytestmark = pytest.mark.workflow

TINY = ["--configfile", "workflow/configs/tiny.yaml", "--machine", "cpu", "--all"]


@pytest.fixture(scope="module")
def tree(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_tree(repository, tmp_path_factory.mktemp("clone"))


@pytest.fixture
def plan(tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.chdir(tree)

    def run(*words: str) -> tuple[int, str, str]:
        code = main(["plan", *words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_a_plan_has_the_jobs_of_snakemakes(tree: Path, plan) -> None:
    smoke = [*TINY[:2], "workflow/configs/smoke.yaml", *TINY[2:]]
    code, out, err = plan(*smoke, "--json", "--", "results/table1.tex")
    assert code == 0, err
    found = json.loads(out)
    assert {row["rule"]: row["jobs"] for row in found["rows"]} == planned(tree)
    assert found["jobs"] == sum(row["jobs"] for row in found["rows"])
    assert found["kept"] == pytest.approx(sum(row["kept"] for row in found["rows"]))
    assert 0 < found["wall_hours"] < found["core_hours"] <= 2 * found["wall_hours"]


def test_a_model_that_no_gpu_can_hold_is_refused(plan) -> None:
    words = ["--config", "experiment=x", "--machine", "a100", "--disk-gib", "1e6", "--gpus", "1"]
    code, out, err = plan(*words, "--", "results/table1.tex")
    assert code == 2 and "train" in out
    assert re.search(
        r"^fnsft plan: train: \S+ with \S+: expected at most 79.0 GiB on each of 1 GPUs", err
    )
    assert err.count("\n") == 1


def test_a_disk_that_is_too_small_is_refused(plan) -> None:
    code, _, err = plan(*TINY, "--disk-gib", "0.001", "--", "results/table1.tex")
    assert code == 2 and err.startswith("fnsft plan: disk: ") and "1.0 MiB free" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--machine", "none"], "machine: expected one of workflow/machines (a100, cpu)"),
        (["--configfile", "none.yaml"], "none.yaml: expected a YAML file"),
        (["--config", "experiment"], "config: expected KEY=VALUE"),
        (["--machine", "cpu", "--gpus", "2"], "gpus: cpu has none"),
        ([*TINY, "--", "results/table9.tex"], "snakemake: "),
        (["--config", "experiment=a/b"], "configuration: experiment: expected a folder's name"),
    ],
)
def test_what_cannot_be_planned_is_said_in_one_line(plan, words: list[str], said: str) -> None:
    code, out, err = plan(*words)
    assert code == 2 and not out
    assert err.startswith("fnsft plan: ") and said in err and err.count("\n") == 1


def blocks_of(text: str) -> list[tuple[list[str], str]]:
    """Return the commands of a document whose output is shown below them, and the output."""
    found = re.findall(r"^```sh\n(fnsft plan [^`]*)```\n+```text\n([^`]*)```", text, re.M | re.S)
    return [(shlex.split(command.replace("\\\n", " "))[2:], shown) for command, shown in found]


def test_the_document_shows_what_the_command_prints(repository: Path, plan) -> None:
    shown = blocks_of((repository / "docs/scale.md").read_text())
    assert len(shown) >= 2
    for words, output in shown:
        _, out, err = plan(*words)
        assert out == output, (words, err)


def test_a_plan_of_the_papers_answers_in_time(tree: Path) -> None:
    command = [sys.executable, "-m", "fnsft", "plan", "--disk-gib", "1e6", "paper"]

    def plan() -> None:
        done = subprocess.run(command, cwd=tree, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    assert starts(plan, 120) <= 120
