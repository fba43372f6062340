"""The validation curve of a run, and the weights of its best epoch."""

import math
from collections.abc import Callable
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

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
        in nats; of pairs DPO's) and counts; with a ``perplexity`` where that is not exp(loss).
    points
        About how many points the curve gets, apart from the first, at step 0.
    save
        Writes the current weights, as the best epoch's, over those of an earlier one.
    """

    def __init__(self, measure: Measure, points: int, save: Callable[[], None]) -> None:
        self.measure = measure
        self.points = points
        self.save = save

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
        """Measure at even steps and epoch ends; keep the weights of the best epoch.

        An epoch is ended with its last step, so that a checkpoint of that step knows it; the
        last one may be ended early, by ``max_steps``.
        """
        epoch_end = float(state.epoch or 0).is_integer() or state.global_step == state.max_steps
        if not epoch_end and state.global_step % self.every_steps:
            return
        self._add_point(state, given["model"])
        points_of(state)[-1]["epoch_end"] = epoch_end
        if epoch_end and best_point(points_of(state))["step"] == state.global_step:
            self.save()

    def _add_point(self, state: TrainerState, model: torch.nn.Module) -> None:
        measured = self.measure(model)
        if not math.isfinite(measured["loss"]):
            raise InputError(
                f"training diverged: validation loss is {measured['loss']} at step "
                f"{state.global_step}; lower the learning rate"
            )
        point = {"step": state.global_step, "epoch": state.epoch or 0.0, "epoch_end": False}
        perplexity = perplexity_of(measured)
        state.log_history.append({"validation": point | measured | {"perplexity": perplexity}})


def perplexity_of(measured: dict[str, float]) -> float:
    """Return the perplexity that was measured, or that of the loss."""
    return measured["perplexity"] if "perplexity" in measured else math.exp(measured["loss"])


def points_of(state: TrainerState) -> list[dict[str, Any]]:
    """Return the curve's points so far."""
    return [entry["validation"] for entry in state.log_history if "validation" in entry]


def best_point(points: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the epoch end with the lowest loss; the earlier one of equals."""
    return min((point for point in points if point["epoch_end"]), key=lambda point: point["loss"])
