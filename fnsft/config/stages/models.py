"""Settings of what is done with a tuned model: trying it, making it plain, passing it on."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from fnsft.config.settings import Settings, setting


@dataclass(frozen=True)
class GenerateSettings(Settings):
    """Answers of a model to prompts."""

    stage: ClassVar[str] = "generate"

    template: Literal["auto", "chat", "alpaca", "chatml", "basic", "none"] = setting(
        "auto", "how a prompt is written; auto: as the model was trained; none: as it stands"
    )
    system: str = setting("", "system message before the prompt")
    max_new_tokens: int = setting(256, "longest answer", above=0)
    temperature: float = setting(0.0, "of sampling; 0 takes the likeliest token", minimum=0)
    top_p: float = setting(1.0, "probability mass that is sampled from", above=0, maximum=1)
    samples: int = setting(1, "answers a prompt (with a temperature)", above=0)
    batch_size: int = setting(16, "prompts a batch", above=0)
    dtype: Literal["float32", "bfloat16"] = setting("float32", "precision of the weights")
    forward_mask: Literal["on", "off"] = setting(
        "on", "use a model that was trained with a mask on its forward pass with it or without"
    )
    seed: int = setting(0, "seed of sampling", minimum=0)


@dataclass(frozen=True)
class MergeSettings(Settings):
    """An adapter or a mask on the forward pass becomes part of plain weights."""

    stage: ClassVar[str] = "merge"

    dtype: Literal["float32", "bfloat16", "float16"] = setting(
        "float32", "precision of the saved weights"
    )


@dataclass(frozen=True)
class ExportSettings(Settings):
    """A tuned model for others: plain weights, or what differs from its base."""

    stage: ClassVar[str] = "export"

    format: Literal["safetensors", "delta"] = setting(
        "safetensors", "all weights, or the changed entries alone"
    )
    dtype: Literal["float32", "bfloat16", "float16"] | None = setting(
        None, "safetensors: precision of the saved weights; the model's own when absent"
    )
    max_shard_gib: float = setting(5.0, "safetensors: largest file, in GiB", above=0)


@dataclass(frozen=True)
class DeltaSettings(Settings):
    """Changed entries, put onto their base or taken off again."""

    stage: ClassVar[str] = "apply-delta"

    revert: bool = setting(
        False, "take the delta off the tuned model, which gives its base's weights"
    )


@dataclass(frozen=True)
class PushSettings(Settings):
    """A tuned model or adapter, uploaded to the hub."""

    stage: ClassVar[str] = "push"

    public: bool = setting(False, "let everybody see it; else its owner alone")
    revision: str = setting("main", "branch that is written to; made when it is not there")
    message: str = setting("Upload with fnsft", "message of the commit")
