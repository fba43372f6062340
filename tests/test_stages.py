"""A run that begins with a tuned model: the next stage of a sequence, begun afresh."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import train, weights
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from fnsft.artifacts.forward_masks import FILE as MASK
from fnsft.artifacts.identity import model_identity
from fnsft.artifacts.storage import read_json, sha256_of, write_json
from fnsft.artifacts.training import EarlierStage, read_training
from fnsft.cli.main import main
from fnsft.training.stages import stage_seed
from fnsft.training.trainer import WhenPrepared

ONE_STEP: dict[str, Any] = {"batch_size": 14, "micro_batch_size": 14, "weight_decay": 0, "seed": 3}
RANDOM = ONE_STEP | {"method": "random", "fraction": 0.3, "applies_to": "update"}
HALF = ONE_STEP | {"method": "hft", "fraction": 0.5}
# Of the draws of seed 3 before there were stages.
FIRST_DRAWS = {
    "random": "66a9e42cc044c859",
    "hft": "6eabb078eca38cfe",
    "lora": "4591c76548424023",
}


@pytest.fixture(scope="module")
def math(tiny_model_dir: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A first stage with a random mask, of seed 3."""
    folder = tmp_path_factory.mktemp("stages") / "math"
    assert train(tiny_model_dir, data, folder, task="math", model_name="tiny", **RANDOM) == 0
    return folder


def moved(before: Path, after: Path) -> dict[str, torch.Tensor]:
    """Return which entries of the MLP a run has moved."""
    old, new = weights(before), weights(after)
    return {name: old[name] != new[name] for name in sorted(old) if ".mlp." in name}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def digest(parts: list[bytes]) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def without_record(run: Path, folder: Path) -> Path:
    """Copy a run's model as one that nothing is known of."""
    shutil.copytree(run, folder)
    (folder / "training.json").unlink()
    return folder


@pytest.mark.parametrize("method", FIRST_DRAWS)
def test_a_continual_run_s_first_stage_draws_what_it_drew_before_there_were_stages(
    tiny_model_dir: Path, data: Path, tmp_path: Path, method: str
) -> None:
    settings = {"random": RANDOM, "hft": HALF, "lora": ONE_STEP | {"method": "lora"}}[method]
    assert train(tiny_model_dir, data, tmp_path / "run", **settings) == 0
    if method == "lora":  # B begins with zeros, so that one step leaves A as it was drawn
        tensors = load_file(tmp_path / "run" / "adapter_model.safetensors")
        parts = [tensors[k].numpy().tobytes() for k in sorted(tensors) if "lora_A" in k]
    else:
        found = moved(tiny_model_dir, tmp_path / "run")
        parts = [np.packbits(part.numpy()).tobytes() for part in found.values()]
    assert digest(parts) == FIRST_DRAWS[method]


def test_a_continual_run_knows_the_stages_behind_it(
    tiny_model_dir: Path, math: Path, data: Path, tmp_path: Path
) -> None:
    before = sha256_of(math)
    code, third = tmp_path / "code", tmp_path / "third"
    assert train(math, data, code, task="code", method="sft", seed=5) == 0
    assert train(code, data, third, task="medical", method="sft", model_name="named") == 0
    records = [read_training(folder) for folder in (math, code, third)]
    assert [record.run.stage for record in records] == [1, 2, 3]
    sequences = [record.run.sequence for record in records]
    assert sequences == ["math", "math>code", "math>code>medical"]
    assert [record.run.task for record in records] == ["math", "code", "medical"]
    assert [record.run.model for record in records] == ["tiny", "tiny", "named"]
    assert [record.run.seed for record in records] == [3, 5, 0], "the user's seeds"
    starts = [model_identity(folder) for folder in (tiny_model_dir, math, code)]
    assert [record.began_with for record in records] == starts
    behind = [
        EarlierStage("math", "random", 3, starts[0]),
        EarlierStage("code", "sft", 5, starts[1]),
    ]
    assert [record.earlier for record in records] == [[], behind[:1], behind]
    assert sha256_of(math) == before, "the earlier stage's folder is only read"


