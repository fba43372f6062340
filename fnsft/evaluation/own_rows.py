"""Anyone's rows as what a model is measured on, written as its training wrote its samples."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fnsft.artifacts import prompt_formats
from fnsft.artifacts.prompt_formats import Kind, PromptFormat, read_prompt_format
from fnsft.config.presets import TaskPreset
from fnsft.data.formats import Example
from fnsft.data.reading import Reader
from fnsft.data.row_files import Rows, read_rows_by_split
from fnsft.data.schemas import reader_of
from fnsft.data.templates import choose_format, render
from fnsft.data.tokens import Encoder, load_tokenizer
from fnsft.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Score = Literal["none", "number", "exact"]
SPLITS = ("test", "validation", "train")  # the first that is there is measured


@dataclass(frozen=True)
class OwnRows:
    """Samples, each with where it is from; ``lines`` for the user, ``notes`` for the manifest."""

    where: str
    samples: Sequence[tuple[str, Example]]
    score: Score
    lines: tuple[str, ...]
    notes: dict[str, Any]


def read_own_rows(
    path: Path, model: Path, preset: TaskPreset | None, columns: str, score: Score | None
) -> OwnRows:
    """Read the rows of a file or folder, and write them as the model in a folder was trained.

    Of several splits the one that tests is read, else the one that validates. ``score`` is the
    preset's when it is not given.

    Raises
    ------
    InputError
        For rows that cannot be read, that are written already, of which none has an answer, and
        that are not what the model was trained on; and for a score of texts without a prompt.
    """
    splits = read_rows_by_split(path)
    if ((path if path.is_dir() else path.parent) / prompt_formats.NAME).is_file():
        raise InputError(
            f"{path}: rows: expected raw rows, found prepared ones; give a split with --exact, "
            "--gsm8k or --perplexity"
        )
    name = next(name for name in SPLITS if name in splits)
    rows = splits[name]
    reader = reader_of(rows, preset, columns)
    kind = reader.schema.kind
    score = score or (preset.preset.score if preset else "none")
    if kind == "text" and score != "none":
        raise InputError(f"{rows.where}: score: texts have no prompt to answer; use --score none")
    tokenizer = load_tokenizer(model)
    format = _format_of(model, tokenizer, kind)
    samples = list(_written(rows, reader, format, tokenizer))
    if not samples:
        raise InputError(f"{rows.where}: expected a row with an answer, found {reader.omitted()}")
    lines = [f"{rows.where}: {len(samples):,} samples, {reader.described}", *rows.said]
    lines += [f"{rows.where}: left out {reader.omitted()}"] if reader.left_out else []
    lines += [f"{rows.where}: not used: {', '.join(reader.unused)}"] if reader.unused else []
    lines.append(f"template: {format.template}; score: {score}")
    notes = {"rows_of": rows.where, "split": name, "read_as": reader.described}
    notes |= {"left_out": reader.omitted(), "template": format.template, "score": score}
    return OwnRows(rows.where, samples, score, tuple(lines), notes)


def _format_of(folder: Path, tokenizer: "PreTrainedTokenizerBase", kind: Kind) -> PromptFormat:
    """Return how the model was trained; without a record of prompts, what training would choose."""
    recorded = read_prompt_format(folder)
    if recorded is None or "text" in (recorded.kind, kind):
        return choose_format("auto", kind, "", tokenizer)
    if recorded.template == "basic" and recorded.kind != kind:
        raise InputError(
            f"rows: expected samples of kind {recorded.kind}, which {folder} was trained on, found "
            f"kind {kind}; say with --columns or --preset how they are read"
        )
    return recorded


def _written(
    rows: Rows, reader: Reader, format: PromptFormat, tokenizer: "PreTrainedTokenizerBase"
) -> Iterator[tuple[str, Example]]:
    for number, row in rows:
        where = f"{rows.where} row {number}"
        for sample in reader.samples(number, row):
            try:
                yield where, render(format, tokenizer, sample)
            except InputError as error:
                raise InputError(f"{where}: {error}") from None


def require_room(
    samples: Iterable[tuple[str, Example]], encoder: Encoder, longest: int | None
) -> None:
    """Refuse prompts of more than ``longest`` tokens, behind which an answer has no place."""
    for where, example in samples:
        n_tokens = len(encoder.encode(example).prompt_ids)
        if longest is not None and n_tokens > longest:
            raise InputError(
                f"{where}: expected at most {max(longest, 0):,} tokens, so that the prompt and "
                f"max_new_tokens fit into the model's positions, found {n_tokens:,}; shorten it, "
                "or lower --max-new-tokens"
            )
