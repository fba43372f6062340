"""The tables with the newer selectors, as the tiny configuration plans them."""

import re
from pathlib import Path

import pytest
import yaml
from workflow_runs import snakemake

from fnsft.reporting.labels import LABELS, label_of

TINY = ("--cores", "1", "--configfile", "workflow/configs/tiny.yaml", "-n", "-p", "--nolock")
NEWER = {
    *("mofo", "small-weights", "lift", "ssu", "ssu-magnitude", "ssu-random"),
    *("active-neurons", "active-neurons-protect", "collab-diffusion"),
    *("collab-static", "collab-static-protect"),
    *("random-heads", "highest-heads", "collab-heads", "shuffled-heads"),
}


def plan(repository: Path, table: str) -> str:
    done = snakemake(repository, *TINY, "--forceall", "--", f"results/{table}.tex")
    assert done.returncode == 0, done.stderr
    return done.stderr + done.stdout


@pytest.mark.parametrize(
    ("table", "trainings"),
    [
        ("table1_extended", 18 + 5),  # methods and controls
        # 23 methods and eight controls, of which five begin with plain fine-tuning's first stage
        # and one with that of collab.
        ("table2_extended", (23 + 8) + (23 + 8 - 6)),
    ],
)
def test_a_table_of_newer_selectors_trains_every_one(
    repository: Path, table: str, trainings: int
) -> None:
    said = plan(repository, table)
    (found,) = set(re.findall(r"^train +(\d+)$", said, re.M))
    assert int(found) == trainings
    named = set(re.findall(r"--method-name (\S+)", said))
    assert named >= NEWER and "collab" in named
    assert len({label_of(method) for method in named}) == len(named)


def test_ssu_protects_another_task_first_and_then_the_stage_before(repository: Path) -> None:
    said = plan(repository, "table2_extended")
    flags = dict(
        (output, task)
        for task, output in re.findall(
            r"--calibration results/tiny/data/(\w+)/seed0 +--output results/tiny/runs/(\S+)", said
        )
    )
    assert flags == {
        "tiny/math/ssu-p0.5/seed0": "code",
        "tiny/math/ssu-p0.5/code/ssu-p0.5/seed0": "math",
    }


def test_every_newer_selector_has_a_label_and_stands_in_both_tables(repository: Path) -> None:
    tables = yaml.safe_load((repository / "config.yaml").read_text())["tables"]
    plain = {"table1_extended": "table1", "table2_extended": "table2"}
    for extended, table in plain.items():
        methods = tables[extended]["methods"] + tables[extended]["controls"]
        assert {"shuffled-heads", "ssu-magnitude", "ssu-random"} <= {*tables[extended]["controls"]}
        assert set(methods) >= NEWER and len(set(methods)) == len(methods)
        assert set(methods) - NEWER >= set(tables[table].get("methods", ()))
        assert set(methods) >= set(tables[table].get("controls", ()))
    assert set(LABELS) >= NEWER
