"""TRL's trainers with one addition: a mask decides what an optimizer step may change."""

import contextlib
import functools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.distributed.tensor import DTensor
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl import DPOTrainer, SFTTrainer

from fnsft.artifacts.storage import reported_room
from fnsft.artifacts.telemetry import NeuronUpdates
from fnsft.config.stages import TrainSettings
from fnsft.errors import InputError
from fnsft.masks.masker import GradientMasker
from fnsft.masks.optimizer import MaskedAdamW
from fnsft.masks.shards import local
from fnsft.training.anchoring import Anchor


class MaskedSteps(Trainer):
    """Masks the gradients or updates of the trainer that it is put before, once a step.

    The mask acts where the trainer clips: there the gradient is the accumulated one of the
    whole global batch, also under DDP and FSDP2, and nothing has been clipped yet. (A hook on
    the accumulation of a gradient sees one rank's micro-batch, and masks would diverge.) The pull
    to the first weights (``l2_to_start``) is part of the gradient that masks look at.
    ``masker`` is set when training begins, since FSDP2 replaces a model's parameters before.
    """

    def __init__(self, *, settings: TrainSettings, **arguments: Any) -> None:
        self.settings = settings
        self.masker: GradientMasker | None = None
        super().__init__(**arguments)
        self.optimizer_cls_and_kwargs = optimizer_of(settings)  # DPOTrainer takes none
        weight = settings.l2_to_start
        self.anchor = Anchor(self.model, weight) if weight else None

    def _clip_grad_norm(self, model: torch.nn.Module) -> Any:
        if self.anchor is not None:
            self.anchor.pull()
        apply = self._prepare_masks()
        if apply and self.settings.mask_before_clipping:
            apply(self.state.global_step)
        if self._clips_what_moves:
            norm = self._clip_what_moves(model)
        else:
            norm = super()._clip_grad_norm(model)
        if not torch.isfinite(torch.as_tensor(norm)):
            raise InputError(
                f"step {self.state.global_step}: expected a finite gradient, found one of norm "
                f"{float(norm)}; the training has diverged: lower the learning rate"
            )
        if apply and not self.settings.mask_before_clipping:
            apply(self.state.global_step)
        return norm

    @property
    def _clips_what_moves(self) -> bool:
        """Whether masks of slices hold the update back, and only what they let pass is clipped.

        They do not follow the gradient, so that a mask for the norm costs next to nothing.
        """
        asked = self.settings.max_grad_norm and self.settings.mask_before_clipping
        return bool(asked and self.settings.slice_wise and self.masker is not None)

    @torch.no_grad()
    def _clip_what_moves(self, model: torch.nn.Module) -> float:
        """Clip by the norm of the entries inside of the masks and of parameters without one."""
        assert self.masker is not None
        masked = {matrix.parameter for matrix in self.masker.matrices}
        gradients = {p: p.grad for p in model.parameters() if p.grad is not None}
        rest = torch.nn.utils.get_total_norm([g for p, g in gradients.items() if p not in masked])
        whole = rest.full_tensor() if isinstance(rest, DTensor) else rest
        squared = float(whole) ** 2 + self.masker.squared_norm_within(self.state.global_step)
        norm = squared**0.5
        if norm > self.args.max_grad_norm:
            for gradient in gradients.values():
                local(gradient).mul_(self.args.max_grad_norm / (norm + 1e-6))
        return norm

    def _prepare_masks(self) -> Callable[[int], None] | None:
        """Hand the step's masks to the optimizer, or return what applies them to gradients."""
        if self.masker is None:
            return None
        self.masker.require_finite()
        if self.settings.applies_to == "gradient":
            return self.masker.apply_to_gradients
        optimizer = self.optimizer
        while not isinstance(optimizer, MaskedAdamW):  # accelerate's wrapper
            optimizer = optimizer.optimizer
        optimizer.masks = self.masker.masks_at(self.state.global_step, optimizer.state)
        return None

    @property
    def pass_rate(self) -> float | None:
        """Share of the masked matrices' entries that passed; None of a run without a mask."""
        telemetry = self.masker.telemetry if self.masker else None
        return telemetry.pass_rate if telemetry else None

    def neuron_updates(self) -> NeuronUpdates | None:
        """Return how often each neuron could change, if that was looked at; all processes ask."""
        telemetry = self.masker.telemetry if self.masker else None
        if telemetry is None:
            return None
        return NeuronUpdates(telemetry.neuron_updates(), telemetry.recorded_steps)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """Save a checkpoint; of one for which the disk has no room nothing stays."""
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        try:
            with reported_room(folder), by_own_names(self.model):
                super()._save_checkpoint(model, trial)
        except InputError:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Refuse a checkpoint that has other weights, which would stay as the run began."""
        if load_result.unexpected_keys:
            raise InputError(
                f"{self.args.output_dir}: expected a checkpoint of the model's parameters, found "
                f"{load_result.unexpected_keys[0]}; start anew with --resume never"
            )
        super()._issue_warnings_after_load(load_result)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Save the masks' records too, before the file that makes a checkpoint complete."""
        super()._save_optimizer_and_scheduler(output_dir)
        if self.masker is not None and self.masker.telemetry is not None:
            self.masker.telemetry.save(Path(output_dir))


