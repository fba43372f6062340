"""Neurons that a method ranks highest: drawn once, of the untouched model and its first samples.

One process draws, before the model is shared; the choice stays in the run's checkpoints, so
that the others, and a run that resumes, have the same.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel, TrainingArguments

from fnsft.artifacts.tensors import Header, read_tensors, write_tensors
from fnsft.config.stages import TrainSettings
from fnsft.data.tokens import Encoded
from fnsft.masks.ranking import highest, ranked_count
from fnsft.neurons.strength import mean_activations
from fnsft.training.networks import NeuronChoice

KIND, SCHEMA = "drawn-neurons", 1
FILE_NAME = "drawn_neurons.safetensors"


def read_or_draw(
    model: PreTrainedModel,
    folder: Path,
    samples: Sequence[Encoded],
    settings: TrainSettings,
    arguments: TrainingArguments,
) -> NeuronChoice:
    """Return the neurons, drawn by the main process if they are not in ``folder`` yet."""
    path = folder / FILE_NAME
    with arguments.main_process_first(local=False):
        if arguments.process_index == 0 and not path.exists():
            model.to(arguments.device)
            chosen = draw(model, samples[: settings.calibration_samples], settings)
            layers = {str(number): layer.astype(np.uint8) for number, layer in enumerate(chosen)}
            write_tensors(path, Header(KIND, SCHEMA, "run"), layers)
    _, found = read_tensors(path, KIND, SCHEMA)
    return NeuronChoice("intermediate", [[found[str(n)].astype(bool) for n in range(len(found))]])


def draw(
    model: PreTrainedModel, samples: Sequence[Encoded], settings: TrainSettings
) -> list[np.ndarray]:
    """Return the neurons that rank highest, bool [N] a layer.

    ``active-neurons``: by the mean of |a| over the samples' tokens, a what down reads. Ji et al.
    2026 (arXiv 2605.24846) train the neurons that are highly activated in all of several prompts;
    as its abstract says, the parameters of those alone. The mean over the task's samples, and so
    many in every layer, are ours.
    """
    assert settings.fraction is not None and settings.polarity is not None
    match settings.method:
        case "active-neurons":
            scores = mean_activations(model, [sample.ids for sample in samples])
        case _:
            raise AssertionError(f"method {settings.method!r} ranks no neurons")
    return [
        highest(
            layer, ranked_count(layer.size, settings.fraction, settings.polarity), settings.seed, n
        )
        for n, layer in enumerate(scores)
    ]
