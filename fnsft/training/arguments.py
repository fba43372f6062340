"""What a run's settings mean to transformers' trainer and to PEFT."""

import math
import sys
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from trl import SFTConfig

from fnsft.architectures import mlp_blocks
from fnsft.config.stages import TrainSettings
from fnsft.errors import InputError
from fnsft.training.processes import Processes


def trainer_arguments(settings: TrainSettings, folder: Path, processes: Processes) -> SFTConfig:
    """Return the trainer's arguments.

    GMT ranks the mean gradient of ``window`` batches at fixed weights. That is gradient
    accumulation over ``window`` batches followed by top-p of the accumulated gradient, so
    GMT is ``highest`` with a longer accumulation, and its optimizer, decay and schedule
    advance once a window. The last, partial window of an epoch is applied.

    Raises
    ------
    InputError
        When the processes cannot share a batch evenly, or a quantised model at all.
    """
    if settings.quantise and processes.n > 1 and settings.parallel == "fsdp":
        raise InputError(
            f"quantise: expected a model that every process holds whole, found FSDP2 over "
            f"{processes.n} processes; use --parallel ddp"
        )
    pass_samples = settings.micro_batch_size * processes.n
    if settings.batch_size % pass_samples:
        raise InputError(
            f"batch_size: expected a multiple of {pass_samples} (micro_batch_size "
            f"{settings.micro_batch_size} x {processes.n} processes), found {settings.batch_size}"
        )
    accumulated = settings.batch_size // pass_samples
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
        "save_strategy": "steps" if settings.checkpoint_steps else "epoch",
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
    if settings.checkpoint_steps:
        options["save_steps"] = settings.checkpoint_steps
    if processes.n > 1 and settings.parallel == "fsdp":
        options |= {"fsdp": True, "fsdp_config": {"version": 2}}
        if settings.gradient_checkpointing:
            # FSDP's own, which gathers the weights of a layer once less.
            options["activation_checkpointing"] = False
            options["fsdp_config"]["activation_checkpointing"] = True
    return SFTConfig(**options)


def lora_config(settings: TrainSettings, model: torch.nn.Module) -> LoraConfig:
    """Return LoRA on every linear layer but the output (Hu et al. 2021; targets ours).

    With ``unmasked: freeze``, on the MLP projections alone: all other adapters are left out.
    """
    targets: str | list[str] = "all-linear"
    if settings.trains_networks and settings.unmasked == "freeze":
        paths = [(b.gate, b.up, b.down) for b in mlp_blocks(model)]
        targets = sorted({path for block in paths for path in block if path is not None})
    return LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=0.0,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
