"""Preference tuning: TRL's DPO with every mask, from rows of pairs to a model folder."""

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import BASIC, train, weights, write_prepared
from test_resume import assert_alike, kill_at
from transformers import AutoModelForCausalLM

from fnsft.architectures import mlp_matrices
from fnsft.artifacts.training import read_training
from fnsft.config.stages import TrainSettings
from fnsft.data.tokens import Encoded, load_split, load_tokenizer
from fnsft.masks.selection import top_fraction
from fnsft.training.arguments import trainer_arguments
from fnsft.training.finetuning import make_trainer
from fnsft.training.preferences import pair_losses, preference_point
from fnsft.training.processes import Processes

DPO: dict[str, Any] = {"objective": "dpo", "dpo_beta": 0.3, "max_grad_norm": 0, "weight_decay": 0}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sums of one digit, each with a wrong answer of another length, as prepared splits."""
    numbers = random.Random(0)

    def row() -> dict[str, str]:
        a, b = numbers.randrange(9), numbers.randrange(9)
        right, wrong = a + b, a + b + numbers.randrange(1, 4)
        return {
            "prompt": f"Question: {a}+{b}?\nAnswer:",
            "completion": f" {right}\n#### {right}",
            "rejected": f" that is {wrong}\n#### {wrong}",
        }

    splits = {name: [row() for _ in range(n)] for name, n in (("train", 12), ("validation", 5))}
    return write_prepared(tmp_path_factory.mktemp("pairs"), splits)


def samples_of(model: Path, pairs: Path, name: str = "train") -> list[Encoded]:
    return load_split(pairs / f"{name}.jsonl", load_tokenizer(model), 1024).samples


def log_likelihood(model: torch.nn.Module, prompt: tuple[int, ...], answer: tuple[int, ...]) -> Any:
    """Return log π(y|x), a token at a time, of one text alone."""
    logits = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0]
    logs = torch.log_softmax(logits.double(), dim=-1)
    return sum(logs[len(prompt) + place - 1, token] for place, token in enumerate(answer))


def dpo_losses(model: torch.nn.Module, start: torch.nn.Module, samples: list[Encoded]) -> Any:
    """Return −log σ(β·h) of every pair, slowly, by the formula of Rafailov et al."""

    def gained(sample: Encoded, answer: tuple[int, ...]) -> Any:
        with torch.no_grad():
            before = log_likelihood(start, sample.prompt_ids, answer)
        return log_likelihood(model, sample.prompt_ids, answer) - before

    h = [gained(s, s.completion_ids) - gained(s, s.rejected_ids) for s in samples]
    return torch.stack([-torch.log(1 / (1 + torch.exp(-0.3 * each))) for each in h]), h


def loaded(folder: Path) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.mark.parametrize("method", ["sft", "highest"])
def test_the_loss_of_a_dpo_run_is_that_of_the_paper(
    tiny_model_dir: Path, pairs: Path, tmp_path: Path, method: str
) -> None:
    """Of the first batch of the second epoch, at weights that the first epoch has moved."""
    one = {"batch_size": 12, "micro_batch_size": 4, "method": method, "schedule": "constant"}
    first, second = tmp_path / "first", tmp_path / "second"
    assert train(tiny_model_dir, pairs, first, **DPO, **one) == 0
    assert train(tiny_model_dir, pairs, second, **DPO | one | {"epochs": 2}) == 0
    start, moved = loaded(tiny_model_dir), loaded(first)
    samples = samples_of(tiny_model_dir, pairs)
    with torch.no_grad():
        losses, _ = dpo_losses(moved, start, samples)
    recorded = [point["loss"] for point in read_training(second).train_loss]
    assert recorded == pytest.approx([math.log(2), float(losses.mean())], abs=1e-5)
    assert recorded[1] < recorded[0] - 1e-3
