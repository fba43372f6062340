"""Settings of where models and data come from."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from fnsft.config.settings import Settings, setting
from fnsft.errors import InputError


@dataclass(frozen=True)
class WorldSettings(Settings):
    """The embedded default: a small synthetic world of people, sums and functions (ours)."""

    stage: ClassVar[str] = "world"

    documents: int = setting(22_000, "documents in the pretraining corpus", above=0)
    math_train: int = setting(2_000, "word problems for fine-tuning", above=0)
    math_test: int = setting(400, "held-out word problems", above=0)
    preferences_train: int = setting(
        2_000, "word problems with a right and a wrong answer, for preference tuning", above=0
    )
    code_train: int = setting(2_000, "code instructions for fine-tuning", above=0)
    code_test: int = setting(240, "held-out functions with tests", above=0, maximum=280)
    seed: int = setting(0, "seed of the world", minimum=0)


@dataclass(frozen=True)
class PretrainSettings(Settings):
    """A byte-level BPE tokenizer and a Llama-shaped base model, trained from scratch (ours)."""

    stage: ClassVar[str] = "pretrain"

    vocab_size: int = setting(704, "tokens of the tokenizer", minimum=300)
    d_model: int = setting(128, "width of the residual stream", above=0)
    n_layers: int = setting(4, "decoder blocks", above=0)
    d_mlp: int = setting(384, "MLP neurons a layer", above=0)
    n_heads: int = setting(4, "attention heads", above=0)
    initial_std: float = setting(0.06, "standard deviation of the initial weights", above=0)
    steps: int = setting(1_000, "optimizer steps; 0 saves the random initialisation", minimum=0)
    batch_size: int = setting(8, "sequences a step", above=0)
    sequence_tokens: int = setting(128, "tokens a sequence", above=1)
    learning_rate: float = setting(2e-3, "peak of the cosine schedule", above=0)
    weight_decay: float = setting(0.1, "decoupled weight decay of matrices", minimum=0)
    seed: int = setting(0, "seed of initialisation and order", minimum=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.d_model % (2 * self.n_heads):
            raise InputError(
                f"d_model: expected a multiple of {2 * self.n_heads} (an even width for each of "
                f"n_heads={self.n_heads}), found {self.d_model}"
            )


@dataclass(frozen=True)
class TwinSettings(Settings):
    """A model's control: the same shape and tokenizer, weights drawn anew (ours)."""

    stage: ClassVar[str] = "twin"

    seed: int = setting(0, "seed of the initialisation", minimum=0)


@dataclass(frozen=True)
class FetchSettings(Settings):
    """A model, a split of a data set, or a wheel, from the network."""

    stage: ClassVar[str] = "fetch"

    kind: Literal["model", "dataset", "wheel", "evalplus"] = setting(
        "model", "what is fetched; evalplus: the release's humaneval or mbpp"
    )
    name: str = setting("", "name on the hub, or a requirement such as name==1.0 for a wheel")
    revision: str = setting("main", "revision on the hub")
    config: str | None = setting(None, "configuration of the data set")
    split: str | None = setting(None, "split of the data set; train when absent")


@dataclass(frozen=True)
class ConvertSettings(Settings):
    """Quantised weights, made plain."""

    stage: ClassVar[str] = "convert"

    dtype: Literal["float32", "bfloat16"] = setting("bfloat16", "precision of the saved weights")


@dataclass(frozen=True)
class PrepareSettings(Settings):
    """Rows of a data set become rendered prompts and completions, split and sampled."""

    stage: ClassVar[str] = "prepare"
    version: ClassVar[int] = 2

    format: str = setting("gsm8k", "preset of the rows, by name or YAML file")
    n_train: int = setting(4_000, "training samples drawn (2026)", above=0)
    n_validation: int = setting(1_000, "validation samples, fixed by split_seed (2026)", above=0)
    n_test: int | None = setting(None, "first test samples kept; all when absent", above=0)
    calculator_annotations: Literal["keep", "strip"] = setting(
        "keep", "GSM8K's <<2+3=5>> annotations in worked answers"
    )
    split_seed: int = setting(0, "seed of the validation split", minimum=0)
    seed: int = setting(0, "seed of the training sample", minimum=0)
