"""Token statistics: how often every token of the vocabulary occurs, and its rank."""

import dataclasses
from pathlib import Path

import numpy as np

from fnsft.artifacts.tensors import Header, read_tensors, write_tensors
from fnsft.errors import InputError

KIND, SCHEMA = "token-statistics", 1


@dataclasses.dataclass(frozen=True, eq=False)
class TokenStatistics:
    """``counts`` [vocabulary] int64, and ``ranks`` [vocabulary] float64, 1 the most frequent."""

    counts: np.ndarray
    ranks: np.ndarray


def write_statistics(path: Path, statistics: TokenStatistics, model: str) -> None:
    """Write token statistics of the model with this identity."""
    tensors = {"counts": statistics.counts, "ranks": statistics.ranks}
    write_tensors(path, Header(KIND, SCHEMA, model), tensors)


def read_statistics(path: Path, model: str | None = None) -> TokenStatistics:
    """Read token statistics; when ``model`` is given they must be of that model."""
    _, tensors = read_tensors(path, KIND, SCHEMA, model)
    if set(tensors) != {"counts", "ranks"} or tensors["counts"].shape != tensors["ranks"].shape:
        raise InputError(f"{path}: expected counts and ranks of one length; make it anew")
    return TokenStatistics(**tensors)
