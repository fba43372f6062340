"""Who sees which sample: a fixed validation split, and a training sample drawn by seed."""

import random
from dataclasses import dataclass

from fnsft.config.stages import PrepareSettings
from fnsft.data.formats import Example
from fnsft.errors import InputError


@dataclass(frozen=True)
class Splits:
    """Disjoint samples of one task."""

    train: list[Example]
    validation: list[Example]
    test: list[Example]


def split(rows: list[Example], test: list[Example] | None, settings: PrepareSettings) -> Splits:
    """Draw validation (and a missing test set) by ``split_seed``, then training by ``seed``.

    The validation samples are the same for every ``seed``, so that curves and the choice of a
    learning rate compare; what a seed changes is the training sample and its order, which
    then stays the same in every epoch.

    Raises
    ------
    InputError
        When there are fewer rows than the three splits need.
    """
    pool = list(rows)
    random.Random(settings.split_seed).shuffle(pool)
    if test is None:
        n_test = settings.n_test or settings.n_validation
        test, pool = pool[:n_test], pool[n_test:]
    validation, pool = pool[: settings.n_validation], pool[settings.n_validation :]
    if len(pool) < settings.n_train:
        raise InputError(
            f"n_train: expected at most {len(pool)}, found {settings.n_train}: the training file "
            f"has {len(rows)} rows, of which {len(rows) - len(pool)} are held out; lower n_train "
            "or n_validation"
        )
    train = random.Random(settings.seed).sample(pool, settings.n_train)
    return Splits(train, validation, test[: settings.n_test])


def shared_prompts(splits: Splits) -> int:
    """Count the training samples whose prompt is also a validation or test prompt."""
    held_out = {example.prompt for example in (*splits.validation, *splits.test)}
    return sum(example.prompt in held_out for example in splits.train)
