"""Anyone's rows as a prepared folder: read, rendered, held out, compared, and shown.

Rows are streams: memory grows with the rendered text of the training and validation rows that
are drawn (all, unless ``max_samples`` is given), and by 16 bytes a sample that is compared.
"""

import dataclasses
import functools
import itertools
import random
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from fnsft.artifacts.prompt_formats import PromptFormat, write_prompt_format
from fnsft.artifacts.storage import write_jsonl, written_whole
from fnsft.config.presets import TaskPreset
from fnsft.config.stages import DataSettings
from fnsft.data.formats import Example
from fnsft.data.held_out import (
    Compared,
    Group,
    compared,
    drawn,
    n_held_out,
    prompt_digest,
    roles_of,
)
from fnsft.data.row_files import Rows
from fnsft.data.schemas import Reader, reader_of
from fnsft.data.shown import shown
from fnsft.data.templates import choose_format, render
from fnsft.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

N_SHOWN = 3


@dataclass(frozen=True)
class Preparation:
    """What was prepared: ``notes`` for the manifest, and lines for the user."""

    summary: tuple[str, ...]
    samples: tuple[Example, ...]
    tokenizer: "PreTrainedTokenizerBase"
    stop_ids: frozenset[int]
    notes: dict[str, Any]

    def lines(self, terminal: bool | None = None) -> list[str]:
        """Return the summary and the first training samples, as the model will see them.

        On a terminal (stderr, when not told) the prompt is dim and the answer bold.
        """
        styled = sys.stderr.isatty() if terminal is None else terminal
        lines = list(self.summary)
        for number, example in enumerate(self.samples, start=1):
            lines.append(f"--- training sample {number} ---")
            lines += shown(self.tokenizer, example, styled, self.stop_ids)
        return lines


def prepare(
    rows: dict[str, Rows],
    validation: Rows | None,
    preset: TaskPreset | None,
    settings: DataSettings,
    tokenizer: "PreTrainedTokenizerBase",
    folder: Path,
    stop_ids: Iterable[int] = (),
) -> Preparation:
    """Write ``train.jsonl``, ``validation.jsonl``, ``test.jsonl`` and ``prompt_format.json``.

    Rows are held out, never single turns of a conversation. Which ones is decided by
    ``data_seed`` and their numbers: they are the same for any ``max_samples``. With
    ``streaming``, though, the first ``max_samples`` rows are all that is read, and a fraction
    of these is held out. A test split is kept whole where it can be read, and not streamed.

    Parameters
    ----------
    rows
        By split.
    validation
        Rows of a file of their own, which validate in place of any split.
    stop_ids
        Of the model (:func:`fnsft.data.tokens.stop_ids_of`), for the samples that are shown.

    Raises
    ------
    InputError
        For splits, rows and fields that are not as expected, and when no sample is left to
        train or to validate with; nothing is written then.
    """
    splits = _splits(rows, validation, preset, settings, tokenizer)
    train = splits["train"]
    with written_whole(folder) as partial:
        partial.mkdir()
        training, held_out = _drawn_apart(train, splits.get("validation"), settings)
        digests = {prompt_digest(example) for example in held_out}
        if "test" in splits:
            digests |= _write_test(splits["test"], partial / "test.jsonl")
        found = compared(training, digests, settings.deduplicate)
        if not found.kept:
            raise InputError(
                f"{train.rows.where}: expected samples to train on, found {len(training):,}, all "
                "with a held-out one's prompt; check --columns, or use --no-deduplicate"
            )
        # In the order of the draw, the turns of a conversation would follow each other.
        random.Random(settings.data_seed).shuffle(found.kept)
        write_jsonl(partial / "train.jsonl", (example.row() for example in found.kept))
        write_jsonl(partial / "validation.jsonl", (example.row() for example in held_out))
        write_prompt_format(partial, as_written(train.format, found.kept))
    return _told(splits, found, len(held_out), settings, frozenset(stop_ids))


