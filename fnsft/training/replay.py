"""Samples of earlier stages among a stage's own (experience replay; Chaudhry et al. 2019)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from fnsft.artifacts.storage import existing
from fnsft.config.stages import TrainSettings
from fnsft.errors import InputError
from fnsft.training.own_data import is_prepared

T = TypeVar("T")


@dataclass(frozen=True)
class Mixture(Generic[T]):
    """Samples in the order of training, and how many of them are replayed from each folder."""

    samples: list[T]
    counts: tuple[int, ...] = ()

    @property
    def n_replayed(self) -> int:
        """Samples of earlier stages."""
        return sum(self.counts)


def require_replay(folders: Sequence[Path], settings: TrainSettings, stage: int) -> None:
    """Refuse folders that do not fit the settings or the stage, before anything is read.

    In a first stage a fraction without folders says nothing: one method serves all stages.

    Raises
    ------
    InputError
        For a fraction without folders in a later stage, folders without a fraction, one that is
        not prepared, and one that is named twice.
    """
    fraction = settings.replay_fraction
    if fraction and not folders and stage > 1:
        raise InputError(
            f"replay_fraction: {fraction:g} of stage {stage} needs data of earlier stages, found "
            "none; give their prepared folders with --replay"
        )
    if folders and not fraction:
        raise InputError(
            "--replay: expected a replay_fraction above 0, found 0; give --replay-fraction, or "
            "leave --replay out"
        )
    for folder in folders:
        if not is_prepared(existing(folder)):
            raise InputError(f"--replay: {folder}: expected a folder of fnsft prepare, found other")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise InputError("--replay: expected every folder once, found one twice; name it once")


def with_replay(
    own: Sequence[T], pools: Sequence[Sequence[T]], fraction: float, seed: int
) -> Mixture[T]:
    """Mix round(fraction · n) samples of the pools into n own ones.

    They are drawn without replacement, over the pools as evenly as their sizes allow, and stand
    at random places; own samples keep their order.

    Raises
    ------
    InputError
        When all pools together hold fewer.
    """
    if not pools:
        return Mixture(list(own))
    n = round(fraction * len(own))
    counts = even_counts(n, [len(pool) for pool in pools])
    rng = np.random.default_rng((seed, n))
    drawn = [
        pool[index]
        for pool, count in zip(pools, counts, strict=True)
        for index in rng.choice(len(pool), count, replace=False)
    ]
    replayed = iter([drawn[index] for index in rng.permutation(n)])
    is_replayed = np.zeros(len(own) + n, dtype=bool)
    is_replayed[rng.permutation(len(own) + n)[:n]] = True
    rest = iter(own)
    mixed = [next(replayed) if replay else next(rest) for replay in is_replayed]
    return Mixture(mixed, tuple(counts))


def even_counts(n: int, sizes: Sequence[int]) -> list[int]:
    """Share n samples over pools as evenly as their sizes allow.

    A pool that is too small gives all it has; what cannot be shared evenly comes from larger
    pools, of equal ones the later.

    Raises
    ------
    InputError
        When all pools together hold fewer than n.
    """
    if n > sum(sizes):
        raise InputError(
            f"replay_fraction: expected {n} samples of earlier stages, found {sum(sizes)}; lower "
            "it, or give more folders"
        )
    counts, left = [0] * len(sizes), n
    ascending = sorted(range(len(sizes)), key=lambda pool: sizes[pool])
    for place, pool in enumerate(ascending):
        counts[pool] = min(sizes[pool], left // (len(sizes) - place))
        left -= counts[pool]
    return counts
