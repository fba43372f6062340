"""Staying near the first weights: the pull of L2-SP, and averaging afterwards."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from models import write_tiny_model
from ranks import PROGRAMS, in_processes
from runs import train, weights, words
from safetensors.torch import load_file
from test_resume import Killed, assert_alike, kill_at
from torch import nn
from transformers import AutoModelForCausalLM

from fnsft.artifacts.training import read_training
from fnsft.config.stages import TrainSettings
from fnsft.data.tokens import load_split, load_tokenizer
from fnsft.errors import InputError
from fnsft.evaluation.loading import load_model
from fnsft.masks.gradients import accumulate_gradients
from fnsft.training import saving
from fnsft.training.anchoring import average_into
from fnsft.training.completion_loss import completion_loss
from fnsft.training.memory import estimate, shape_of

PULL = 0.5
STEPS: dict[str, Any] = {"batch_size": 14, "micro_batch_size": 2, "epochs": 4, "max_grad_norm": 0}
STEPS |= {"schedule": "constant", "l2_to_start": PULL, "weight_decay": 0}


def model_of(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def test_the_continual_penalty_s_gradient_is_added_once_a_step(
    tiny_model_dir: Path, data: Path, tmp_path: Path
) -> None:
    """Against a loop that takes the penalty's gradient from autograd, over whole batches."""
    assert train(tiny_model_dir, data, tmp_path / "run", **STEPS) == 0
    assert read_training(tmp_path / "run").best_step == 4
    model = model_of(tiny_model_dir)
    start = [parameter.detach().clone() for parameter in model.parameters()]
    samples = load_split(data / "train.jsonl", load_tokenizer(tiny_model_dir), 1024).samples
    n_tokens = sum(len(sample.completion_ids) for sample in samples)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0)
    for _ in range(4):
        accumulate_gradients(model, samples)
        for parameter in model.parameters():
            parameter.grad /= n_tokens
        pairs = zip(model.parameters(), start, strict=True)
        penalty = sum((parameter - first).square().sum() for parameter, first in pairs)
        (PULL / 2 * penalty).backward()
        optimizer.step()
    found, first = weights(tmp_path / "run"), weights(tiny_model_dir)
    for name, parameter in model.named_parameters():
        # Adam turns the rounding of a tiny gradient into a step of its own.
        apart = (found[name] - parameter).abs() > 2e-5
        assert apart.float().mean() < 0.002, name
        assert (found[name] - first[name]).abs().max() > 1e-3, name