def as_written(format: PromptFormat, examples: Sequence[Example]) -> PromptFormat:
    """Note how plain prompts and answers meet, which depends on the answers."""
    if (format.template, format.kind) != ("basic", "plain"):
        return format
    n_spaced = sum(example.completion[:1].isspace() for example in examples)
    return dataclasses.replace(format, spaced=2 * n_spaced > len(examples))


@dataclass
class _Split:
    """A split that is read and rendered; ``n_rows`` and ``n_used`` count rows as it is."""

    name: str
    rows: Rows
    preset: TaskPreset | None
    settings: DataSettings
    tokenizer: "PreTrainedTokenizerBase"
    format: PromptFormat
    n_streamed: int | None = None  # rows that are read of a stream
    n_rows: int = 0
    n_used: int = 0
    refused: str = ""

    @functools.cached_property
    def reader(self) -> Reader:
        reader, kind = reader_of(self.rows, self.preset, self.settings.columns), self.format.kind
        if reader.schema.kind != kind:
            raise InputError(
                f"{self.rows.where}: expected rows of the kind that trains, {kind}, found "
                f"{reader.described}; name the same fields in both, or say which with --columns"
            )
        return reader

    def groups(self) -> Iterator[tuple[int, Group]]:
        """Yield the numbers and rendered samples of all rows that have any."""
        reader = self.reader
        rows = itertools.islice(self.rows, self.n_streamed)
        for number, row in tqdm(rows, desc=f"read {self.name}", unit="row", disable=None):
            self.n_rows += 1
            samples = reader.samples(number, row, self.settings.turns)
            try:
                group = [render(self.format, self.tokenizer, sample) for sample in samples]
            except InputError as error:
                raise InputError(f"{self.rows.where} row {number}: {error}") from None
            if group:
                self.n_used += 1
                yield number, group
        if not self.n_used:
            raise InputError(
                f"{self.rows.where}: expected a row with an answer, found {reader.omitted()}"
            )

    def lines(self) -> list[str]:
        """Say where the rows are from, how they were read, and what was left out."""
        where = f"{self.name}: {self.rows.where}"
        if self.refused:
            return [f"{where}: left out ({self.refused})"]
        lines = [f"{where}: {self.n_rows:,} rows, {self.reader.described}", *self.rows.said]
        if self.reader.unused:
            lines.append(f"{self.name}: not used: the fields {', '.join(self.reader.unused)}")
        if self.reader.left_out:
            lines.append(f"{self.name}: left out {self.reader.omitted()}")
        return lines

    def notes(self) -> dict[str, Any]:
        """Return the same for the manifest."""
        if self.refused:
            return {"rows_of": self.rows.where, "refused": self.refused}
        return {
            "rows_of": self.rows.where,
            "rows": self.n_rows,
            "rows_used": self.n_used,
            "read_as": self.reader.described,
            "fields_not_used": list(self.reader.unused),
            "left_out": {
                reason: {"rows": count, "first_row": first}
                for reason, (count, first) in self.reader.left_out.items()
            },
        }


def _splits(
    rows: dict[str, Rows],
    validation: Rows | None,
    preset: TaskPreset | None,
    settings: DataSettings,
    tokenizer: "PreTrainedTokenizerBase",
) -> dict[str, _Split]:
    """Open the splits that train, validate and test, all of them in the format of the first."""
    roles = roles_of(rows, preset, settings, next(iter(rows.values())).where)
    if settings.streaming and settings.max_samples is None:
        raise InputError("streaming: would hold every row; give --max-samples with it")
    if validation is None and roles.validation:
        validation = rows[roles.validation]
    train = rows[roles.train]
    reader = reader_of(train, preset, settings.columns)
    format = choose_format(settings.template, reader.schema.kind, settings.system, tokenizer)

    def opened(name: str, rows: Rows, n_streamed: int | None) -> _Split:
        limit = n_streamed if settings.streaming else None
        return _Split(name, rows, preset, settings, tokenizer, format, limit)

    splits = {"train": opened("train", train, settings.max_samples)}
    splits["train"].reader = reader
    if validation is not None:
        cap = settings.max_validation_samples
        splits["validation"] = opened("validation", validation, cap)
    if roles.test and not settings.streaming:
        splits["test"] = opened("test", rows[roles.test], None)
    return splits


