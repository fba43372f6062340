"""What a kind of benchmark is: how a model answers its items, and how answers are scored.

A kind is a module with two functions. ``answers`` reads the items and asks the model; of what a
model writes nothing is run or scored. ``scores`` reads those rows again, perhaps years later and
elsewhere. Both write an empty ``benchmark`` name; :func:`named` puts the user's in.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from fnsft.artifacts.items import ItemScore
from fnsft.artifacts.prompt_formats import PromptFormat
from fnsft.artifacts.records import Measurement
from fnsft.config.stages.evaluation import AnswerSettings, Benchmark, ScoreSettings
from fnsft.data.tokens import Encoder
from fnsft.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from fnsft.evaluation.generation import Generation
    from fnsft.evaluation.generators import Generator


@dataclass(frozen=True, eq=False)
class Subject:
    """A loaded model that answers.

    ``format`` is how prompts were written in its training, None where that is not known;
    ``positions`` how many it has, None without a limit; ``tuned`` says that its folder has a
    ``training.json``.
    """

    folder: Path
    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    encoder: Encoder
    generator: "Generator"
    settings: AnswerSettings
    format: PromptFormat | None
    positions: int | None
    tuned: bool


@dataclass(frozen=True)
class Answers:
    """The rows of a benchmark (JSON objects, each with a text ``item``), and how they were made.

    ``protocol`` is what :func:`protocol_of` writes. ``counts`` go to the manifest. ``packages``
    are those whose versions matter beside torch and transformers.
    """

    rows: list[dict[str, Any]]
    protocol: str
    counts: dict[str, int] = field(default_factory=dict)
    packages: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scoring:
    """How answers are scored; ``where`` names their file in messages."""

    settings: ScoreSettings
    where: str


@dataclass(frozen=True)
class Scores:
    """The numbers of one benchmark, the items behind them, and what a manifest should keep."""

    measurements: list[Measurement]
    items: list[ItemScore]
    counts: dict[str, int] = field(default_factory=dict)
    packages: tuple[str, ...] = ()
    notes: dict[str, Any] = field(default_factory=dict)


class Kind(Protocol):
    """A kind's module."""

    def answers(self, subject: Subject, benchmark: Benchmark) -> Answers:
        """Read and check all items first, then ask the model."""

    def scores(
        self, rows: Sequence[dict[str, Any]], benchmark: Benchmark, scoring: Scoring
    ) -> Scores:
        """Score the rows that ``answers`` made."""


def named(scores: Scores, name: str) -> Scores:
    """Return the scores under a benchmark's name."""
    return replace(
        scores,
        measurements=[replace(found, benchmark=name) for found in scores.measurements],
        items=[replace(item, benchmark=name) for item in scores.items],
    )


def protocol_of(subject: Subject, benchmark: Benchmark, how: Mapping[str, object]) -> str:
    r"""Return one line that says how items were asked and will be read.

    Such as ``gsm8k shots=0 template=basic extract=decimal|strict|flexible stop=eos|\nQuestion:
    max_new_tokens=256 dtype=float32 backend=hf``. The model is no part of it: the lines of a base
    and of what it was tuned to are equal, whatever mask there is on a forward pass.

    Parameters
    ----------
    how
        What the kind alone knows, in its order: shots, template, extract, stop. A kind with a
        ``stop`` generates.
    """
    words = dict(how)
    if "stop" in words:
        words.setdefault("max_new_tokens", benchmark.max_new_tokens)
    words["dtype"] = subject.settings.dtype
    if "stop" in words:
        words.setdefault("backend", subject.settings.backend)
    return " ".join([benchmark.kind, *(f"{name}={value}" for name, value in words.items())])


@dataclass(frozen=True)
class Asked:
    """Generated answers in the prompts' order, with counts for :class:`Answers`."""

    generations: "list[Generation]"
    counts: dict[str, int]


def ask(
    subject: Subject,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    stops: Sequence[str] = (),
) -> Asked:
    """Generate answers to tokenised prompts.

    Of a prompt that leaves no room for ``max_new_tokens`` in the model's positions the last
    tokens are kept, as lm-eval does (its ``left_truncate_len``), and it is counted.

    Raises
    ------
    InputError
        When ``max_new_tokens`` alone fills the positions.
    """
    room = None if subject.positions is None else subject.positions - max_new_tokens
    if room is not None and room < 1:
        raise InputError(
            f"max_new_tokens: expected less than the model's {subject.positions} positions, found "
            f"{max_new_tokens}; lower it"
        )
    fitting = [ids if room is None else ids[-room:] for ids in prompts]
    generations = subject.generator(fitting, max_new_tokens=max_new_tokens, stops=stops)
    cut = sum(len(kept) < len(ids) for kept, ids in zip(fitting, prompts, strict=True))
    return Asked(
        generations,
        {
            "prompts_cut_to_fit": cut,
            "answers_cut_by_max_new_tokens": sum(not found.finished for found in generations),
        },
    )
