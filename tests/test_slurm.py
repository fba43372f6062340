"""The smoke configuration through a real SLURM, and jobs that SLURM ends before they are done."""

import csv
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from slurm_cluster import Cluster, call, cluster, why_not
from workflow_runs import LABEL, SMOKE, TARGET, copy_tree, ended, snakemake, started

from fnsft.artifacts.storage import read_json, sha256_of

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
]
RUN = Path("results/smoke/runs/tiny/math/sft/seed0")
WEIGHTS = RUN / "model.safetensors"
CHECKPOINTS = Path("checkpoints/smoke/tiny/math/sft/seed0")
EPOCHS = 60  # well over the minute that is the shortest limit
FLAGS = ["--profile", "slurm", "--jobs", "4", "--slurm-init-seconds-before-status-checks", "4"]
# For a small model a training and what follows it are one submission.
GROUPS = ["--groups", "world=base", "pretrain=base", "train=run", "evaluate=run"]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("slurm") / "slurm") as found:
        yield found


@pytest.fixture(scope="module")
def tree(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_tree(repository, tmp_path_factory.mktemp("clone"))


@pytest.fixture(scope="module")
def configuration(tree: Path) -> list[str]:
    """The smoke configuration, with a checkpoint every second step."""
    often = tree / "often.yaml"
    often.write_text(yaml.safe_dump({"training": {"checkpoint_steps": 2}}))
    return ["--configfile", *SMOKE, str(often)]


@pytest.fixture(scope="module")
def smoke(slurm: Cluster, tree: Path, configuration: list[str]) -> Path:
    """A copy of the repository in which SLURM has made the smoke configuration's table."""
    done = snakemake(tree, *FLAGS, *GROUPS, *configuration, "--", TARGET)
    assert done.returncode == 0, done.stderr[-4_000:]
    return tree


def test_the_smoke_configuration_runs_through_slurm(smoke: Path, slurm: Cluster) -> None:
    rows = list(csv.DictReader((smoke / TARGET).with_suffix(".csv").open()))
    found = {row["method"] for row in rows if row["model"] == LABEL}
    assert found == {"base", "sft", "lora", "gmt", "collab", "shuffled"}
    assert {job.state for job in slurm.jobs()} == {"COMPLETED"}


def test_jobs_get_what_their_rules_ask_for(smoke: Path, slurm: Cluster) -> None:
    (capture,) = slurm.jobs("rule_capture")
    assert (capture.gpus, capture.cpus) == ("gres:gpu:a100:1", 8)
    assert (capture.memory_mb, capture.minutes) == (48_000, 120)
    (statistics,) = slurm.jobs("rule_statistics")
    assert (statistics.gpus, statistics.cpus) == ("", 1)
    assert (statistics.memory_mb, statistics.minutes) == (8_000, 60)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["scancel", "scontrol requeue"])
def test_a_training_that_slurm_ends_goes_on_and_ends_as_undisturbed(
    smoke: Path, slurm: Cluster, configuration: list[str], command: str
) -> None:
    undisturbed = sha256_of(smoke / WEIGHTS)
    shutil.rmtree(smoke / RUN)
    before = len(slurm.jobs("rule_train"))
    head = started(smoke, *FLAGS, *configuration, "--", str(RUN))
    slurm.wait_for(lambda: any((smoke / CHECKPOINTS).glob("checkpoint-*")))
    job = slurm.jobs("rule_train")[-1]
    call(*command.split(), str(job.number))
    done = ended(head)
    assert done.returncode == 0, done.stderr[-4_000:]
    assert sha256_of(smoke / WEIGHTS) == undisturbed
    manifest = read_json((smoke / RUN).with_name("seed0.manifest.json"))
    assert manifest["notes"]["resumed_from"].startswith("checkpoint-")
    jobs = slurm.jobs("rule_train")[before:]
    if command == "scancel":
        assert [one.state for one in jobs] == ["CANCELLED", "COMPLETED"]
        assert (jobs[1].memory_mb, jobs[1].minutes) == (2 * job.memory_mb, 2 * job.minutes)
    else:
        assert [(one.state, one.restarts) for one in jobs] == [("COMPLETED", 1)]


@pytest.mark.slow
def test_a_command_on_several_gpus_is_launched_once(
    smoke: Path, slurm: Cluster, configuration: list[str]
) -> None:
    two = smoke / "two.yaml"
    shared = {"parallel": "ddp", "micro_batch_size": 8}  # there is no FSDP2 without accelerators
    changed = {"experiment": "two", "models": {"tiny": {"gpus": 2}}, "training": shared}
    two.write_text(yaml.safe_dump(changed))
    share_what_is_made(smoke, "two")
    run = Path(str(RUN).replace("smoke", "two"))
    done = snakemake(smoke, *FLAGS, *configuration, str(two), "--", str(run))
    assert done.returncode == 0, done.stderr[-4_000:]
    job = slurm.jobs("rule_train")[-1]
    assert (job.gpus, job.cpus) == ("gres:gpu:a100:2", 16)
    assert read_json((smoke / run).with_name("seed0.manifest.json"))["notes"]["processes"] == 2
    log = (smoke / "results/two/logs/train/tiny/math/sft/seed0.log").read_text()
    assert log.count("x 2 processes") == 1


@pytest.mark.slow
def test_a_training_that_reaches_its_time_limit_goes_on_and_ends_as_undisturbed(
    smoke: Path, slurm: Cluster, configuration: list[str]
) -> None:
    run = Path(str(RUN).replace("smoke", "limit"))
    manifest = (smoke / run).with_name("seed0.manifest.json")
    only_when_told = {"epochs": EPOCHS, "checkpoint_steps": 0}
    changed = smoke / "limit.yaml"
    changed.write_text(yaml.safe_dump({"experiment": "limit", "training": only_when_told}))
    share_what_is_made(smoke, "limit")
    minutes = ["train:runtime=attempt", "train:slurm_extra='--signal=TERM@30'"]
    flags = [*FLAGS, "--set-resources", *minutes]
    before = len(slurm.jobs("rule_train"))
    done = snakemake(smoke, *flags, *configuration, str(changed), "--", str(run))
    assert done.returncode == 0, done.stderr[-4_000:]
    jobs = slurm.jobs("rule_train")[before:]
    assert [job.minutes for job in jobs] == [*range(1, len(jobs) + 1)]
    assert jobs[0].state in ("FAILED", "TIMEOUT") and jobs[-1].state == "COMPLETED"
    assert read_json(manifest)["notes"]["resumed_from"].startswith("checkpoint-")
    interrupted = sha256_of(smoke / run / WEIGHTS.name)
    shutil.rmtree(smoke / run)
    done = snakemake(smoke, *FLAGS, *configuration, str(changed), "--", str(run))
    assert done.returncode == 0, done.stderr[-4_000:]
    assert not read_json(manifest)["notes"].get("resumed_from")
    assert sha256_of(smoke / run / WEIGHTS.name) == interrupted


def share_what_is_made(smoke: Path, experiment: str) -> None:
    """Give another experiment the world, base model and data of the smoke configuration."""
    for made in ("world", "models", "data"):
        shutil.copytree(smoke / "results/smoke" / made, smoke / "results" / experiment / made)
