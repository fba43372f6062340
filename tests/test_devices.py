"""Devices: which a job has, that no two share one, and what each profile makes of them."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from workflow_runs import SMOKE, TARGET, copy_tree, snakemake

from fnsft import devices
from fnsft.cli.main import ON_DEVICES, main
from fnsft.config.stages import TrainSettings
from fnsft.devices import accelerator, take, widest, workflow_pool
from fnsft.errors import InputError
from fnsft.evaluation.loading import load_model
from fnsft.training import arguments
from fnsft.training.processes import Processes

# Takes devices, says which and since when, holds them, and says until when.
JOB = """
import os, sys, time
from fnsft import devices
devices.take(int(sys.argv[1]))
assert "torch" not in sys.modules
print(os.environ["CUDA_VISIBLE_DEVICES"], time.monotonic(), flush=True)
time.sleep(float(sys.argv[2]))
print(time.monotonic())
"""
# The same, of a run that a second process shares, which says who it is.
SHARED = """
import os, subprocess, sys, time
from fnsft import devices
devices.take(1)
if "child" not in sys.argv:
    subprocess.Popen([sys.executable, "-c", os.environ["PROGRAM"], "child"])
else:
    print(os.getpid(), flush=True)
time.sleep(60)
"""


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Name a pool of devices, none of which is there."""
    monkeypatch.setenv("FNSFT_GPU_LOCKS", str(tmp_path / "locks"))
    for name in ("SLURM_JOB_ID", "LOCAL_RANK", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    return lambda names: monkeypatch.setenv("FNSFT_GPUS", names)


def started(program: str, *words: object, **more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program, *map(str, words)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=os.environ | more)


def said(job: subprocess.Popen[str]) -> list[str]:
    """The next words that a job says."""
    assert job.stdout is not None
    return job.stdout.readline().split()


def waits(job: subprocess.Popen[str]) -> bool:
    """Whether the next that is heard of a job is that it waits."""
    assert job.stderr is not None
    return job.stderr.readline().startswith("waiting for ")


def ended(*jobs: subprocess.Popen[str]) -> list[str]:
    """What jobs have left to say, as a word each."""
    return ["".join(job.communicate(timeout=600)) for job in jobs]


@pytest.mark.processes
def test_jobs_never_share_a_device_and_use_all_of_them(pool) -> None:
    pool("0,1,2")
    needs = [2, 2, 1, 3, 2, 1, 2, 1]
    jobs = [started(JOB, n, 0.1) for n in needs]
    held: dict[str, list[tuple[float, float]]] = {"0": [], "1": [], "2": []}
    for n, job in zip(needs, jobs, strict=True):
        out, error = job.communicate(timeout=600)
        assert job.returncode == 0 and error.count("\n") <= 1, error
        names, begin, end = out.split()
        assert len(set(names.split(","))) == n
        for name in names.split(","):
            held[name].append((float(begin), float(end)))
    for spans in held.values():
        spans.sort()
        assert spans
        assert all(end < begin for (_, end), (begin, _) in zip(spans, spans[1:], strict=False))


@pytest.mark.processes
def test_a_job_that_needs_many_devices_is_not_passed_by_one_that_needs_few(pool) -> None:
    pool("0,1")
    first = started(JOB, 1, 60)
    assert said(first)[0] == "0"
    many = started(JOB, 2, 0)
    assert waits(many)
    few = [started(JOB, 1, 0) for _ in range(6)]
    assert all(map(waits, few))
    first.kill()
    since = [float(said(job)[1]) for job in (many, *few)]
    assert since[0] == min(since)
    ended(many, *few)


@pytest.mark.processes
def test_a_job_that_is_killed_gives_its_devices_to_one_that_waits(pool) -> None:
    pool("GPU-7")
    first, second = started(JOB, 1, 60), None
    try:
        assert said(first)[0] == "GPU-7"
        second = started(JOB, 1, 0)
        assert waits(second)
        killed = time.monotonic()
        first.kill()
        name, since = said(second)
        assert name == "GPU-7" and float(since) > killed
        assert "waiting" not in ended(second)[0], "it is said once"
    finally:
        first.kill()


@pytest.mark.processes
def test_devices_are_held_until_the_last_process_of_a_run_ends(pool) -> None:
    pool("0")
    first = started(SHARED, PROGRAM=SHARED)
    (child,) = map(int, said(first))
    try:
        first.kill()
        first.wait()
        second = started(JOB, 1, 0)
        assert waits(second)
        time.sleep(0.5)
        assert second.poll() is None
    finally:
        killed = time.monotonic()
        os.kill(child, 9)
    assert float(said(second)[1]) > killed
    ended(second)


def test_more_processes_than_devices_are_refused_before_anything_is_done(
    pool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pool("0,1")
    output = tmp_path / "run"
    words = ["train", "--model", "no", "--data", "no", "--output", str(output)]
    assert main([*words, "--processes", "3"]) == 2
    error = capsys.readouterr().err
    assert "FNSFT_GPUS: expected at least 3 devices, one a process, found 2 (0,1)" in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "n", "visible"),
    [
        ({}, 1, None),
        ({"CUDA_VISIBLE_DEVICES": "3"}, 1, "3"),
        ({"FNSFT_GPUS": "0,1"}, 0, ""),
        ({"FNSFT_GPUS": ""}, 1, ""),
        ({"FNSFT_GPUS": "-1"}, 1, ""),
        ({"FNSFT_GPUS": "5"}, 1, "5"),
        ({"FNSFT_GPUS": "0", "SLURM_JOB_ID": "9", "CUDA_VISIBLE_DEVICES": "3"}, 1, "3"),
        ({"FNSFT_GPUS": "0", "LOCAL_RANK": "1", "CUDA_VISIBLE_DEVICES": "2,3"}, 1, "2,3"),
    ],
)
def test_a_stage_sees_what_it_takes_and_is_left_to_those_who_assign_devices(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: dict[str, str],
    n: int,
    visible: str | None,
) -> None:
    environment = given | {"FNSFT_GPU_LOCKS": str(tmp_path)}
    monkeypatch.setattr(os, "environ", environment)
    take(n)
    assert environment.get("CUDA_VISIBLE_DEVICES") == visible
    assert (tmp_path / "5.lock").exists() == (visible == "5")


