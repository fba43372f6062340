"""Token ids of a prepared split, cut as a model meets them when it answers, and of plain text."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from fnsft.artifacts.exhaustion import in_short
from fnsft.artifacts.rows import numbered_rows, typed_row
from fnsft.artifacts.storage import existing, read_json, read_text
from fnsft.data.formats import Example
from fnsft.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


IGNORED = -100  # the label that the loss leaves out


@dataclass(frozen=True)
class Encoded:
    """One tokenised sample; the completion ends with a token that stops generation.

    So does the rejected answer of a pair, whose chosen one is the completion.
    """

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    rejected_ids: tuple[int, ...] = ()

    @property
    def ids(self) -> tuple[int, ...]:
        """The tokens of prompt and completion."""
        return self.prompt_ids + self.completion_ids

    @property
    def with_rejected(self) -> "Encoded":
        """The prompt with the rejected answer of a pair alone."""
        return Encoded(self.prompt_ids, self.rejected_ids)

    @property
    def longest(self) -> int:
        """Tokens of the prompt with its longer answer."""
        return len(self.prompt_ids) + max(len(self.completion_ids), len(self.rejected_ids))

    @property
    def labels(self) -> tuple[int, ...]:
        """The tokens that the loss is taken of; IGNORED in place of the prompt's."""
        return (IGNORED,) * len(self.prompt_ids) + self.completion_ids


@dataclass(frozen=True)
class EncodedSplit:
    """The samples of a split that are not too long, and how many were left out.

    ``n_unfinished`` of the samples are pieces of ``n_texts_cut`` texts that go on in the next
    piece: they alone end without a token of ``stop_ids``. ``in_positions`` says that
    ``max_tokens`` is as many as the model has positions, and less than was asked for.
    """

    samples: list[Encoded]
    n_left_out: int
    longest_left_out: int = 0
    max_tokens: int = 0
    n_texts_cut: int = 0
    n_unfinished: int = 0
    stop_ids: frozenset[int] = frozenset()
    in_positions: bool = False

    @property
    def n_tokens(self) -> int:
        """Tokens of all samples."""
        return sum(len(sample.ids) for sample in self.samples)


