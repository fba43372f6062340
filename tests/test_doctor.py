"""The doctor: every probe is one line, none stops the others, and no secret shows."""

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest

from fnsft.cli.doctor import line_of
from fnsft.cli.main import main
from fnsft.training import installation, machine
from fnsft.training.machine import Finding, probed


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """The doctor where there is neither a network nor a program, and a token that is no use."""
    folder = tmp_path_factory.mktemp("elsewhere")
    surroundings = {
        "PATH": str(folder),
        "HF_HOME": str(folder / "hub"),
        "HF_HUB_OFFLINE": "1",
        "HF_TOKEN": "hf_" + "qwertyuiop" * 3,
    }
    command = [sys.executable, "-m", "fnsft", "doctor", "--json"]
    environment = {**os.environ, **surroundings}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)


def test_a_machine_that_runs_these_tests_lacks_nothing_needed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    subjects = {line[9:22].strip() for line in lines}
    assert {line.split()[0] for line in lines} <= {"ok", "warning", "missing", "optional"}
    assert {"platform", "python", "packages", "processor", "float32", "bfloat16"} <= subjects
    assert {"quantisation", "attention", "processes", "disk", "hub token", "TeX"} <= subjects


def test_what_is_not_there_is_said_with_what_to_do(
    elsewhere: subprocess.CompletedProcess[str],
) -> None:
    assert elsewhere.returncode == 0, elsewhere.stderr
    found = {row["subject"]: row for row in json.loads(elsewhere.stdout)}
    assert found["TeX"]["state"] == "missing" and "pdflatex" in found["TeX"]["remedy"]
    assert found["hub"]["found"] == "HF_HUB_OFFLINE is on"
    assert "/hub: " in found["hub cache"]["found"]


def test_a_token_is_named_by_its_source_and_never_shown(
    elsewhere: subprocess.CompletedProcess[str],
) -> None:
    (token,) = (r for r in json.loads(elsewhere.stdout) if r["subject"] == "hub token")
    assert token["state"] == "ok" and "HF_TOKEN" in token["found"]
    assert "qwerty" not in elsewhere.stdout + elsewhere.stderr


def test_a_probe_that_fails_is_a_finding_and_stops_nothing() -> None:
    def broken() -> Iterable[Finding]:
        yield Finding("first", "ok", "fine")
        raise OSError("driver\nis gone")

    (found,) = probed("probe", broken)
    assert (found.state, found.needed) == ("warning", False)
    assert found.found == "could not be told (OSError: driver is gone)"
    assert probed("probe", broken, needed=True)[0].state == "missing"


@pytest.fixture
def declaring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fnsft whose declared packages can be written."""
    metadata = tmp_path / "fnsft-9.dist-info" / "METADATA"
    metadata.parent.mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    return metadata


def test_packages_that_are_absent_or_out_of_range_are_named(declaring: Path) -> None:
    declaring.write_text(
        "Metadata-Version: 2.1\nName: fnsft\nVersion: 9\n"
        "Requires-Dist: numpy>=1\n"
        "Requires-Dist: torch<1\n"
        "Requires-Dist: no-such-package>=2\n"
        'Requires-Dist: numpy<1; python_version < "3"\n'
        'Requires-Dist: nor-this-one; extra == "gguf"\n'
        'Requires-Dist: not-for-users; extra == "dev"\n'
    )
    found = {f.subject: f for f in installation.packages()}
    assert {name: (f.state, f.needed) for name, f in found.items()} == {
        "torch": ("warning", True),
        "no-such-package": ("missing", True),
        "packages": ("ok", False),
        "[gguf]": ("missing", False),
    }
    assert found["packages"].found.startswith("1 of 3 in range")
    assert found["no-such-package"].remedy == "pip install 'no-such-package>=2'"
    assert "nor-this-one is not there" in found["[gguf]"].found


def test_every_extra_for_users_is_looked_for(repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    for_work = {"test", "benchmarks", "browser", "dev"}
    assert {*installation.EXTRAS} == {*project["optional-dependencies"]} - for_work


def test_something_needed_that_is_missing_fails(
    declaring: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    declaring.write_text(
        "Metadata-Version: 2.1\nName: fnsft\nVersion: 9\nRequires-Dist: no-such-package\n"
    )
    assert main(["doctor"]) == 2
    output = capsys.readouterr()
    assert "trouble with no-such-package" in output.err and output.err.count("\n") == 1
    assert "processor" in output.out, "the other lines stand there all the same"


def test_a_precision_that_errs_too_much_is_no_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {f.state for f in machine.dtypes() if f.subject != "bfloat16"} == {"ok"}
    monkeypatch.setattr(machine, "PRODUCT_ERROR_EPS", 1e-3)
    assert {f.subject: f.state for f in machine.dtypes()} == {
        "float32": "missing",
        "bfloat16": "warning",
        "float16": "warning",
    }


def test_a_line_has_the_state_the_subject_and_the_remedy() -> None:
    line = line_of(Finding("TeX", "missing", "no program", "install one"))
    assert line.split() == ["optional", "TeX", "no", "program;", "install", "one"]
    line = line_of(Finding("torch", "missing", "none", "install it", needed=True))
    assert line.split() == ["missing", "torch", "none;", "install", "it"]
