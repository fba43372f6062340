"""What a run's settings mean to transformers' trainer and to PEFT."""

import math
import sys
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from trl import DPOConfig, SFTConfig

from fnsft.architectures.targets import lora_targets
from fnsft.config.stages import TrainSettings
from fnsft.devices import accelerator
from fnsft.errors import InputError
from fnsft.training.processes import Processes

WAIT_SECONDS = 6 * 3600  # for the process that alone draws masks, as LIFT's of an 8B model


def trainer_arguments(
    settings: TrainSettings, folder: Path, processes: Processes, n_samples: int
) -> SFTConfig | DPOConfig:
    """Return the trainer's arguments for a training split of ``n_samples``, pairs if it is DPO's.

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
    on_cpu = accelerator().type == "cpu"
    options: dict[str, Any] = {
        "output_dir": str(folder),
        "per_device_train_batch_size": settings.pass_samples(processes.n),
        "gradient_accumulation_steps": accumulation(settings, processes),
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
        "use_cpu": on_cpu,
        "activation_checkpointing": settings.gradient_checkpointing,
        "gradient_checkpointing": None,  # the deprecated name, which TRL sets
        "dataloader_pin_memory": not on_cpu,
        "seed": settings.seed,
        "max_length": None,
        "report_to": [],
        "disable_tqdm": not sys.stderr.isatty(),
        "ddp_timeout": WAIT_SECONDS,
    }
    steps = total_steps(settings, processes, n_samples)
    if steps < settings.epochs * epoch_steps(settings, processes, n_samples):
        options["max_steps"] = steps  # the trainer's own setting would prolong a run too
    if settings.checkpoint_steps:
        options["save_steps"] = settings.checkpoint_steps
    if processes.n > 1 and settings.parallel == "fsdp":
        options |= {"fsdp": True, "fsdp_config": {"version": 2}}
        if settings.gradient_checkpointing:
            # FSDP's own, which gathers the weights of a layer once less.
            options["activation_checkpointing"] = False
            options["fsdp_config"]["activation_checkpointing"] = True
    arguments: SFTConfig | DPOConfig
    if settings.objective == "dpo":
        arguments = DPOConfig(beta=settings.dpo_beta, precompute_ref_log_probs=True, **options)
    else:
        skipped = {"skip_prepare_dataset": True}
        arguments = SFTConfig(packing=False, dataset_kwargs=skipped, **options)
    if arguments.n_gpu > 1:
        # One process would copy the model to all devices that it sees, a batch to each.
        arguments._n_gpu = 1
    return arguments


def accumulation(settings: TrainSettings, processes: Processes) -> int:
    """Return how many forward passes of a process make an optimizer step."""
    passes = settings.batch_size // (settings.pass_samples(processes.n) * processes.n)
    return passes * (settings.window if settings.method == "gmt" else 1)


def samples_a_step(settings: TrainSettings) -> int:
    """Return the global batch: the samples of an optimizer step, over all processes."""
    return settings.batch_size * (settings.window if settings.method == "gmt" else 1)


def epoch_steps(settings: TrainSettings, processes: Processes, n_samples: int) -> int:
    """Return the optimizer steps of an epoch; the last may have fewer samples."""
    passes = math.ceil(n_samples / (settings.pass_samples(processes.n) * processes.n))
    return math.ceil(passes / accumulation(settings, processes))


def total_steps(settings: TrainSettings, processes: Processes, n_samples: int) -> int:
    """Return the optimizer steps of a run: of its epochs, or ``max_steps`` if these are fewer."""
    steps = settings.epochs * epoch_steps(settings, processes, n_samples)
    return min(steps, settings.max_steps or steps)


def lora_config(settings: TrainSettings, model: torch.nn.Module) -> LoraConfig:
    """Return LoRA on every linear layer but the output (Hu et al. 2021; targets ours), or a part.

    With ``unmasked: freeze``, on the MLP projections alone: all other adapters are left out.
    """
    only_mlp = settings.trains_networks and settings.unmasked == "freeze"
    kind = "mlp" if only_mlp else settings.lora_targets
    return LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=kind if kind == "all-linear" else lora_targets(model, kind),
        task_type="CAUSAL_LM",
    )
