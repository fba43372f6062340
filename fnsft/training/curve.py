"""The validation curve of a run, and the weights of its best epoch."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from fnsft.artifacts.storage import written_whole
from fnsft.errors import InputError

Measure = Callable[[torch.nn.Module], dict[str, float]]


class ValidationCurve(TrainerCallback):
    """Measures the validation loss at even steps and epoch ends; keeps the best epoch's weights.

    Points go to the trainer's own log history, which its checkpoints hold, so that a resumed
    run continues the curve. A point has step, epoch, loss, perplexity and epoch_end.

    Parameters
    ----------
    measure
        From the model to ``{"loss": …}`` (mean negative log-likelihood per completion token,
        in nats) and counts.
    points
        About how many points the curve gets, apart from the first, at step 0.
    save
        Writes the current weights to a folder that does not exist yet.
    best
        Folder for the best epoch's weights.
    """

    def __init__(
        self, measure: Measure, points: int, save: Callable[[Path], None], best: Path
    ) -> None:
        self.measure = measure
        self.points = points
        self.save = save
        self.best = best

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Measure the untouched model, unless the run resumes."""
        self.every_steps = max(1, round(state.max_steps / self.points))
        if state.global_step == 0:
            self._add_point(state, given["model"])

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Measure at even steps."""
        if state.global_step % self.every_steps == 0:
            self._add_point(state, given["model"])

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Measure, if the last step was not measured, and keep the weights of the best epoch."""
        if points_of(state)[-1]["step"] != state.global_step:
            self._add_point(state, given["model"])
        points_of(state)[-1]["epoch_end"] = True
        if best_point(points_of(state))["step"] == state.global_step:
            with written_whole(self.best, replace=True) as folder:
                self.save(folder)

    def _add_point(self, state: TrainerState, model: torch.nn.Module) -> None:
        measured = self.measure(model)
        if not math.isfinite(measured["loss"]):
            raise InputError(
                f"training diverged: validation loss is {measured['loss']} at step "
                f"{state.global_step}; lower the learning rate"
            )
        point = {"step": state.global_step, "epoch": state.epoch or 0.0, "epoch_end": False}
        perplexity = math.exp(measured["loss"])
        state.log_history.append({"validation": point | measured | {"perplexity": perplexity}})


def points_of(state: TrainerState) -> list[dict[str, Any]]:
    """Return the curve's points so far."""
    return [entry["validation"] for entry in state.log_history if "validation" in entry]


def best_point(points: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the epoch end with the lowest loss; the earlier one of equals."""
    return min((point for point in points if point["epoch_end"]), key=lambda point: point["loss"])