def test_a_continual_run_with_a_penalty_that_is_killed_is_pulled_to_the_same_weights(
    tiny_model_dir: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"epochs": 2, "checkpoint_steps": 2, "l2_to_start": 3, "average_with_start": 0.3}
    assert train(tiny_model_dir, data, tmp_path / "whole", **settings) == 0
    killed = tmp_path / "resumed"
    kill_at(5, monkeypatch, lambda: train(tiny_model_dir, data, killed, **settings))

    def die(*given: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:  # and again, when the average has been taken
        patch.setattr(saving, "write_training", die)
        with pytest.raises(Killed):
            train(tiny_model_dir, data, killed, **settings)
    assert train(tiny_model_dir, data, killed, **settings) == 0
    assert_alike(tmp_path / "whole", killed)
    records = [read_training(folder) for folder in (tmp_path / "whole", killed)]
    averaged = [record.averaged_validation_perplexity for record in records]
    assert averaged[0] == averaged[1] is not None


@pytest.mark.processes
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_of_a_continual_run_are_pulled_and_averaged_as_one(
    tiny_model_dir: Path, data: Path, tmp_path: Path, parallel: str
) -> None:
    settings = {"l2_to_start": 3, "average_with_start": 0.3, "micro_batch_size": 1}
    settings |= {"learning_rate": 3e-4, "epochs": 2}
    assert train(tiny_model_dir, data, tmp_path / "one", **settings) == 0
    arguments = words(tiny_model_dir, data, tmp_path / "two", parallel=parallel, **settings)
    code, said = in_processes(2, [*PROGRAMS[parallel], *arguments])
    assert code == 0, said
    one, two = (read_training(tmp_path / name) for name in ("one", "two"))
    for field in ("best_validation_perplexity", "averaged_validation_perplexity"):
        assert getattr(two, field) == pytest.approx(getattr(one, field), rel=1e-4), field
    before, after = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name in before:
        torch.testing.assert_close(after[name], before[name], atol=2e-4, rtol=0)


def test_the_memory_estimate_counts_the_continual_penalty_s_copy(tiny_model_dir: Path) -> None:
    plain, pulled = (
        estimate(shape_of(tiny_model_dir, settings), settings, 50)
        for settings in (TrainSettings(), TrainSettings(l2_to_start=1))
    )
    n_bytes = sum(p.nbytes for p in model_of(tiny_model_dir).parameters())
    assert pulled == dataclasses.replace(plain, first_weights=n_bytes)
    assert pulled.total == plain.total + n_bytes
    assert "first weights" in pulled.parts_in_words


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_continual_average_is_taken_in_float32_and_leaves_unmoved_entries_alone(
    dtype: torch.dtype,
) -> None:
    torch.manual_seed(0)
    start, tuned = (nn.Linear(300, 200).to(dtype) for _ in range(2))
    with torch.no_grad():
        still = torch.rand(200, 300) < 0.5
        tuned.weight[still] = start.weight[still]
        tuned.bias.copy_(start.bias)
    before = tuned.weight.detach().double()
    average_into(tuned, start, 0.3)
    expected = (0.7 * before + 0.3 * start.weight.detach().double()).to(dtype)
    torch.testing.assert_close(
        tuned.weight, expected, rtol=8e-3 if dtype.itemsize == 2 else 1e-6, atol=1e-7
    )
    assert torch.equal(tuned.weight[still], start.weight[still])
    assert torch.equal(tuned.bias, start.bias)
    assert not torch.equal(tuned.weight, start.weight)
    with pytest.raises(InputError, match="expected weight of shape"):
        average_into(tuned, nn.Linear(299, 200), 0.3)


@pytest.mark.parametrize("masked", ["update", "lesion"])
def test_a_continual_run_is_saved_averaged_and_its_perplexity_with_it(
    tiny_model_dir: Path, data: Path, networks: Path, tmp_path: Path, masked: str
) -> None:
    settings: dict[str, Any] = {"learning_rate": 1e-2}
    if masked == "update":
        settings |= {"method": "random", "fraction": 0.3, "applies_to": "update"}
        settings |= {"batch_size": 14, "micro_batch_size": 14}
    else:
        settings |= {"mask_mode": "lesion", "networks": networks}
    assert train(tiny_model_dir, data, tmp_path / "run", **settings) == 0
    averaged = settings | {"average_with_start": 0.4}
    assert train(tiny_model_dir, data, tmp_path / "averaged", **averaged) == 0
    first, best, found = (
        weights(folder) for folder in (tiny_model_dir, tmp_path / "run", tmp_path / "averaged")
    )
    assert found.keys() == best.keys()
    for name in best:
        expected = 0.6 * best[name].double() + 0.4 * first[name].double()
        torch.testing.assert_close(found[name].double(), expected, rtol=1e-6, atol=1e-7)
        still = best[name] == first[name]
        assert torch.equal(found[name][still], first[name][still]), name
    one, other = (read_training(tmp_path / name) for name in ("run", "averaged"))
    assert one.averaged_validation_perplexity is None
    assert other.validation == one.validation, "the curve is of before"
    samples = load_split(data / "validation.jsonl", load_tokenizer(tiny_model_dir), 1024).samples
    perplexity = completion_loss(
        load_model(tmp_path / "averaged", "float32"), samples, 2
    ).perplexity
    assert other.averaged_validation_perplexity == pytest.approx(perplexity, rel=1e-6)
    assert perplexity != pytest.approx(other.best_validation_perplexity, rel=1e-4)
    names = [sorted(p.name for p in (tmp_path / n).iterdir()) for n in ("run", "averaged")]
    assert names[0] == names[1]


def test_a_continual_average_is_that_of_the_best_epoch_not_of_the_last(
    tiny_model_dir: Path, data: Path, tmp_path: Path
) -> None:
    settings = {"epochs": 6, "learning_rate": 0.1, "schedule": "constant"}
    assert train(tiny_model_dir, data, tmp_path / "best", **settings) == 0
    assert read_training(tmp_path / "best").best_epoch < 6, "pick another rate"
    settings |= {"average_with_start": 0.4}
    assert train(tiny_model_dir, data, tmp_path / "averaged", **settings) == 0
    first, best, found = (
        weights(folder) for folder in (tiny_model_dir, tmp_path / "best", tmp_path / "averaged")
    )
    for name in best:
        torch.testing.assert_close(found[name], 0.6 * best[name] + 0.4 * first[name])


def test_a_continual_average_of_bfloat16_weights_is_saved_in_bfloat16(
    data: Path, tmp_path: Path
) -> None:
    write_tiny_model(tmp_path / "model")
    model_of(tmp_path / "model").to(torch.bfloat16).save_pretrained(tmp_path / "model")
    settings = {"dtype": "bfloat16", "average_with_start": 0.4, "learning_rate": 1e-2}
    assert train(tmp_path / "model", data, tmp_path / "run", **settings) == 0
    found = load_file(tmp_path / "run" / "model.safetensors")
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}


@pytest.mark.parametrize("name", ["l2_to_start", "average_with_start"])
def test_continual_anchors_are_refused_for_adapters(
    tiny_model_dir: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    assert train(tiny_model_dir, data, tmp_path / "run", method="lora", **{name: 0.5}) == 2
    error = capsys.readouterr().err
    assert f"{name}: is about whole weights, found method 'lora'" in error
    assert error.count("\n") == 1 and not list(tmp_path.iterdir())
