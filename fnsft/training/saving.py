"""What a run leaves behind: the best epoch's weights with their mask, records, networks."""

import shutil
import time

from transformers import PreTrainedModel

from fnsft.artifacts.forward_masks import ForwardMask, write_forward_mask
from fnsft.artifacts.identity import ADAPTER, model_identity
from fnsft.artifacts.manifest import peak_memory_mib
from fnsft.artifacts.storage import read_json, require_space, write_json, written_whole
from fnsft.artifacts.telemetry import write_masks, write_neuron_updates
from fnsft.artifacts.training import Run, TrainingRecord, write_training
from fnsft.training import networks
from fnsft.training.curve import best_point, points_of
from fnsft.training.files import RunFiles
from fnsft.training.processes import Processes
from fnsft.training.quantisation import packing_of, write_packing
from fnsft.training.trainer import MaskedTrainer


def require_room(files: RunFiles, model: PreTrainedModel, adapters: bool) -> None:
    """Refuse a run that will fill its disk: two checkpoints, the best epoch, the output.

    Raises
    ------
    InputError
        When the disk of the checkpoints has less free.
    """
    parameters = list(model.parameters())
    trained = sum(p.nbytes for p in parameters if p.requires_grad)
    saved = trained if adapters else sum(p.nbytes for p in parameters)
    require_space(files.checkpoints / "best", 2 * (saved + 2 * trained) + 2 * saved)


def save_best(
    trainer: MaskedTrainer, mask: ForwardMask | None, files: RunFiles, processes: Processes
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
        best_epoch=round(chosen["epoch"], 3),
        best_step=chosen["step"],
        best_validation_perplexity=chosen["perplexity"],
        optimizer_steps=trainer.state.global_step,
        mask_pass_rate=telemetry.pass_rate if telemetry else None,
        wall_seconds=round(time.perf_counter() - clock, 3),
        peak_memory_mib=peak_memory_mib(),
    )


def write_run(
    files: RunFiles, trainer: MaskedTrainer, record: TrainingRecord, processes: Processes
) -> None:
    """Write the model folder: the best epoch's weights, and what is known of the run."""
    telemetry = trainer.masker.telemetry if trainer.masker else None
    updates = telemetry.neuron_updates() if telemetry else None  # all processes together
    if not processes.is_main:
        return
    with written_whole(files.output) as folder:
        shutil.copytree(files.checkpoints / "best", folder)
        for found in networks.files_found(files.checkpoints):
            shutil.copy(found, folder)
        for name, file in files.kept.items():
            shutil.copy(file, folder / name)
        write_training(folder, record)
        if telemetry and updates is not None:
            write_masks(folder, telemetry.records)
            identity = model_identity(files.model)
            write_neuron_updates(folder, updates, telemetry.recorded_steps, identity)