def _drawn_apart(
    train: _Split, validation: _Split | None, settings: DataSettings
) -> tuple[Group, Group]:
    """Return training and validation samples, of rows that are drawn by ``data_seed``."""
    seed, n, cap = settings.data_seed, settings.max_samples, settings.max_validation_samples
    if validation is not None:
        pool = drawn(validation.groups(), cap, seed)
        held_out = pool[: n_held_out(pool, len(pool), cap)]
        training = drawn(train.groups(), n, seed)
    else:
        pool = drawn(train.groups(), n and n + cap, seed)
        if train.n_used < 2:
            raise InputError(
                f"{train.rows.where}: expected at least 2 rows, of which one validates, found "
                f"{train.n_used}; give more, or a validation file (--validation)"
            )
        n_wanted = max(1, round(settings.validation_fraction * train.n_used))
        n_held = n_held_out(pool, min(n_wanted, len(pool) - 1), cap)
        # A trial on a few rows does not validate on more.
        held_out, training = pool[:n_held][:n], pool[n_held:][:n]
    return list(itertools.chain(*training)), list(itertools.chain(*held_out))


def _write_test(test: _Split, path: Path) -> set[bytes]:
    """Write the samples that test and return their digests; rows without answers leave none."""
    digests: set[bytes] = set()

    def rows() -> Iterator[dict[str, Any]]:
        for _, group in test.groups():
            digests.update(map(prompt_digest, group))
            yield from (example.row() for example in group)

    try:
        write_jsonl(path, rows())
    except InputError as error:  # published test splits often lack the answers
        test.refused = str(error)
        return set()
    return digests


def _told(
    splits: dict[str, _Split],
    found: Compared,
    n_validation: int,
    settings: DataSettings,
    stop_ids: frozenset[int],
) -> Preparation:
    """Put what was found into lines and notes."""
    train = splits["train"]
    why = "" if settings.template != "auto" else ", " + _reason(train.format)
    held_out = "" if "validation" in splits else ", rows drawn from the training split"
    summary = [line for split in splits.values() for line in split.lines()]
    summary.append(f"template: {train.format.template}{why}")
    if found.n_held_out:
        done = "left out" if settings.deduplicate else "kept (--no-deduplicate)"
        summary.append(
            f"duplicates: {found.n_held_out:,} training samples have the prompt of a held-out "
            f"one: {done}"
        )
    if found.n_repeats:
        summary.append(
            f"duplicates: {found.n_repeats:,} training samples repeat the prompt of another: kept"
        )
    summary.append(f"samples: {len(found.kept):,} train, {n_validation:,} validate{held_out}")
    notes = {
        "template": train.format.template,
        "kind": train.format.kind,
        "train_samples": len(found.kept),
        "validation_samples": n_validation,
        "train_samples_with_held_out_prompt": found.n_held_out,
        "train_samples_with_repeated_prompt": found.n_repeats,
        "splits": {name: split.notes() for name, split in splits.items()},
    }
    samples = tuple(found.kept[:N_SHOWN])
    return Preparation(tuple(summary), samples, train.tokenizer, stop_ids, notes)


def _reason(format: PromptFormat) -> str:
    """Say why ``auto`` chose a template."""
    if format.kind == "text":
        return "texts stand as they are"
    if format.template == "chat":
        return "the tokenizer's own"
    return f"the tokenizer has no chat template, and this fits the kind {format.kind}"
