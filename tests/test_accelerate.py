"""``accelerate launch`` with the configurations of profiles/: the run of ``--processes``."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ranks import PROGRAMS, in_processes
from runs import first_samples, train, weights, words

CONFIGURATIONS = {"ddp": "ddp.yaml", "fsdp": "fsdp2.yaml"}
RUN = {"method": "highest", "fraction": 0.5, "micro_batch_size": 1, "applies_to": "update"}


def launched(repository: Path, parallel: str, arguments: list[str]) -> tuple[int, str]:
    """Run ``fnsft`` in two processes as accelerate starts them."""
    file = repository / "profiles/accelerate" / CONFIGURATIONS[parallel]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(file)]
    command = [*launch, "--num_processes", "2", *PROGRAMS[parallel], *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    return done.returncode, done.stderr


@pytest.fixture(scope="module")
def eight(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight samples: two steps of four."""
    return first_samples(data, 8, tmp_path_factory.mktemp("eight"))


@pytest.mark.processes
@pytest.mark.parametrize("parallel", CONFIGURATIONS)
def test_accelerate_starts_the_run_that_processes_starts(
    repository: Path, tiny_model_dir: Path, eight: Path, tmp_path: Path, parallel: str
) -> None:
    settings = RUN | {"parallel": parallel}
    forked, accelerate = (
        words(tiny_model_dir, eight, tmp_path / name, **settings)
        for name in ("forked", "accelerate")
    )
    code, said = in_processes(2, [*PROGRAMS[parallel], *forked])
    assert code == 0, said
    code, said = launched(repository, parallel, accelerate)
    assert code == 0, said
    one, two = (weights(tmp_path / name) for name in ("forked", "accelerate"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    notes = json.loads((tmp_path / "accelerate.manifest.json").read_text())["notes"]
    found = [notes[name] for name in ("processes", "accumulation_steps", "global_batch_size")]
    assert found == [2, 2, 4]


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (
            {"ACCELERATE_USE_FSDP": "true", "WORLD_SIZE": "2"},
            "parallel: expected fsdp, as accelerate's configuration says, found ddp; add "
            "--parallel fsdp",
        ),
        (
            {"ACCELERATE_MIXED_PRECISION": "bf16"},
            "bf16_autocast: expected mixed_precision no in accelerate's configuration, found 'bf16",
        ),
    ],
)
def test_a_configuration_that_says_otherwise_than_the_flags_is_refused(
    tiny_model_dir: Path,
    eight: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    environment: dict[str, str],
    message: str,
) -> None:
    monkeypatch.setattr(
        os, "environ", {**os.environ, "ACCELERATE_MIXED_PRECISION": "no", **environment}
    )
    assert train(tiny_model_dir, eight, tmp_path / "run", parallel="ddp", **RUN) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())
