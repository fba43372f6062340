"""Sets that rank highest: neurons of every layer, or columns of every matrix, drawn once.

One process draws them of the untouched model before it is shared. They stay in the run's
checkpoints, so that the others, and a run that resumes, have the same.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel, TrainingArguments

from fnsft.architectures import MLPMatrix, neuron_matrices
from fnsft.artifacts.clusters import Clusters
from fnsft.artifacts.tensors import Header, read_tensors, write_tensors
from fnsft.config.stages import TrainSettings
from fnsft.data.tokens import Encoded
from fnsft.devices import widest
from fnsft.masks.gradients import neuron_gradients
from fnsft.masks.ranking import highest, highest_clusters, ranked_count
from fnsft.neurons.strength import input_norms, mean_activations
from fnsft.training.loading import outside_of_training

KIND, SCHEMA = "drawn-sets", 1
FILE_NAME = "drawn_sets.safetensors"


def read_or_draw(
    model: PreTrainedModel,
    folder: Path,
    samples: Sequence[Encoded],
    settings: TrainSettings,
    arguments: TrainingArguments,
    clusters: Clusters | None = None,
) -> list[np.ndarray]:
    """Return :func:`draw`'s sets; the main process draws them if ``folder`` has none yet."""
    path = folder / FILE_NAME
    with arguments.main_process_first(local=False):
        if arguments.process_index == 0 and not path.exists():
            model.to(arguments.device)
            with outside_of_training(model):
                sets = draw(model, samples[: settings.calibration_samples], settings, clusters)
            packed = {str(number): chosen.astype(np.uint8) for number, chosen in enumerate(sets)}
            write_tensors(path, Header(KIND, SCHEMA, "run"), packed)
    _, found = read_tensors(path, KIND, SCHEMA)
    return [found[str(number)].astype(bool) for number in range(len(found))]


def draw(
    model: PreTrainedModel,
    samples: Sequence[Encoded],
    settings: TrainSettings,
    clusters: Clusters | None = None,
) -> list[np.ndarray]:
    """Return what ranks highest: bool [N] a layer or, of columns, [inputs] a matrix.

    With the polarity train they are round(p·n) of n, with protect all but as many.

    Notes
    -----
    ``active-neurons``: by the mean of |a| over the samples' tokens, a what down reads. Ji et al.
    2026 (arXiv 2605.24846) train the neurons that are highly activated in all of several prompts;
    as its abstract says, the parameters of those alone. The mean over the task's samples, and so
    many in every layer, are ours.

    ``collab-static``: the clusters of the collaboration graph with the highest mean collaborative
    score of their neurons on the task (ours). A neuron's is (1 − λ)·|g| + λ·W|g|, |g| the mean over
    its weights and W the mean over its cluster, so that a cluster's is its mean |g|, whatever λ.
    Whole clusters cover about p (:func:`~fnsft.masks.ranking.highest_clusters`).

    ``ssu``: by :func:`column_scores`.
    """
    ids = [sample.ids for sample in samples]
    matrices = neuron_matrices(model, settings.neurons)
    match settings.method:
        case "active-neurons":
            scores = mean_activations(model, ids, settings.neurons)
        case "collab-static":
            scores = neuron_gradients(model, matrices, samples)
        case "ssu":
            wanda = settings.column_score == "wanda"
            norms = input_norms(model, ids, matrices) if wanda else None
            scores = [column_scores(matrix, norms, settings) for matrix in matrices]
        case _:
            raise AssertionError(f"method {settings.method!r} ranks neither neurons nor columns")
    assert settings.fraction is not None and settings.polarity is not None
    counts = [ranked_count(part.size, settings.fraction, settings.polarity) for part in scores]
    if settings.method == "collab-static":
        assert clusters is not None
        labels = [layer.labels for layer in clusters.layers]
        return [highest_clusters(*each) for each in zip(scores, labels, counts, strict=True)]
    return [
        highest(part, count, settings.seed, number)
        for number, (part, count) in enumerate(zip(scores, counts, strict=True))
    ]


def column_scores(
    matrix: MLPMatrix, norms: list[np.ndarray] | None, settings: TrainSettings
) -> np.ndarray:
    """Return SSU's score of every input of a matrix, float64 (Yamaguchi et al. 2025, 2512.04844).

    ``wanda``: Σ_i |W_ij|·‖x_j‖₂, x_j the input over all calibration tokens (Sun et al. 2023);
    ``magnitude``: Σ_i |W_ij|; ``random``: all alike, so that a hash decides. The last two are the
    paper's controls. That a column's score is the sum of its entries' is read from its description
    of whole columns, not from its code.
    """
    if settings.column_score == "random":
        return np.zeros(matrix.n_inputs)
    weight = matrix.view(matrix.parameter.detach())
    sums = weight.abs().sum(dim=1 - matrix.input_axis, dtype=widest(weight.device)).cpu().numpy()
    return sums if norms is None else sums * norms[matrix.index]