@pytest.mark.parametrize(
    ("given", "n_gpus", "pool"),
    [
        ({}, None, None),
        ({}, 2, "0,1"),
        ({}, 0, ""),
        ({"FNSFT_GPUS": "0,1"}, 0, ""),
        ({"CUDA_VISIBLE_DEVICES": "4,6,7"}, 2, "4,6,7"),
        ({"CUDA_VISIBLE_DEVICES": "4,6,7", "FNSFT_GPUS": "1,2"}, 2, "1,2"),
        ({"FNSFT_GPUS": "1,2"}, None, "1,2"),
        ({"SLURM_JOB_ID": "9", "CUDA_VISIBLE_DEVICES": "0,1"}, 2, None),
        ({"SLURM_JOB_ID": "9"}, 0, ""),
    ],
)
def test_a_workflows_pool_is_what_the_machine_shows_it(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], n_gpus: int | None, pool: str | None
) -> None:
    monkeypatch.setattr(os, "environ", given)
    assert workflow_pool(n_gpus) == pool


def test_a_workflow_that_counts_more_devices_than_it_sees_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "environ", {"CUDA_VISIBLE_DEVICES": "4"})
    with pytest.raises(InputError, match="gpu=2: expected at most as many .* found '4'"):
        workflow_pool(2)


def test_rules_that_ask_for_devices_are_those_whose_stages_take_them(repository: Path) -> None:
    text = "\n".join(path.read_text() for path in sorted(repository.glob("workflow/rules/*.smk")))
    rules = [rule for rule in re.split(r"^rule ", text, flags=re.M) if "gpu=" in rule]
    stages = {re.findall(r'"(?:exec )?fnsft ([a-z-]+)', rule)[0] for rule in rules}
    assert stages == ON_DEVICES - {"generate"}


def test_an_empty_pool_keeps_apples_device_from_being_used_too(
    monkeypatch: pytest.MonkeyPatch, tiny_model_dir: Path
) -> None:
    mps = torch.device("mps")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: mps)
    monkeypatch.delenv("FNSFT_GPUS", raising=False)
    assert accelerator() == mps
    with pytest.raises(InputError, match="dtype: expected float32 or less on mps"):
        load_model(tiny_model_dir, "float64")
    monkeypatch.setenv("FNSFT_GPUS", "")
    assert accelerator().type == "cpu"
    assert load_model(tiny_model_dir, "float64").dtype == torch.float64


