"""Histograms of a partition's Score on unseen tokens, as multiples of its Null.

``layer_003.clusters.published`` and its like are int64 [BINS + 1]: tokens whose Score / Null
lies in each of ``BINS`` bins from 0 to ``HIGHEST``, and in the last place those beyond. The
partitions are ``clusters`` (spectral) and ``parameters`` (k-means on the up-projection); the
scores ``published`` and ``unbiased`` (:mod:`fnsft.neurons.scores`).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fnsft.artifacts.tensors import Header, read_tensors, write_tensors
from fnsft.errors import InputError

KIND, SCHEMA = "score-histograms", 1
BINS, HIGHEST = 200, 4.0
PARTITIONS, SCORES = ("clusters", "parameters"), ("published", "unbiased")

Histograms = dict[tuple[str, str], np.ndarray]  # by partition and score


@dataclass(frozen=True, eq=False)
class ScoreHistograms:
    """Every layer's histograms, and the ``source`` of its graph (see Measure)."""

    layers: list[Histograms]
    source: str


def write_histograms(path: Path, histograms: ScoreHistograms, model: str) -> None:
    """Write the histograms of the model with this identity."""
    tensors = {"source": np.frombuffer(histograms.source.encode(), dtype=np.uint8)}
    for number, layer in enumerate(histograms.layers):
        for (partition, score), counts in layer.items():
            tensors[f"layer_{number:03d}.{partition}.{score}"] = counts
    write_tensors(path, Header(KIND, SCHEMA, model), tensors)


def read_histograms(path: Path) -> ScoreHistograms:
    """Read histograms."""
    _, tensors = read_tensors(path, KIND, SCHEMA)
    n_layers = (len(tensors) - 1) // (len(PARTITIONS) * len(SCORES))
    try:
        layers = [
            {
                (partition, score): tensors[f"layer_{number:03d}.{partition}.{score}"]
                for partition in PARTITIONS
                for score in SCORES
            }
            for number in range(n_layers)
        ]
        source = bytes(tensors["source"]).decode()
    except KeyError as error:
        raise InputError(f"{path}: damaged ({error} is missing); measure anew") from None
    return ScoreHistograms(layers, source)
