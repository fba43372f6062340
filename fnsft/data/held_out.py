"""Which rows train and which are held out, drawn by seed, and whether one is among the other."""

import hashlib
import heapq
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from fnsft.config.presets import TaskPreset
from fnsft.config.stages import DataSettings
from fnsft.data.formats import Example
from fnsft.errors import InputError

VALIDATION_NAMES = ("validation", "valid", "val", "dev", "eval")

Group = list[Example]  # the samples of one row, such as the turns of a conversation


@dataclass(frozen=True)
class Roles:
    """What each split is for; without a ``validation`` split a fraction is held out."""

    train: str
    validation: str | None
    test: str | None


def roles_of(
    splits: Collection[str], preset: TaskPreset | None, settings: DataSettings, where: str
) -> Roles:
    """Find out which splits train, validate and test: the settings, then the preset, then names.

    Raises
    ------
    InputError
        For a split that is not there, and one that would both train and validate.
    """
    told = preset.preset if preset else None
    train = settings.data_split
    if told and train == "train" and told.train in splits:
        train = told.train
    known = ", ".join(splits)
    for name, split in (("data_split", train), ("validation_split", settings.validation_split)):
        if split is not None and split not in splits:
            raise InputError(f"{name}: expected one of {known}, found {split!r} ({where})")
    if train == settings.validation_split:
        raise InputError(
            f"validation_split: expected another split than the one trained on, found {train!r}; "
            f"{where} has {known}; leave it off to hold out a fraction"
        )
    others = [split for split in splits if split != train]
    wanted = (settings.validation_split, told and told.validation, *VALIDATION_NAMES)
    validation = next((split for split in wanted if split in others), None)
    tests = (told and told.test, "test")
    test = next((split for split in tests if split in others and split != validation), None)
    return Roles(train, validation, test)


def drawn(groups: Iterable[tuple[int, Group]], n: int | None, seed: int) -> list[Group]:
    """Return ``n`` rows (all when None) in an order that the seed gives to row numbers.

    The first rows of a longer draw are those of a shorter one. No more than ``n`` are held.
    """
    keyed = ((_place(number, seed), number, group) for number, group in groups)
    ordered = sorted(keyed) if n is None else heapq.nsmallest(n, keyed)
    return [group for _, _, group in ordered]


def _place(number: int, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed} {number}".encode(), digest_size=16).digest()


def n_held_out(groups: list[Group], n_rows: int, max_samples: int) -> int:
    """Count the first rows that hold at most ``max_samples`` samples: 1 to ``n_rows``."""
    n_samples = 0
    for number, group in enumerate(groups[:n_rows]):
        n_samples += len(group)
        if number and n_samples > max_samples:
            return number
    return n_rows


@dataclass(frozen=True)
class Compared:
    """Training samples beside held-out ones; ``n_repeats`` of those kept have another's prompt."""

    kept: list[Example]
    n_held_out: int
    n_repeats: int


def compared(train: list[Example], held_out: Collection[bytes], leave_out: bool) -> Compared:
    """Count the training samples whose digest is a held-out one's, and leave them out if told."""
    kept, seen, n_matches = [], set(), 0
    for example in train:
        matches = (digest := prompt_digest(example)) in held_out
        n_matches += matches
        if not (matches and leave_out):
            kept.append(example)
            seen.add(digest)
    return Compared(kept, n_matches, len(kept) - len(seen))


def prompt_digest(example: Example) -> bytes:
    """Return 16 bytes for a prompt, or for a text that has none, whatever its case and spaces."""
    words = (example.prompt or example.completion).casefold().split()
    return hashlib.blake2b(" ".join(words).encode(), digest_size=16).digest()
