"""Base models packed in 4 or 8 bits, on which adapters train (QLoRA, Dettmers et al. 2023).

A folder with an adapter that was trained so holds ``quantised_base.json``: how its base is
packed. With another base it would be another model than the one that was validated.
"""

import importlib.util
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from fnsft.artifacts.storage import read_json, write_json
from fnsft.config.stages import TrainSettings
from fnsft.errors import InputError

FILE_NAME = "quantised_base.json"


def packing_of(settings: TrainSettings) -> dict[str, Any] | None:
    """Return how a run's base model is packed, as JSON values; None for one that is not.

    NF4 with constants that are packed again is what QLoRA uses; products are taken in
    bfloat16 with ``bf16_autocast``, else in float32.
    """
    if settings.quantise is None:
        return None
    if settings.quantise == "int8":
        return {"load_in_8bit": True}
    return {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": "bfloat16" if settings.bf16_autocast else "float32",
    }


def load_packed(
    folder: Path, packing: dict[str, Any], device: torch.device, attention: str | None = None
) -> PreTrainedModel:
    """Load a model and pack its linear layers but the output; all else is float32.

    Raises
    ------
    InputError
        Without bitsandbytes, and on a device that it has no kernels for.
    """
    if device.type not in ("cpu", "cuda", "xpu"):
        raise InputError(
            f"quantise: expected a CPU or a CUDA device, found {device.type}, for which "
            "bitsandbytes has no kernels; use --dtype bfloat16 instead"
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise InputError(
            "quantise: expected the package bitsandbytes, found none; "
            "pip install 'fnsft[quantised]'"
        )
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        quantization_config=BitsAndBytesConfig(**packing),
        dtype=torch.float32,
        device_map={"": device},
        attn_implementation=attention,
    )
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # It would round the packed weights' scales to bfloat16 at the first validation, for
            # good, and cannot take widths that 64 does not divide.
            module.support_avx512bf16_for_cpu = False
    return model


def prepared(model: PreTrainedModel) -> PreTrainedModel:
    """Freeze a packed model for training, and keep what is not packed in float32, as PEFT does."""
    from peft import prepare_model_for_kbit_training  # seconds of import, which loading saves

    # The checkpointing of activations is the trainer's to switch on.
    return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)


def write_packing(folder: Path, packing: dict[str, Any]) -> None:
    """Write into an adapter's folder how its base is packed."""
    write_json(folder / FILE_NAME, packing)


def read_packing(folder: Path) -> dict[str, Any] | None:
    """Read how an adapter's base is packed; None for one that is not."""
    file = folder / FILE_NAME
    return read_json(file) if file.exists() else None


def adapters_in_float32(model: torch.nn.Module) -> None:
    """Keep adapters out of bfloat16, where small updates vanish; TRL casts a packed model's."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
