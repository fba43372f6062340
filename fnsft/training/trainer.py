"""TRL's trainer with one addition: a mask decides what an optimizer step may change."""

from typing import Any

import torch
from trl import SFTTrainer

from fnsft.config.stages import TrainSettings
from fnsft.masks.masker import GradientMasker
from fnsft.masks.optimizer import MaskedAdamW


class MaskedTrainer(SFTTrainer):
    """``SFTTrainer`` whose gradients or updates are masked once an optimizer step.

    The mask acts where the trainer clips: there the gradient is the accumulated one of the
    whole global batch, also under DDP and FSDP2, and nothing has been clipped yet. (A hook on
    the accumulation of a gradient sees one rank's micro-batch, and masks would diverge.)
    """

    def __init__(self, *, settings: TrainSettings, **arguments: Any) -> None:
        self.settings = settings
        self.masker: GradientMasker | None = None  # set once the model is on its device
        super().__init__(optimizer_cls_and_kwargs=optimizer_of(settings), **arguments)

    def _clip_grad_norm(self, model: torch.nn.Module) -> Any:
        masker, step = self.masker, self.state.global_step
        on_gradient = masker is not None and self.settings.applies_to == "gradient"
        if masker is not None:
            masker.require_finite()
        if masker is not None and not on_gradient:
            self._masked_optimizer().masks = masker.masks_at(step)
        if on_gradient and self.settings.mask_before_clipping:
            masker.apply_to_gradients(step)
        norm = super()._clip_grad_norm(model)
        if on_gradient and not self.settings.mask_before_clipping:
            masker.apply_to_gradients(step)
        return norm


def optimizer_of(settings: TrainSettings) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
    """Return the optimizer's class and arguments: AdamW, or the one that holds updates back."""
    arguments: dict[str, Any] = {
        "lr": settings.learning_rate,
        "betas": (settings.adam_beta1, settings.adam_beta2),
        "weight_decay": settings.weight_decay,
        "fused": True,
    }
    if settings.fraction is not None and settings.applies_to == "update":
        return MaskedAdamW, arguments | {"moments": settings.moments}
    return torch.optim.AdamW, arguments
