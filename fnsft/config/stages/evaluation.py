"""Settings of benchmarks: what is asked, how answers are scored, how far a stage moved a model."""

import shlex
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from fnsft.config.settings import Settings, fields_of, setting
from fnsft.errors import InputError

# What a model generates, or what is taken from its probabilities.
GeneratedKind = Literal["gsm8k", "exact", "functions", "humaneval", "mbpp"]
MeasuredKind = Literal["cloze", "perplexity"]
HarnessKind = Literal["mmlu", "mmlu-pro", "pubmedqa"]  # lm-eval's own tasks, on local data
BenchmarkKind = Literal[GeneratedKind, MeasuredKind, HarnessKind]
CODE_KINDS: tuple[str, ...] = ("functions", "humaneval", "mbpp")
HARNESS_KINDS: tuple[str, ...] = get_args(HarnessKind)
SHOTS_KINDS: tuple[str, ...] = ("mmlu", "mmlu-pro")
# Of every kind the metric that stands for it in score matrices; perplexity is no share.
PRIMARY_METRICS: tuple[str, ...] = ("accuracy", "pass_at_1")


@dataclass(frozen=True)
class Benchmark(Settings):
    """One benchmark: its items, and the protocol by which a model answers them."""

    stage: ClassVar[str] = "benchmark"

    kind: BenchmarkKind = setting(help="what is asked and how it is scored")
    file: str = setting(help="the items")
    examples: str | None = setting(None, "mmlu, mmlu-pro: rows that the shots are taken from")
    measures: str | None = setting(None, "task whose learning it shows; absent: never trained on")
    limit: int | None = setting(
        None, "first items (mmlu, mmlu-pro: evenly over the subjects); all when absent", above=0
    )
    shots: int | None = setting(
        None, "examples before a question; absent: 5 with mmlu and mmlu-pro, else 0", minimum=0
    )
    max_new_tokens: int = setting(256, "longest answer", above=0)
    template: Literal["auto", "completion", "instruction"] = setting(
        "auto",
        "code: a program to go on with, or an instruction as the model was trained; auto: an "
        "instruction where the model has a prompt format or chat template",
    )
    chat: bool = setting(False, "mmlu, mmlu-pro, pubmedqa: ask in the tokenizer's chat template")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shots is None:
            object.__setattr__(self, "shots", 5 if self.kind in SHOTS_KINDS else 0)
        if self.shots and self.kind not in SHOTS_KINDS:
            raise InputError(f"shots: {self.kind} has none, found {self.shots}; leave it off")
        if bool(self.shots) != (self.examples is not None):
            remedy = "leave examples off" if self.examples else "give examples, or shots 0"
            raise InputError(
                f"examples: rows that shots are taken from, found {self.examples!r} with "
                f"{self.shots} shots; {remedy}"
            )
        if self.template != "auto" and self.kind not in CODE_KINDS:
            raise InputError(f"template: is about code, found it with {self.kind}; leave it off")
        if self.chat and self.kind not in HARNESS_KINDS:
            raise InputError(f"chat: {self.kind} is asked as the model was trained; leave it off")

    def words(self) -> str:
        """Return what ``fnsft answer --benchmark NAME`` takes: one canonical string."""
        given = {name: getattr(self, name) for name in fields_of(type(self))}
        if self.kind not in SHOTS_KINDS:
            del given["shots"]
        words = [f"{k}={v}" for k, v in given.items() if v is not None and v is not False]
        return shlex.join(words)


@dataclass(frozen=True)
class AnswerSettings(Settings):
    """A model's answers to benchmarks; nothing of what it writes is run or scored."""

    stage: ClassVar[str] = "answer"

    backend: Literal["hf"] = setting("hf", "what generates: transformers")
    batch_size: int = setting(64, "prompts a batch", above=0)
    max_tokens: int = setting(1_024, "perplexity: longer samples are left out and counted", above=1)
    dtype: Literal["float32", "bfloat16"] = setting("float32", "precision of the weights")
    forward_mask: Literal["on", "off"] = setting(
        "on", "use a model that was trained with a mask on its forward pass with it or without"
    )


@dataclass(frozen=True)
class ScoreSettings(Settings):
    """Scores of answers, on the CPU; programs among them run in a sandbox."""

    stage: ClassVar[str] = "score"

    workers: int = setting(2, "programs that run at a time", above=0)
    allow_unsandboxed: bool = setting(
        False, "run model-written programs where there is no sandbox: they can do what you can"
    )


@dataclass(frozen=True)
class DriftSettings(Settings):
    """How far a tuned model is from the one that its stage began with."""

    stage: ClassVar[str] = "drift"

    since: Literal["stage", "any"] = setting(
        "stage", "stage: refuse a base other than the model that the run began with; any: take it"
    )
    limit: int | None = setting(
        200, "first samples of the new task whose divergence is taken, or all", above=0
    )
    batch_size: int = setting(8, "samples a batch", above=0)
    max_tokens: int = setting(1_024, "longer samples are left out and counted", above=1)
    dtype: Literal["float32", "bfloat16"] = setting(
        "float32", "precision of the predictions; weights are compared in float32"
    )


@dataclass(frozen=True)
class TransferSettings(Settings):
    """What a sequence of stages learned and forgot: its score matrix in four numbers."""

    stage: ClassVar[str] = "transfer"
