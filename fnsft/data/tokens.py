"""Token ids of a prepared split, cut as a model meets them when it answers, and of plain text."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fnsft.artifacts.rows import numbered_rows, typed_row
from fnsft.artifacts.storage import existing, read_text
from fnsft.data.formats import Example
from fnsft.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


IGNORED = -100  # the label that the loss leaves out


@dataclass(frozen=True)
class Encoded:
    """One tokenised sample; the completion ends with the end of sequence."""

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]

    @property
    def ids(self) -> tuple[int, ...]:
        """All tokens of the sample."""
        return self.prompt_ids + self.completion_ids

    @property
    def labels(self) -> tuple[int, ...]:
        """The tokens that the loss is taken of; IGNORED in place of the prompt's."""
        return (IGNORED,) * len(self.prompt_ids) + self.completion_ids


@dataclass(frozen=True)
class EncodedSplit:
    """The samples of a split that are not too long, and how many were left out."""

    samples: list[Encoded]
    n_left_out: int

    @property
    def n_tokens(self) -> int:
        """Tokens of all samples."""
        return sum(len(sample.ids) for sample in self.samples)


def load_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """Load the tokenizer of a model folder; without a padding token, the end of sequence pads."""
    from transformers import AutoTokenizer  # seconds of import

    try:
        tokenizer = AutoTokenizer.from_pretrained(existing(folder), local_files_only=True)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{folder}: expected a tokenizer, found none ({reason})") from None
    if tokenizer.eos_token_id is None:
        raise InputError(f"{folder}: expected a tokenizer with an end of sequence, found none")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def encode(tokenizer: "PreTrainedTokenizerBase", example: Example) -> Encoded:
    """Tokenise prompt and completion apart, as generation does.

    The prompt has what the tokenizer puts before a text (a beginning of sequence, if it adds
    one) but nothing after it; the completion has no such tokens, and the end of sequence.
    """
    prompt = tokenizer(example.prompt)["input_ids"]
    prompt = prompt[: len(prompt) - _tokens_after_a_text(tokenizer)]
    completion = tokenizer(example.completion, add_special_tokens=False)["input_ids"]
    return Encoded(tuple(prompt), (*completion, tokenizer.eos_token_id))


def _tokens_after_a_text(tokenizer: "PreTrainedTokenizerBase") -> int:
    """Count what the tokenizer adds behind any text, by the text "a"."""
    text = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    start = next(i for i in range(len(whole)) if whole[i : i + len(text)] == text)
    return len(whole) - start - len(text)


def load_split(path: Path, tokenizer: "PreTrainedTokenizerBase", max_tokens: int) -> EncodedSplit:
    """Tokenise a prepared split; samples of more than ``max_tokens`` are left out, never cut.

    Raises
    ------
    InputError
        For a row without prompt and completion, one whose prompt has no token, and a split
        of which nothing is left.
    """
    samples = []
    shortest: int | None = None
    for number, row in numbered_rows(path):
        where = f"{path} line {number}"
        sample = encode(tokenizer, typed_row(Example, row, where))
        if not sample.prompt_ids:
            raise InputError(f"{where}: prompt: expected at least one token, found none")
        shortest = min(shortest or len(sample.ids), len(sample.ids))
        samples.append(sample)
    kept = [sample for sample in samples if len(sample.ids) <= max_tokens]
    if not kept:
        found = f"the shortest of {len(samples)} has {shortest}" if samples else "an empty file"
        raise InputError(
            f"{path}: expected a sample of at most max_tokens={max_tokens} tokens, found {found}"
        )
    return EncodedSplit(kept, len(samples) - len(kept))


@dataclass(frozen=True, eq=False)
class LazySamples(Sequence[tuple[int, ...]]):
    """All tokens of every sample; each is tokenised when it is asked for, since few may be."""

    sources: list[str | Example]
    tokenizer: "PreTrainedTokenizerBase"

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index: Any) -> Any:
        source = self.sources[index]
        if isinstance(source, Example):
            return encode(self.tokenizer, source).ids
        return tuple(self.tokenizer(source)["input_ids"])


def load_samples(path: Path, tokenizer: "PreTrainedTokenizerBase") -> LazySamples:
    """Read the samples of a prepared split, of rows with a ``text``, or of the lines of a .txt.

    A row has ``prompt`` and ``completion`` and nothing else, or ``text`` and anything else.
    Texts are tokenised as the tokenizer does by itself; blank lines of a .txt are no samples.

    Raises
    ------
    InputError
        For another kind of file, a row that has neither, and a file without a sample.
    """
    if path.suffix not in (".jsonl", ".txt"):
        raise InputError(f"{path}: expected rows in .jsonl or lines in .txt, found {path.suffix!r}")
    if path.suffix == ".txt":
        lines = read_text(path).splitlines()
        sources: list[str | Example] = [line for line in lines if line.strip()]
    else:
        sources = [_source(row, f"{path} line {n}") for n, row in numbered_rows(path)]
    if not sources:
        raise InputError(f"{path}: expected at least one sample, found none")
    return LazySamples(sources, tokenizer)


def _source(row: Any, where: str) -> str | Example:
    if not isinstance(row, dict) or "text" not in row:
        return typed_row(Example, row, where)
    if not isinstance(text := row["text"], str) or not text.strip():
        raise InputError(f"{where}: text: expected some text, found {text!r:.60}")
    return text