def test_a_continual_stage_begins_with_a_fresh_optimizer_and_schedule(
    math: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the run of somebody who found the weights and had the stage's draws for a seed."""
    begins = []
    begin = WhenPrepared.on_train_begin

    def seen(self: Any, args: Any, state: Any, control: Any, **given: Any) -> None:
        rates = given["lr_scheduler"].get_last_lr()
        begins.append((len(given["optimizer"].state), rates, state.global_step))
        begin(self, args, state, control, **given)

    monkeypatch.setattr(WhenPrepared, "on_train_begin", seen)
    plain = without_record(math, tmp_path / "plain")
    settings = RANDOM | {"epochs": 2, "batch_size": 2, "micro_batch_size": 2}
    assert train(math, data, tmp_path / "stage", **settings) == 0
    settings["seed"] = stage_seed(3, 2)
    assert train(plain, data, tmp_path / "first", **settings) == 0
    assert same(weights(tmp_path / "stage"), weights(tmp_path / "first"))
    assert begins == [(0, [1e-3, 1e-3], 0)] * 2
    one, other = (read_training(tmp_path / name) for name in ("stage", "first"))
    assert one.train_loss == other.train_loss and one.validation == other.validation


@pytest.mark.parametrize("settings", [RANDOM, HALF], ids=["random", "hft"])
def test_a_continual_stage_draws_its_masks_anew_unless_it_keeps_the_first_ones(
    tiny_model_dir: Path, math: Path, data: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    plain = without_record(math, tmp_path / "plain")
    assert train(plain, data, tmp_path / "as-first", **settings) == 0
    assert train(math, data, tmp_path / "anew", **settings) == 0
    kept = settings | {"structure": "first", "seed": 8}
    assert train(math, data, tmp_path / "kept", **kept) == 0
    as_first = moved(math, tmp_path / "as-first")
    assert same(as_first, moved(math, tmp_path / "kept")), "the first stage's seed, 3"
    assert not same(as_first, moved(math, tmp_path / "anew"))


def test_the_seeds_of_continual_stages_are_the_run_s_own_first_and_then_all_different() -> None:
    assert [stage_seed(seed, 1) for seed in (0, 7, 1 << 40)] == [0, 7, 1 << 40]
    later = [stage_seed(seed, stage) for seed in range(50) for stage in range(2, 7)]
    assert len(set(later)) == len(later)
    assert all(0 <= seed < 1 << 32 for seed in later)


def test_a_continual_stage_reads_the_first_one_s_graph_when_it_is_told_to_keep_it(
    math: Path, data: Path, graph: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ONE_STEP | {"method": "collab", "k": 5}
    assert train(math, data, tmp_path / "stage", graph=graph, **settings) == 2
    assert "made from model" in capsys.readouterr().err
    settings |= {"structure": "first"}
    assert train(math, data, tmp_path / "kept", graph=graph, **settings) == 0
    assert read_training(tmp_path / "kept").run.stage == 2
    assert train(math, data, tmp_path / "without", **settings) == 2
    assert "'first' keeps what the first stage read, found none; give --graph" in (
        capsys.readouterr().err
    )
    assert train(math, data, tmp_path / "without", structure="first", mask_mode="freeze") == 2
    assert "found none; give --networks" in capsys.readouterr().err
    found = read_json(math / "training.json")
    old = shutil.copytree(math, tmp_path / "old")
    write_json(old / "training.json", found | {"began_with": None})
    assert train(old, data, tmp_path / "without", graph=graph, **settings) == 2
    assert "training.json does not name; train it anew" in capsys.readouterr().err
    assert not (tmp_path / "without").exists() and not list(tmp_path.glob("*.checkpoints"))


def test_a_continual_stage_reads_the_networks_that_the_first_one_found(
    tiny_model_dir: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ONE_STEP | {"mask_mode": "train-only"}
    first = tmp_path / "first"
    assert train(tiny_model_dir, data, first, **settings) == 0
    settings |= {"networks": first / "networks.safetensors"}
    assert train(first, data, tmp_path / "stage", **settings) == 2
    assert "made from model" in capsys.readouterr().err
    assert train(first, data, tmp_path / "stage", structure="first", **settings) == 0
    again = moved(first, tmp_path / "stage")
    assert any(part.any() for part in again.values())
    assert same(again, moved(tiny_model_dir, first)), "the same neurons train"


@pytest.mark.parametrize("kind", ["lora", pytest.param("nf4", marks=pytest.mark.slow), "lesion"])
def test_a_continual_stage_begins_with_plain_weights_which_merging_makes(
    tiny_model_dir: Path,
    data: Path,
    networks: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
) -> None:
    settings: dict[str, Any] = ONE_STEP | {"learning_rate": 1e-2, "method": "lora"}
    if kind == "lesion":
        settings |= {"method": "sft", "mask_mode": "lesion", "networks": networks}
    elif kind == "nf4":
        pytest.importorskip("bitsandbytes")
        settings |= {"quantise": "nf4"}
    first, merged = tmp_path / "first", tmp_path / "first-merged"
    assert train(tiny_model_dir, data, first, task="math", **settings) == 0
    assert train(first, data, tmp_path / "second", task="code") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"run fnsft merge {first} --output {merged}, and give --model {merged}" in error
    assert main(["merge", str(first), "--output", str(merged)]) == 0
    assert not (merged / MASK).exists()
    assert train(merged, data, tmp_path / "second", task="code") == 0
    record = read_training(tmp_path / "second")
    assert (record.run.stage, record.run.sequence) == (2, "math>code")
    assert record.earlier[0].began_with == model_identity(tiny_model_dir)
    assert record.began_with == model_identity(merged)
    assert (merged / "prompt_format.json").read_bytes() == (
        data / "prompt_format.json"
    ).read_bytes()
    AutoModelForCausalLM.from_pretrained(tmp_path / "second")


def test_a_record_of_before_there_were_continual_runs_is_a_first_stage(
    math: Path, data: Path, tmp_path: Path
) -> None:
    found = read_json(math / "training.json")
    for name in ("began_with", "earlier", "averaged_validation_perplexity"):
        del found[name]
    del found["run"]["sequence"]
    old = shutil.copytree(math, tmp_path / "old")
    write_json(old / "training.json", found)
    assert train(old, data, tmp_path / "next", task="code") == 0
    record = read_training(tmp_path / "next")
    assert (record.run.stage, record.run.sequence) == (2, "math>code")
    assert record.earlier == [EarlierStage("math", "random", 3, None)]


def test_a_continual_task_s_name_has_no_arrow(
    math: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(math, data, tmp_path / "run", task="a>b") == 2
    assert "--task: expected a name without '>', found 'a>b'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_table_of_a_continual_run_names_its_stage(
    math: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(math, data, tmp_path / "run", task="code", **ONE_STEP) == 0
    assert "stage          2 of math>code" in capsys.readouterr().err
    manifest = json.loads((tmp_path / "run.manifest.json").read_text())
    assert manifest["settings"]["seed"] == 3, "the user's seed, with which the command runs again"