def test_one_process_that_sees_four_devices_trains_on_one_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(arguments, "accelerator", lambda: torch.device("cuda"))
    settings = TrainSettings(batch_size=4, micro_batch_size=2)
    found = arguments.trainer_arguments(settings, tmp_path, Processes(1, 0), n_samples=4)
    assert found.train_batch_size == 2


@pytest.fixture(scope="module")
def tree(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_tree(repository, tmp_path_factory.mktemp("clone"))


@pytest.mark.workflow
@pytest.mark.parametrize(
    ("profile", "more", "processes", "threads"),
    [
        ("cpu", [], 0, 1),
        ("cuda", [], 1, 8),
        ("cuda", ["--resources", "gpu=2"], 2, 8),
        ("cuda", ["--resources", "gpu=8"], 4, 8),
        ("mps", [], 1, 8),
    ],
)
def test_a_profile_decides_on_processes_and_threads(
    tree: Path, profile: str, more: list[str], processes: int, threads: int
) -> None:
    """A training has as many processes as it holds devices."""
    four = tree / "four.yaml"
    four.write_text("models: {tiny: {gpus: 4}}\n")
    arguments = ["--profile", profile, "--cores", "8", "--configfile", *SMOKE, str(four), *more]
    done = snakemake(tree, "-n", "-p", "--quiet", "host", *arguments, "--", TARGET)
    assert done.returncode == 0, done.stderr
    found = re.findall(r"fnsft train .* --processes (\d+)", done.stdout + done.stderr)
    assert found == [str(processes)] * 5
    assert f"NUMBA_NUM_THREADS={threads} fnsft project" in done.stdout + done.stderr


@pytest.mark.workflow
@pytest.mark.parametrize(
    ("arguments", "given", "pool"),
    [
        (["--profile", "cpu"], {"CUDA_VISIBLE_DEVICES": "4,5"}, ""),
        (["--profile", "cuda", "--resources", "gpu=2"], {}, "0,1"),
        (["--profile", "cuda", "--resources", "gpu=2"], {"CUDA_VISIBLE_DEVICES": "4,5"}, "4,5"),
        (["--cores", "1"], {}, "unset"),
    ],
)
def test_jobs_are_told_their_machines_devices_and_to_leave_the_network_alone(
    tree: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    given: dict[str, str],
    pool: str,
) -> None:
    for name in ("FNSFT_GPUS", "CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    seen, script = tmp_path / "seen", tmp_path / "at-every-shells-start"
    script.write_text(f'echo "${{FNSFT_GPUS-unset}} $FNSFT_OFFLINE" >> {seen}\n')
    monkeypatch.setenv("BASH_ENV", str(script))
    target = "results/smoke/world/corpus.jsonl"
    done = snakemake(tree, "--force", *arguments, "--configfile", *SMOKE, "--", target)
    assert done.returncode == 0, done.stderr
    assert set(seen.read_text().splitlines()) == {f"{pool} 1"}


@pytest.mark.workflow
def test_a_workflow_that_may_hold_more_devices_than_there_are_plans_nothing(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4")
    monkeypatch.delenv("FNSFT_GPUS", raising=False)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    done = snakemake(tree, "-n", "--profile", "cuda", "--resources", "gpu=2")
    assert done.returncode == 2
    assert "configuration: --resources gpu=2: expected at most as many devices" in done.stderr


def test_the_doctor_says_what_there_is_whatever_the_pool(
    pool, capsys: pytest.CaptureFixture[str]
) -> None:
    pool("")
    main(["doctor"])
    assert "processor" in capsys.readouterr().out
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_a_device_that_is_named_twice_is_one(pool, capsys: pytest.CaptureFixture[str]) -> None:
    pool("0,0")
    words = ["train", "--model", "no", "--data", "no", "--output", "run", "--processes", "2"]
    assert main(words) == 2
    assert "found 1 (0,0)" in capsys.readouterr().err


def test_the_folder_of_locks_is_for_every_user(pool, tmp_path: Path) -> None:
    os.close(devices._opened("0"))
    assert (tmp_path / "locks").stat().st_mode & 0o7777 == 0o1777
    assert (tmp_path / "locks/0.lock").stat().st_mode & 0o444 == 0o444


@pytest.mark.parametrize(("device", "dtype"), [("cpu", "float64"), ("mps", "float32")])
def test_sums_are_as_wide_as_the_device_has(device: str, dtype: str) -> None:
    assert widest(torch.device(device)) == getattr(torch, dtype)
