"""MaskedAdamW as the optimizer of TRL's own SFTTrainer, with the trainer's options at once."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from models import TEXTS
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer

from fnsft.masks.optimizer import MaskedAdamW

ADAM = {"lr": 1e-2, "betas": (0.8, 0.95)}
STEPS = 6
AUTOCAST, PURE = "bf16 autocast", "pure bf16"


class StopAfter(TrainerCallback):
    """End a run before its last step, as a job's time limit does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        control.should_training_stop = state.global_step == self.step


def make_trainer(
    model_dir: Path, output: Path, precision: str, optimizer: tuple[type, dict[str, Any]]
) -> SFTTrainer:
    """Return a trainer that accumulates, clips, warms up, decays and checkpoints activations."""
    dtype = torch.bfloat16 if precision == PURE else torch.float32
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=dtype)
    rows = [{"prompt": TEXTS[i % 4][:20], "completion": TEXTS[(i + 1) % 4]} for i in range(16)]
    arguments = SFTConfig(
        output_dir=str(output),
        max_steps=STEPS,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        max_grad_norm=0.1,
        lr_scheduler_type="cosine",
        learning_rate=ADAM["lr"],
        weight_decay=0.1,  # the trainer's groups have it, whatever the optimizer is given
        warmup_steps=2,
        bf16=precision == AUTOCAST,
        use_cpu=True,
        activation_checkpointing=True,
        gradient_checkpointing=None,
        save_steps=STEPS // 2,
        logging_steps=1,
        dataloader_pin_memory=False,
        report_to=[],
        disable_tqdm=True,
        seed=0,
    )
    return SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(model_dir),
        optimizer_cls_and_kwargs=optimizer,
    )


def masked_trainer(
    model_dir: Path, output: Path, precision: str, share: float, **options: Any
) -> tuple[SFTTrainer, dict[str, torch.Tensor]]:
    """Return a trainer under a random mask that lets ``share`` of the entries move."""
    trainer = make_trainer(model_dir, output, precision, (MaskedAdamW, ADAM | options))
    generator = torch.Generator().manual_seed(0)
    named = dict(trainer.model.named_parameters())
    masks = {n: torch.rand(p.shape, generator=generator) < share for n, p in named.items()}
    trainer.create_optimizer()
    trainer.optimizer.masks = {named[name]: mask for name, mask in masks.items()}
    return trainer, masks


def weights(trainer: SFTTrainer) -> dict[str, torch.Tensor]:
    """Return copies of the model's parameters as integers, bit by bit."""
    words = {2: torch.int16, 4: torch.int32}
    parameters = trainer.model.named_parameters()
    return {n: p.detach().clone().view(words[p.element_size()]) for n, p in parameters}


@pytest.mark.parametrize("precision", [AUTOCAST, PURE])
def test_a_mask_of_ones_is_bitwise_fused_adamw(
    tiny_model_dir: Path, tmp_path: Path, precision: str
) -> None:
    fused = (torch.optim.AdamW, ADAM | {"fused": True})
    plain = make_trainer(tiny_model_dir, tmp_path / "plain", precision, fused)
    masked, masks = masked_trainer(tiny_model_dir, tmp_path / "masked", precision, share=1.0)
    assert all(bool(mask.all()) for mask in masks.values())
    losses = []
    for trainer in (plain, masked):
        trainer.train()
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    norms = [entry["grad_norm"] for entry in plain.state.log_history if "loss" in entry]
    assert min(norms) > 0.1, "nothing was clipped"
    assert masked.model.is_gradient_checkpointing
    assert {group["weight_decay"] for group in masked.optimizer.param_groups} == {0.0, 0.1}
    assert losses[0] == losses[1]
    assert len(losses[0]) == STEPS
    expected, found = weights(plain), weights(masked)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("moments", ["full", "frozen"])
@pytest.mark.parametrize("precision", [AUTOCAST, PURE])
def test_entries_outside_a_held_mask_are_bit_identical_after_a_run(
    tiny_model_dir: Path, tmp_path: Path, precision: str, moments: str
) -> None:
    trainer, masks = masked_trainer(tiny_model_dir, tmp_path, precision, 0.5, moments=moments)
    start = weights(trainer)
    trainer.train()
    assert trainer.state.global_step == STEPS
    for name, after in weights(trainer).items():
        moved = after != start[name]
        assert not bool(moved[~masks[name]].any()), name
        # Tokens that do not occur have no gradient, and decay is lost in the rounding of bf16.
        enough = 0.2 if name == "model.embed_tokens.weight" else 0.8
        assert float(moved[masks[name]].float().mean()) > enough, name


@pytest.mark.parametrize("precision", [AUTOCAST, PURE])
def test_a_run_resumed_in_the_middle_is_bitwise_the_uninterrupted_one(
    tiny_model_dir: Path, tmp_path: Path, precision: str
) -> None:
    whole, _ = masked_trainer(tiny_model_dir, tmp_path / "whole", precision, 0.5)
    whole.train()
    stopped, _ = masked_trainer(tiny_model_dir, tmp_path / "parts", precision, 0.5)
    stopped.add_callback(StopAfter(STEPS // 2))
    stopped.train()
    resumed, _ = masked_trainer(tiny_model_dir, tmp_path / "parts", precision, 0.5)
    resumed.train(resume_from_checkpoint=True)
    assert (stopped.state.global_step, resumed.state.global_step) == (STEPS // 2, STEPS)
    expected, found, halfway = weights(whole), weights(resumed), weights(stopped)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert not all(torch.equal(halfway[name], expected[name]) for name in expected)
