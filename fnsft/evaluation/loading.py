"""A fine-tuned model from its folder, whether it holds all weights or a LoRA adapter."""

import sys
from pathlib import Path
from typing import Literal

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging

from fnsft.artifacts.forward_masks import FILE, read_forward_mask
from fnsft.artifacts.identity import ADAPTER
from fnsft.artifacts.tensors import require_whole_weights
from fnsft.devices import POOL, accelerator
from fnsft.errors import InputError
from fnsft.masks.forward import attach
from fnsft.training.merging import adapter_base, merged_adapter
from fnsft.training.quantisation import load_packed, read_packing


def load_model(
    folder: Path, dtype: str, forward_mask: Literal["on", "off"] = "on"
) -> PreTrainedModel:
    """Load a model for evaluation, onto the first accelerator if there is one.

    An adapter is merged into its base in float32 before the cast to ``dtype``, so that
    merging rounds once; beside a base that is packed in 4 or 8 bits it stays as it was trained,
    whatever the ``dtype``. A mask on the forward pass that the model was trained with is attached
    unless ``forward_mask`` is off.

    Raises
    ------
    InputError
        For a folder that holds no model, a mask of another one, and float64 on Apple's devices.
    """
    if dtype == "float64" and accelerator().type == "mps":
        raise InputError(
            "dtype: expected float32 or less on mps, which has no float64, found 'float64'; use "
            f"float32, or {POOL}= (empty) for the processor"
        )
    mask = read_forward_mask(folder) if forward_mask == "on" else None
    base = adapter_base(folder)
    if base is None and not (folder / "config.json").is_file():
        raise InputError(f"{folder}: expected a config.json or {ADAPTER}, found neither")
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    for part in filter(None, (base, folder)):
        require_whole_weights(part)
    if base is not None:
        model = _with_adapter(base, folder, dtype)
    else:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        model.to(accelerator(), dtype=getattr(torch, dtype))
    model.eval()
    if mask is not None:
        try:
            attach(model, mask)
        except InputError as error:
            raise InputError(f"{folder / FILE}: {error}") from None
    return model


def _with_adapter(base: Path, folder: Path, dtype: str) -> PreTrainedModel:
    packing = read_packing(folder)
    if packing is None:
        return merged_adapter(base, folder).to(accelerator(), dtype=getattr(torch, dtype))
    from peft import PeftModel  # seconds of import that full models need not pay

    model = load_packed(base, packing, accelerator())
    return PeftModel.from_pretrained(model, folder).get_base_model()