class MaskedTrainer(MaskedSteps, SFTTrainer):
    """``SFTTrainer`` with masks."""


class MaskedDPOTrainer(MaskedSteps, DPOTrainer):
    """``DPOTrainer`` with masks, of tokenised pairs with the start's log-probabilities.

    Both are ours (:mod:`fnsft.training.preferences`): TRL's would tokenise anew, and keep what it
    computes in a folder of each process; the loss is TRL's.
    """

    def _prepare_dataset(self, dataset: Dataset, *given: Any) -> Dataset:
        return dataset

    def _precompute_ref_logps(self, dataset: Dataset, *given: Any) -> Dataset:
        return dataset

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """Return the passes of a step, having counted their pairs over all processes."""
        passes, counted = super().get_batch_samples(epoch_iterator, num_batches, device)
        pairs = torch.tensor([sum(map(_n_pairs, passes))], device=device)
        self._pairs_a_pass = self.accelerator.gather(pairs).float().mean().item() / max(
            1, len(passes)
        )
        return passes, counted

    def compute_loss(self, model: Any, inputs: Any, *given: Any, **named: Any) -> Any:
        """Return TRL's loss, in training weighted so that every pair of a step counts alike.

        TRL's is the mean over a pass, and the trainer's gradient the mean over passes.
        """
        found = super().compute_loss(model, inputs, *given, **named)
        return found * (_n_pairs(inputs) / self._pairs_a_pass) if self.model.training else found


def _n_pairs(inputs: dict[str, Any]) -> int:
    return len(inputs["ref_chosen_logps"])


@contextlib.contextmanager
def by_own_names(model: Any) -> Iterator[None]:
    """Have a model saved by its parameters' names, which the trainer loads a checkpoint by.

    Else transformers writes experts one by one, as they are published, and the trainer, finding
    none of its names, would go on with the weights that the run began with.
    """
    if not isinstance(model, PreTrainedModel):
        yield
        return
    save: Any = functools.partial(model.save_pretrained, save_original_format=False)
    model.__dict__["save_pretrained"] = save
    try:
        yield
    finally:
        del model.__dict__["save_pretrained"]


class WhenPrepared(TrainerCallback):
    """Looks at the model that is trained, on its device and sharded: builds masker and anchor."""

    def __init__(
        self,
        trainer: MaskedSteps,
        build: Callable[[torch.nn.Module], GradientMasker | None],
        resume_from: Path | None,
    ) -> None:
        self.trainer = trainer
        self.build = build
        self.resume_from = resume_from

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Build the masker, with its records when the run resumes.

        Raises
        ------
        InputError
            When FSDP2 was asked for and accelerate has taken DDP, as it does on the CPU.
        """
        model = given["model"]
        if args.fsdp and not any(isinstance(p, DTensor) for p in model.parameters()):
            raise InputError(
                "parallel: expected parameters that FSDP2 has sharded, found whole ones (it "
                "needs an accelerator); use --parallel ddp"
            )
        if self.trainer.anchor is not None:
            self.trainer.anchor.place(model)
        masker = self.build(model)
        if masker is not None and masker.telemetry is not None and self.resume_from is not None:
            masker.telemetry.load(self.resume_from)
        self.trainer.masker = masker


def only_a_bar(trainer: MaskedSteps) -> None:
    """Stop the trainer from printing a line a step; on a terminal a progress bar stays."""
    trainer.remove_callback(PrinterCallback)
    if trainer.pop_callback(ProgressCallback):
        trainer.add_callback(type("Bar", (ProgressCallback,), {"on_log": TrainerCallback.on_log}))


def optimizer_of(settings: TrainSettings) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
    """Return the optimizer's class and arguments: AdamW, or the one that holds updates back."""
    arguments: dict[str, Any] = {
        "lr": settings.learning_rate,
        "betas": (settings.adam_beta1, settings.adam_beta2),
        "weight_decay": settings.weight_decay,
        "fused": True,
    }
    if settings.masked and settings.applies_to == "update" and not settings.compact:
        return MaskedAdamW, arguments | {"moments": settings.moments}
    return torch.optim.AdamW, arguments
