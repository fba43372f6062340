"""One fine-tuning run, from a model folder and its splits to a model folder and its record."""

import functools
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    PreTrainedTokenizerBase,
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
    set_seed,
)

from fnsft.architectures import MLPMatrix, mlp_blocks, mlp_matrices
from fnsft.artifacts.identity import model_identity
from fnsft.artifacts.manifest import StageRun, peak_memory_mib
from fnsft.artifacts.networks import read_neurons
from fnsft.artifacts.storage import written_whole
from fnsft.artifacts.telemetry import write_masks, write_neuron_updates
from fnsft.artifacts.training import Run, TrainingRecord, write_training
from fnsft.config.stages import MASKED_METHODS, TrainSettings
from fnsft.data.tokens import Encoded, load_split, load_tokenizer
from fnsft.masks.adapters import zero_outside
from fnsft.masks.masker import GradientMasker
from fnsft.masks.policies import Collab, PackedMask
from fnsft.training import drawn_masks
from fnsft.training.arguments import lora_config, trainer_arguments
from fnsft.training.completion_loss import completion_loss
from fnsft.training.curve import ValidationCurve, best_point, points_of
from fnsft.training.masking import (
    Graph,
    Structure,
    build_masker,
    masked_matrices,
    require_shape,
    trained_neurons,
)
from fnsft.training.processes import Processes
from fnsft.training.trainer import MaskedTrainer, WhenPrepared


@dataclass(frozen=True)
class RunFiles:
    """What a run reads and where it writes; ``checkpoints`` is the run's own folder."""

    model: Path
    data: Path
    checkpoints: Path
    output: Path
    network: Path | None = None
    resume_from: Path | None = None


def fine_tune(
    files: RunFiles,
    settings: TrainSettings,
    graph: Graph | None,
    run: Run,
    stage: StageRun,
    processes: Processes,
) -> TrainingRecord:
    """Train, keep the best epoch, and write the model folder with its records.

    All ``processes`` call it; the main one writes. ``stage`` is noted the samples that were
    left out because of their length, and of every layer the neurons without a neighbour.
    """
    clock = time.perf_counter()
    set_seed(settings.seed)
    tokenizer = load_tokenizer(files.model)
    train = load_split(files.data / "train.jsonl", tokenizer, settings.max_tokens)
    validation = load_split(files.data / "validation.jsonl", tokenizer, settings.max_tokens)
    stage.note(
        processes=processes.n,
        train_samples_left_out=train.n_left_out,
        validation_samples_left_out=validation.n_left_out,
    )
    model = AutoModelForCausalLM.from_pretrained(files.model, dtype=torch.float32)
    structure = structure_of(model, files, graph)
    trainer = make_trainer(model, tokenizer, train.samples, settings, files, processes)
    if settings.adapters:
        trained = trained_neurons(settings, structure)
        zero_outside(masked_matrices(trainer.model, settings), trained)

    def build(model: torch.nn.Module) -> GradientMasker | None:
        if settings.method not in MASKED_METHODS:
            return None
        draw = functools.partial(drawn, trainer, train.samples, files, processes)
        return build_masker(model, settings, structure, draw)

    def measure(model: torch.nn.Module) -> dict[str, float]:
        losses = completion_loss(model, validation.samples, settings.micro_batch_size)
        return {"loss": losses.mean_per_token, "samples": losses.n, "tokens": losses.n_tokens}

    save = functools.partial(save_best, trainer, files, processes)
    trainer.add_callback(WhenPrepared(trainer, build, files.resume_from))
    trainer.add_callback(ValidationCurve(measure, settings.validations, save))
    trainer.train(resume_from_checkpoint=str(files.resume_from) if files.resume_from else None)
    record = record_of(trainer, run, clock)
    if trainer.masker and isinstance(trainer.masker.policy, Collab):
        affinities = trainer.masker.policy.affinities
        stage.note(isolated_neurons=[affinity.isolated for affinity in affinities])
    write_run(files, trainer.masker, record, processes)
    return record


def make_trainer(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    samples: Sequence[Encoded],
    settings: TrainSettings,
    files: RunFiles,
    processes: Processes,
) -> MaskedTrainer:
    """Freeze what the method does not train, add its adapters, and return the trainer."""
    choose_trainable(model, settings)
    with_adapters = settings.method == "lora" or settings.adapters
    trainer = MaskedTrainer(
        settings=settings,
        model=model,
        args=trainer_arguments(settings, files.checkpoints, processes),
        train_dataset=as_dataset(samples),
        processing_class=tokenizer,
        peft_config=lora_config(settings, model) if with_adapters else None,
    )
    only_a_bar(trainer)
    return trainer


def structure_of(model: torch.nn.Module, files: RunFiles, graph: Graph | None) -> Structure | None:
    """Return what the run's masks are made from, once it fits the model."""
    if graph is not None:
        require_shape(graph, model)
    if files.network is None:
        return graph
    blocks = mlp_blocks(model)
    return read_neurons(files.network, len(blocks), blocks[0].d_mlp)


def save_best(trainer: MaskedTrainer, files: RunFiles, processes: Processes) -> None:
    """Write the current weights as the best epoch's; all processes gather, the main one writes."""
    best = files.checkpoints / "best"
    if not processes.is_main:
        trainer.save_model(str(best))
        return
    with written_whole(best, replace=True) as folder:
        trainer.save_model(str(folder))
        (folder / "training_args.bin").unlink()


def record_of(trainer: MaskedTrainer, run: Run, clock: float) -> TrainingRecord:
    """Return what is recorded of a finished run that began at ``clock``."""
    points = points_of(trainer.state)
    chosen = best_point(points)
    telemetry = trainer.masker.telemetry if trainer.masker else None
    return TrainingRecord(
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
        mask_pass_rate=telemetry.pass_rate if telemetry else None,
        wall_seconds=round(time.perf_counter() - clock, 3),
        peak_memory_mib=peak_memory_mib(),
    )


def write_run(
    files: RunFiles, masker: GradientMasker | None, record: TrainingRecord, processes: Processes
) -> None:
    """Write the model folder: the best epoch's weights, and what is known of the run."""
    telemetry = masker.telemetry if masker else None
    updates = telemetry.neuron_updates() if telemetry else None  # all processes together
    if not processes.is_main:
        return
    with written_whole(files.output) as folder:
        shutil.copytree(files.checkpoints / "best", folder)
        write_training(folder, record)
        if telemetry and updates is not None:
            write_masks(folder, telemetry.records)
            identity = model_identity(files.model)
            write_neuron_updates(folder, updates, telemetry.recorded_steps, identity)


def drawn(
    trainer: MaskedTrainer,
    samples: Sequence[Encoded],
    files: RunFiles,
    processes: Processes,
    matrices: Sequence[MLPMatrix],
) -> list[PackedMask]:
    """Return Child-Tuning-D's masks: of the untouched model, or those of the interrupted run."""
    if files.resume_from is not None:
        return drawn_masks.read_masks(files.checkpoints, matrices)
    settings = trainer.settings
    assert settings.fraction is not None and trainer.model is not None
    chosen = samples[: settings.fisher_samples]
    masks = drawn_masks.draw_masks(
        trainer.model, matrices, chosen, settings.fraction, settings.seed
    )
    drawn_masks.write_masks(files.checkpoints, matrices, masks, processes.is_main)
    return masks


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
                "input_ids": sample.ids,
                "labels": sample.labels,
            }
            for sample in samples
        ]
    )
