"""The model that a run trains, in the precision and with the attention that it asks for."""

import contextlib
from collections.abc import Iterator

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, TrainingArguments
from transformers.utils import is_flash_attn_2_available

from fnsft.artifacts.tensors import require_whole_weights
from fnsft.config.stages import TrainSettings
from fnsft.errors import InputError
from fnsft.training import quantisation
from fnsft.training.files import RunFiles

FLASH = "flash_attention_2"


def load_base(
    files: RunFiles, settings: TrainSettings, arguments: TrainingArguments
) -> PreTrainedModel:
    """Load the model that is trained, in float32 or bfloat16, or packed.

    Raises
    ------
    InputError
        For an attention that this machine or this model does not have, weights that are cut
        short, and as
        :func:`fnsft.training.quantisation.load_packed`.
    """
    attention = attention_of(settings, arguments.device)
    require_whole_weights(files.model)
    try:
        if packing := quantisation.packing_of(settings):
            model = quantisation.load_packed(files.model, packing, arguments.device, attention)
            return quantisation.prepared(model)
        return AutoModelForCausalLM.from_pretrained(
            files.model, dtype=getattr(torch, settings.dtype), attn_implementation=attention
        )
    except (ImportError, ValueError) as error:
        if settings.attention == "auto":
            raise
        reason = " ".join(str(error).split())
        raise InputError(
            f"attention: expected a model that has {settings.attention!r}, found one that does "
            f"not ({reason:.200}); use --attention auto"
        ) from None


def attention_of(settings: TrainSettings, device: torch.device) -> str | None:
    """Return the name of the attention's code; None leaves sdpa or eager to the model.

    Raises
    ------
    InputError
        When flash attention is asked for where it cannot run.
    """
    half = settings.dtype == "bfloat16" or settings.bf16_autocast
    flash = device.type == "cuda" and is_flash_attn_2_available()
    if settings.attention == "auto":
        return FLASH if flash and half else None
    if settings.attention != FLASH:
        return settings.attention
    if not flash:
        raise InputError(
            f"attention: expected the package flash-attn and a CUDA device, found {device.type}"
            f"{'' if device.type != 'cuda' else ' without the package'}; pip install flash-attn "
            "--no-build-isolation where there is one, or use --attention auto"
        )
    if not half:
        raise InputError(
            "attention: flash_attention_2 computes in bfloat16; give --dtype bfloat16 or "
            "--bf16-autocast, or use --attention auto"
        )
    return FLASH


@contextlib.contextmanager
def outside_of_training(model: PreTrainedModel) -> Iterator[None]:
    """Let a model be asked without autocast: flash attention has no float32, and gives way."""
    name = model.config._attn_implementation
    gives_way = name == FLASH and model.dtype == torch.float32
    if gives_way:
        model.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        if gives_way:
            model.set_attn_implementation(name)
