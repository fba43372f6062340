"""One fine-tuning run, from a model folder and its splits to a model folder and its record."""

import math
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import (
    AutoModelForCausalLM,
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
    set_seed,
)
from trl import SFTConfig

from fnsft.architectures import mlp_matrices
from fnsft.artifacts.manifest import StageRun, peak_memory_mib
from fnsft.artifacts.storage import written_whole
from fnsft.artifacts.training import Run, TrainingRecord, write_training
from fnsft.config.stages import MASKED_METHODS, TrainSettings
from fnsft.data.tokens import Encoded, load_split, load_tokenizer
from fnsft.masks.policies import Collab
from fnsft.training.completion_loss import completion_loss
from fnsft.training.curve import ValidationCurve, best_point, points_of
from fnsft.training.masking import Structure, build_masker
from fnsft.training.trainer import MaskedTrainer

IGNORED = -100  # the label that the loss leaves out


@dataclass(frozen=True)
class RunFiles:
    """What a run reads and where it writes; ``checkpoints`` is the run's own folder."""

    model: Path
    data: Path
    checkpoints: Path
    output: Path


def fine_tune(
    files: RunFiles,
    settings: TrainSettings,
    structure: Structure | None,
    run: Run,
    resume_from: Path | None,
    stage: StageRun,
) -> TrainingRecord:
    """Train, keep the best epoch, and write the model folder with its ``training.json``.

    ``stage`` is noted the samples that were left out because of their length, and of every
    layer the neurons without a neighbour.
    """
    clock = time.perf_counter()
    set_seed(settings.seed)
    tokenizer = load_tokenizer(files.model)
    train = load_split(files.data / "train.jsonl", tokenizer, settings.max_tokens)
    validation = load_split(files.data / "validation.jsonl", tokenizer, settings.max_tokens)
    stage.note(
        train_samples_left_out=train.n_left_out, validation_samples_left_out=validation.n_left_out
    )
    model = AutoModelForCausalLM.from_pretrained(files.model, dtype=torch.float32)
    choose_trainable(model, settings)
    trainer = MaskedTrainer(
        settings=settings,
        model=model,
        args=trainer_arguments(settings, files.checkpoints),
        train_dataset=as_dataset(train.samples),
        processing_class=tokenizer,
        peft_config=lora_config(settings) if settings.method == "lora" else None,
    )
    only_a_bar(trainer)
    trainer.masker = build_masker(model, settings, structure)
    if trainer.masker and isinstance(trainer.masker.policy, Collab):
        affinities = trainer.masker.policy.affinities
        stage.note(isolated_neurons=[affinity.isolated for affinity in affinities])
    best = files.checkpoints / "best"

    def measure(model: torch.nn.Module) -> dict[str, float]:
        losses = completion_loss(model, validation.samples, settings.micro_batch_size)
        return {"loss": losses.mean_per_token, "samples": losses.n, "tokens": losses.n_tokens}

    def save(folder: Path) -> None:
        trainer.save_model(str(folder))
        (folder / "training_args.bin").unlink()

    trainer.add_callback(ValidationCurve(measure, settings.validations, save, best))
    trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
    points = points_of(trainer.state)
    chosen = best_point(points)
    record = TrainingRecord(
        run=run,
        validation=points,
        train_loss=[
            {"step": entry["step"], "loss": entry["loss"]}
            for entry in trainer.state.log_history
            if "loss" in entry
        ],
        best_epoch=round(chosen["epoch"]),
        best_step=chosen["step"],
        best_validation_perplexity=chosen["perplexity"],
        optimizer_steps=trainer.state.global_step,
        mask_pass_rate=trainer.masker.pass_rate if trainer.masker else None,
        wall_seconds=round(time.perf_counter() - clock, 3),
        peak_memory_mib=peak_memory_mib(),
    )
    with written_whole(files.output) as folder:
        shutil.copytree(best, folder)
        write_training(folder, record)
    return record


def only_a_bar(trainer: MaskedTrainer) -> None:
    """Stop the trainer from printing a line a step; on a terminal a progress bar stays."""
    trainer.remove_callback(PrinterCallback)
    if trainer.pop_callback(ProgressCallback):
        trainer.add_callback(type("Bar", (ProgressCallback,), {"on_log": TrainerCallback.on_log}))


def choose_trainable(model: torch.nn.Module, settings: TrainSettings) -> None:
    """Freeze all but the MLP matrices where the method, or ``unmasked: freeze``, asks for it."""
    if settings.method == "projections-only" or (
        settings.method in MASKED_METHODS and settings.unmasked == "freeze"
    ):
        model.requires_grad_(False)
        for matrix in mlp_matrices(model):
            matrix.parameter.requires_grad_(True)


def as_dataset(samples: Sequence[Encoded]) -> Dataset:
    """Turn encoded samples into TRL's columns; labels leave the prompt out of the loss."""
    return Dataset.from_list(
        [
            {
                "input_ids": [*sample.prompt_ids, *sample.completion_ids],
                "labels": [*[IGNORED] * len(sample.prompt_ids), *sample.completion_ids],
            }
            for sample in samples
        ]
    )


def lora_config(settings: TrainSettings) -> LoraConfig:
    """Return LoRA on every linear layer but the output (Hu et al. 2021; targets ours)."""
    return LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def trainer_arguments(settings: TrainSettings, folder: Path) -> SFTConfig:
    """Return the trainer's arguments.

    GMT ranks the mean gradient of ``window`` batches at fixed weights. That is gradient
    accumulation over ``window`` batches followed by top-p of the accumulated gradient, so
    GMT is ``highest`` with a longer accumulation, and its optimizer, decay and schedule
    advance once a window. The last, partial window of an epoch is applied.
    """
    accumulated = settings.batch_size // settings.micro_batch_size
    if settings.method == "gmt":
        accumulated *= settings.window
    options: dict[str, Any] = {
        "output_dir": str(folder),
        "per_device_train_batch_size": settings.micro_batch_size,
        "gradient_accumulation_steps": accumulated,
        "num_train_epochs": settings.epochs,
        "lr_scheduler_type": settings.schedule,
        "warmup_steps": settings.warmup_share,
        "learning_rate": settings.learning_rate,
        "weight_decay": settings.weight_decay,
        # The trainer masks where it clips, so clipping is never off, only without effect.
        "max_grad_norm": settings.max_grad_norm or math.inf,
        "train_sampling_strategy": "sequential",
        "save_strategy": "epoch",
        "save_total_limit": 1,
        "eval_strategy": "no",
        "logging_steps": 1,
        "bf16": settings.bf16_autocast,
        "use_cpu": not torch.accelerator.is_available(),
        "activation_checkpointing": settings.gradient_checkpointing,
        "gradient_checkpointing": None,  # the deprecated name, which TRL sets
        "dataloader_pin_memory": torch.accelerator.is_available(),
        "seed": settings.seed,
        "max_length": None,
        "packing": False,
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "report_to": [],
        "disable_tqdm": not sys.stderr.isatty(),
    }
    return SFTConfig(**options)
