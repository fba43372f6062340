"""Training of some neurons or columns alone, whose checkpoints hold no more than they have."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from fnsft.artifacts.telemetry import NeuronUpdates
from fnsft.artifacts.tensors import Header
from fnsft.masks.compact import as_plain, make_compact
from fnsft.training.trainer import MaskedDPOTrainer, MaskedSteps, MaskedTrainer

KIND, SCHEMA = "trained-parameters", 1
FILE_NAME = "trained.safetensors"


class CompactSteps(MaskedSteps):
    """Trains slices of a model's MLPs (:func:`fnsft.masks.compact.make_compact`).

    The result is that of :class:`MaskedSteps` with a mask of these entries on the update, as far
    as sums of another order are the same. A checkpoint holds the parameters that train; the model
    that is saved is a plain one. What masks record of gradients is not: most are never taken.

    Parameters
    ----------
    trained
        What trains: neurons, bool [N] a layer, or columns, [inputs] a matrix.
    of_columns
        Whether it is columns.
    """

    def __init__(
        self,
        *,
        model: torch.nn.Module,
        trained: Sequence[torch.Tensor],
        of_columns: bool,
        **arguments: Any,
    ) -> None:
        self._pass_rate = make_compact(model, trained, of_columns)
        self.neurons = None if of_columns else torch.stack(list(trained)).float()
        super().__init__(model=model, **arguments)

    @property
    def pass_rate(self) -> float:
        """Share of the MLP matrices' entries that train."""
        return self._pass_rate

    def neuron_updates(self) -> NeuronUpdates | None:
        """Return what a mask's telemetry would: 1 for a neuron that trains, and 0 for others.

        None without telemetry, and of columns, of which a neuron has some in every matrix.
        """
        every = self.settings.telemetry_steps
        if not every or self.neurons is None:
            return None
        return NeuronUpdates(self.neurons.numpy(), -(-self.state.global_step // every))

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save a plain model; of a checkpoint, by which the trainer calls itself, what trains."""
        if not _internal_call:
            with as_plain(self.model):
                super().save_model(output_dir)
        elif self.args.should_save:
            assert output_dir is not None
            path = Path(output_dir) / FILE_NAME
            path.parent.mkdir(parents=True, exist_ok=True)
            trained = {name: p.detach() for name, p in self._trained().items()}
            save_file(trained, path, metadata=Header(KIND, SCHEMA, "run").as_metadata())

    @torch.no_grad()
    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: torch.nn.Module | None = None
    ) -> None:
        """Put a checkpoint's parameters over those of the model that the run began with."""
        saved = load_file(Path(resume_from_checkpoint) / FILE_NAME)
        trained = self._trained()
        assert saved.keys() == trained.keys(), "a checkpoint of other settings is not resumed from"
        for name, parameter in trained.items():
            parameter.copy_(saved[name])

    def _trained(self) -> dict[str, torch.nn.Parameter]:
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}


class CompactTrainer(CompactSteps, MaskedTrainer):
    """``MaskedTrainer`` of slices."""


class CompactDPOTrainer(CompactSteps, MaskedDPOTrainer):
    """``MaskedDPOTrainer`` of slices."""
