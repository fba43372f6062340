"""What a run leaves behind: the best epoch's weights with their mask, records, networks."""

import dataclasses
import shutil
import time
from collections.abc import Callable

import torch
from transformers import PreTrainedModel, TrainingArguments

from fnsft.artifacts.forward_masks import ForwardMask, write_forward_mask
from fnsft.artifacts.identity import ADAPTER, model_identity
from fnsft.artifacts.manifest import peak_memory_mib
from fnsft.artifacts.storage import read_json, require_space, write_json, written_whole
from fnsft.artifacts.telemetry import write_masks, write_neuron_updates
from fnsft.artifacts.training import Run, TrainingRecord, write_training
from fnsft.config.stages import TrainSettings
from fnsft.masks.forward import attach
from fnsft.training import networks
from fnsft.training.anchoring import average_into
from fnsft.training.curve import best_point, perplexity_of, points_of
from fnsft.training.files import RunFiles
from fnsft.training.loading import load_base
from fnsft.training.processes import Processes
from fnsft.training.quantisation import packing_of, write_packing
from fnsft.training.stages import Lineage
from fnsft.training.trainer import MaskedSteps

AVERAGED = "averaged"  # the best epoch's weights, averaged with those that the stage began with


def require_room(files: RunFiles, model: PreTrainedModel, settings: TrainSettings) -> None:
    """Refuse a run that will fill its disk: two checkpoints, the best epoch, the output.

    The average with the first weights lies beside the best epoch.

    Raises
    ------
    InputError
        When the disk of the checkpoints has less free.
    """
    parameters = list(model.parameters())
    trained = sum(p.nbytes for p in parameters if p.requires_grad)
    saved = trained if settings.method == "lora" else sum(p.nbytes for p in parameters)
    checkpoint = 2 * trained + (trained if settings.compact else saved)
    copies = 3 if settings.average_with_start else 2
    require_space(files.checkpoints / "best", 2 * checkpoint + copies * saved)


def save_best(
    trainer: MaskedSteps, mask: ForwardMask | None, files: RunFiles, processes: Processes
) -> None:
    """Write the current weights as the best epoch's; all processes gather, the main one writes.

    What else the model computes with lies beside them: the mask on its forward pass, and how
    the base under its adapter is packed.
    """
    best = files.checkpoints / "best"
    if not processes.is_main:
        trainer.save_model(str(best))
        return
    with written_whole(best, replace=True) as folder:
        trainer.save_model(str(folder))
        (folder / "training_args.bin").unlink()
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty form, with a local path
        adapter = folder / ADAPTER
        if adapter.exists():
            # Not before: PEFT would ask the hub about a base of that name.
            write_json(adapter, read_json(adapter) | {"base_model_name_or_path": files.base_name})
        if mask is not None:
            write_forward_mask(folder, mask)
        if packing := packing_of(trainer.settings):
            write_packing(folder, packing)


def average_best(
    record: TrainingRecord,
    files: RunFiles,
    settings: TrainSettings,
    arguments: TrainingArguments,
    mask: ForwardMask | None,
    measure: Callable[[torch.nn.Module], dict[str, float]],
) -> TrainingRecord:
    """Average the best epoch with the first weights, beside it; record its perplexity.

    Both models are loaded anew, in the main process alone. The best epoch stays as it is, so
    that a run that is killed here averages once.
    """
    best, target = files.checkpoints / "best", files.checkpoints / AVERAGED
    model = load_base(dataclasses.replace(files, model=best), settings, arguments)
    average_into(model, load_base(files, settings, arguments), settings.average_with_start)
    with written_whole(target, replace=True) as folder:
        shutil.copytree(best, folder)
        model.save_pretrained(folder)
    model.to(arguments.device)
    if mask is not None:
        attach(model, mask)
    half = settings.bf16_autocast  # as every epoch was measured
    with torch.autocast(arguments.device.type, torch.bfloat16, enabled=half):
        perplexity = perplexity_of(measure(model))
    return dataclasses.replace(record, averaged_validation_perplexity=perplexity)


def record_of(trainer: MaskedSteps, run: Run, lineage: Lineage, clock: float) -> TrainingRecord:
    """Return what is recorded of a finished run that began at ``clock``."""
    points = points_of(trainer.state)
    chosen = best_point(points)
    return TrainingRecord(
        run=run,
        objective=trainer.settings.objective,
        validation=points,
        train_loss=[
            {"step": entry["step"], "loss": entry["loss"]}
            for entry in trainer.state.log_history
            if "loss" in entry
        ],
        best_epoch=round(chosen["epoch"], 3),
        best_step=chosen["step"],
        best_validation_perplexity=chosen["perplexity"],
        optimizer_steps=trainer.state.global_step,
        mask_pass_rate=trainer.pass_rate,
        wall_seconds=round(time.perf_counter() - clock, 3),
        peak_memory_mib=peak_memory_mib(),
        began_with=lineage.began_with,
        earlier=list(lineage.earlier),
    )


def write_run(
    files: RunFiles, trainer: MaskedSteps, record: TrainingRecord, processes: Processes
) -> None:
    """Write the model folder: the best epoch's weights or their average, and what is known."""
    telemetry = trainer.masker.telemetry if trainer.masker else None
    updates = trainer.neuron_updates()  # all processes together
    if not processes.is_main:
        return
    with written_whole(files.output) as folder:
        averaged = files.checkpoints / AVERAGED
        shutil.copytree(averaged if averaged.is_dir() else files.checkpoints / "best", folder)
        for found in networks.files_found(files.checkpoints):
            shutil.copy(found, folder)
        for name, file in files.kept.items():
            shutil.copy(file, folder / name)
        write_training(folder, record)
        if telemetry is not None:
            write_masks(folder, telemetry.records)
        if updates is not None:
            identity = model_identity(files.model)
            write_neuron_updates(folder, updates.share, updates.recorded_steps, identity)