def load_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """Load the tokenizer of a model folder; without a padding token, the end of sequence pads."""
    from transformers import AutoTokenizer  # seconds of import

    try:
        tokenizer = AutoTokenizer.from_pretrained(existing(folder), local_files_only=True)
    except Exception as error:  # tokenizers has no narrower one for a file that is cut short
        reason = in_short(error)
        raise InputError(f"{folder}: expected a tokenizer, found none ({reason})") from None
    if tokenizer.eos_token_id is None:
        raise InputError(
            f"{folder}: expected a tokenizer with an end of sequence, found none; name its token "
            "as eos_token in tokenizer_config.json"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def stop_ids_of(folder: Path) -> frozenset[int]:
    """Return the tokens at which a model's generation stops, by its generation_config.json."""
    path = folder / "generation_config.json"
    found = read_json(path).get("eos_token_id") if path.is_file() else None
    return frozenset(found if isinstance(found, list) else [] if found is None else [found])


def positions_of(folder: Path) -> int | None:
    """Return how many tokens a model has positions for, None where its folder does not say."""
    from transformers import AutoConfig

    if not (folder / "config.json").is_file():  # an adapter's
        return None
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    return getattr(config.get_text_config(), "max_position_embeddings", None)


@dataclass(frozen=True, eq=False)
class Encoder:
    """Tokenises prompt and completion apart, as generation does.

    The prompt has what the tokenizer puts before a text (a beginning of sequence, if it adds
    one and the template has not written it) but nothing after it. The completion ends with
    exactly one of ``stop_ids``: what a template writes behind such a token is left out, and
    where there is none the end of sequence is added.
    """

    tokenizer: "PreTrainedTokenizerBase"
    stop_ids: frozenset[int]
    ids_before: list[int]  # that the tokenizer adds before any text
    n_after: int  # tokens that it adds behind
    line_ids: list[int]  # of a line break, where a text's beginning is marked; else none

    @classmethod
    def of(cls, tokenizer: "PreTrainedTokenizerBase", stop_ids: Iterable[int] = ()) -> Self:
        """Find out what the tokenizer adds around a text, by the text "a"."""

        def ids(text: str) -> list[int]:
            return tokenizer(text, add_special_tokens=False)["input_ids"]

        text, line, both = ids("a"), ids("\n"), ids("\na")
        whole = tokenizer("a")["input_ids"]
        start = next(i for i in range(len(whole)) if whole[i : i + len(text)] == text)
        before, n_after = whole[:start], len(whole) - start - len(text)
        # SentencePiece writes "a" as "▁a" at a text's beginning, which a completion is not.
        marked = both[: len(line)] == line and both[len(line) :] != text
        stops = frozenset(stop_ids) | {tokenizer.eos_token_id}
        return cls(tokenizer, stops, before, n_after, line if marked else [])

    def encode(self, example: Example) -> Encoded:
        """Tokenise one sample; without a prompt its first token has no prediction."""
        prompt = self._ids(example.prompt, example.special_tokens)
        if example.special_tokens:
            prompt = prompt[: len(prompt) - self.n_after]
        write = self._continuation if example.prompt else self._ids
        completion = self._ended(write(example.completion))
        rejected = [] if example.rejected is None else self._ended(write(example.rejected))
        if not prompt:
            prompt, completion = completion[:1], completion[1:]
        return Encoded(tuple(prompt), tuple(completion), tuple(rejected))

    def _ids(self, text: str, special_tokens: bool = False) -> list[int]:
        return self.tokenizer(text, add_special_tokens=special_tokens)["input_ids"]

    def _continuation(self, text: str) -> list[int]:
        """Tokenise a text that stands behind another one."""
        n_line = len(self.line_ids)
        behind_a_line = self._ids("\n" + text) if n_line else []
        if n_line and behind_a_line[:n_line] == self.line_ids:
            return behind_a_line[n_line:]
        return self._ids(text)

    def _ended(self, ids: list[int]) -> list[int]:
        """Cut behind the first stop token that only white space and stop tokens follow."""
        end = None
        for place in reversed(range(len(ids))):
            if ids[place] in self.stop_ids:
                end = place + 1
            elif self.tokenizer.decode([ids[place]]).strip():
                break
        return [*ids, self.tokenizer.eos_token_id] if end is None else ids[:end]


def encode(
    tokenizer: "PreTrainedTokenizerBase", example: Example, stop_ids: Iterable[int] = ()
) -> Encoded:
    """Tokenise one sample, as :class:`Encoder` does for many."""
    return Encoder.of(tokenizer, stop_ids).encode(example)


def pieces_of(sample: Encoded, max_tokens: int) -> list[Encoded]:
    """Cut a text into pieces of ``max_tokens``; a piece begins with the last token before it.

    So every token but the text's first is predicted once.
    """
    pieces = []
    for start in range(0, len(sample.ids) - 1, max_tokens - 1):
        ids = sample.ids[start : start + max_tokens]
        n_prompt = 1 if start else len(sample.prompt_ids)
        pieces.append(Encoded(ids[:n_prompt], ids[n_prompt:]))
    return pieces


def load_split(
    path: Path,
    tokenizer: "PreTrainedTokenizerBase",
    max_tokens: int,
    stop_ids: Iterable[int] = (),
    positions: int | None = None,
) -> EncodedSplit:
    """Tokenise a prepared split.

    Samples of more than ``max_tokens``, or the model's ``positions``, are left out, never cut
    (a pair with the longer answer), unless they have no prompt: such texts become pieces.
    ``stop_ids`` end answers beside the tokenizer's end of sequence.

    Raises
    ------
    InputError
        For a row without prompt and completion, one of less than two tokens, and a split of
        which nothing is left.
    """
    examples = (
        (where := f"{path} line {number}", typed_row(Example, row, where))
        for number, row in numbered_rows(path)
    )
    encoder = Encoder.of(tokenizer, stop_ids)
    return encode_split(examples, str(path), encoder, max_tokens, positions)


def encode_split(
    examples: Iterable[tuple[str, Example]],
    where: str,
    encoder: Encoder,
    max_tokens: int,
    positions: int | None = None,
) -> EncodedSplit:
    """Tokenise samples, each with the place that it is from, as :func:`load_split` does."""
    in_positions = positions is not None and positions < max_tokens
    longest = positions if positions is not None and in_positions else max_tokens
    kept: list[Encoded] = []
    left_out: list[int] = []  # tokens
    n_texts_cut = n_unfinished = 0
    for place, example in examples:
        sample = encoder.encode(example)
        if not sample.completion_ids:
            raise InputError(f"{place}: expected a prompt or a completion, found neither")
        if example.rejected is not None and not example.prompt:
            raise InputError(f"{place}: expected a prompt before two answers, found none")
        if sample.longest <= longest:
            kept.append(sample)
        elif example.prompt:
            left_out.append(sample.longest)
        else:
            pieces = pieces_of(sample, longest)
            n_texts_cut, n_unfinished = n_texts_cut + 1, n_unfinished + len(pieces) - 1
            kept += pieces
    if not kept:
        limit, remedy = f"max_tokens={longest} tokens", "raise max_tokens"
        if in_positions:
            limit, remedy = f"{longest} tokens, the model's positions", "use shorter samples"
        found = "an empty file"
        if left_out:
            found = f"the shortest of {len(left_out)} has {min(left_out)}; {remedy}"
        raise InputError(f"{where}: expected a sample of at most {limit}, found {found}")
    return EncodedSplit(
        kept,
        len(left_out),
        max(left_out, default=0),
        longest,
        n_texts_cut,
        n_unfinished,
        encoder.stop_ids,
        in_positions,
    )


def load_split_of(model: Path, path: Path, max_tokens: int) -> EncodedSplit:
    """Tokenise a prepared split as the model in a folder is trained on it."""
    tokenizer = load_tokenizer(model)
    return load_split(path, tokenizer, max_tokens, stop_ids_of(model), positions_of(model))


@dataclass(frozen=True, eq=False)
class LazySamples(Sequence[tuple[int, ...]]):
    """All tokens of every sample; each is tokenised when it is asked for, since few may be."""

    sources: list[str | Example]
    encoder: Encoder

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index: Any) -> Any:
        source = self.sources[index]
        if isinstance(source, Example):
            return self.encoder.encode(source).ids
        return tuple(self.encoder.tokenizer(source)["input_ids"])


def load_samples(
    path: Path, tokenizer: "PreTrainedTokenizerBase", stop_ids: Iterable[int] = ()
) -> LazySamples:
    """Read the samples of a prepared split, of rows with a ``text``, or of the lines of a .txt.

    A row has ``prompt`` and ``completion`` and nothing else, or ``text`` and anything else;
    ``stop_ids`` end completions beside the tokenizer's end of sequence.
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
    return LazySamples(sources, Encoder.of(tokenizer, stop_ids))


def _source(row: Any, where: str) -> str | Example:
    if not isinstance(row, dict) or "text" not in row:
        return typed_row(Example, row, where)
    if not isinstance(text := row["text"], str) or not text.strip():
        raise InputError(f"{where}: text: expected some text, found {text!r:.60}")
    return text
