"""A fine-tuned model from its folder, whether it holds all weights or a LoRA adapter."""

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging

from fnsft.artifacts.storage import existing, read_json
from fnsft.errors import InputError

ADAPTER = "adapter_config.json"


def base_folder(folder: Path) -> Path | None:
    """Return the folder of the base model that an adapter folder names; None for a full model."""
    if not (existing(folder) / ADAPTER).is_file():
        return None
    base = Path(read_json(folder / ADAPTER)["base_model_name_or_path"])
    if not base.is_dir():
        raise InputError(
            f"{folder / ADAPTER}: base_model_name_or_path: expected a model folder, found "
            f"{str(base)!r}, which is not there; run where it is, or write its place into the file"
        )
    return base


def load_model(folder: Path, dtype: str) -> PreTrainedModel:
    """Load a model for evaluation, onto the first accelerator if there is one.

    An adapter is merged into its base in float32 before the cast to ``dtype``, so that
    merging rounds once.
    """
    base = base_folder(folder)
    if base is None and not (folder / "config.json").is_file():
        raise InputError(f"{folder}: expected a config.json or {ADAPTER}, found neither")
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(base or folder, dtype=torch.float32)
    if base is not None:
        from peft import PeftModel  # seconds of import that full models need not pay

        model = PeftModel.from_pretrained(model, folder).merge_and_unload()
    return model.to(accelerator(), dtype=getattr(torch, dtype)).eval()


def accelerator() -> torch.device:
    """Return the current accelerator (cuda, mps, …) or the CPU."""
    found = torch.accelerator.current_accelerator(check_available=True)
    return found if found is not None else torch.device("cpu")
