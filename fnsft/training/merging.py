"""A tuned model as plain weights, which any tool computes with alone.

What lies beside the weights becomes part of them: an adapter is merged into its base in
float32, W + s·B·A, and a mask on the forward pass is folded into the weights behind its site. A
base that was packed in 4 or 8 bits while the adapter trained is unpacked first: the rounded
weights belong to the model that was validated, the original ones do not. (In 8 bits activations
were rounded too; plain weights do not do that.)
"""

import shutil
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging

from fnsft.artifacts.forward_masks import FILE as MASK
from fnsft.artifacts.forward_masks import read_forward_mask
from fnsft.artifacts.identity import ADAPTER
from fnsft.artifacts.model_files import carry_manifests, copy_tokenizer
from fnsft.artifacts.prompt_formats import NAME as PROMPT_FORMAT
from fnsft.artifacts.storage import (
    existing,
    read_json,
    require_elsewhere,
    require_space,
    written_whole,
)
from fnsft.artifacts.tensors import require_whole_weights
from fnsft.artifacts.training import FILE_NAME as RECORD
from fnsft.devices import accelerator
from fnsft.errors import InputError
from fnsft.hub.models import local_model
from fnsft.masks.forward import fold
from fnsft.training.quantisation import load_packed, read_packing

if TYPE_CHECKING:
    from peft import PeftModel


@dataclass(frozen=True, eq=False)
class Plain:
    """What was written: which parts became weights, in words, how many weights, and their type."""

    parts: tuple[str, ...]
    n_parameters: int
    dtype: str


def write_plain(
    folder: Path,
    output: Path,
    base: str | None = None,
    dtype: str | None = None,
    shard_gib: float = 5.0,
) -> Plain:
    """Write the model in ``folder`` as plain weights, with its tokenizer and its records.

    The model is held in memory, in float32 where there is something to merge.

    Parameters
    ----------
    base
        Folder or hub name of the base of an adapter, instead of the one that the adapter names.
    dtype
        What the merged weights are rounded to; None: what they are stored in, float32 for
        adapters.
    shard_gib
        The largest weight file, in GiB.

    Raises
    ------
    InputError
        For a folder that is no model, a base that the adapter does not fit, an output in the
        place of either, and what cannot be merged.
    """
    of_adapter = adapter_base(folder, base)
    if of_adapter is None and not (folder / "config.json").is_file():
        raise InputError(f"{folder}: expected a config.json or {ADAPTER}, found neither")
    require_elsewhere(output, folder, of_adapter or folder)
    for part in filter(None, (of_adapter, folder)):
        require_whole_weights(part)
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    with written_whole(output) as partial:
        model = merged_adapter(of_adapter, folder) if of_adapter else _full(folder)
        chosen = dtype or str(model.dtype).removeprefix("torch.")
        _fold_mask(model, folder)
        _require_range(model, chosen, folder)
        model.to(getattr(torch, chosen))
        require_space(output, model.get_memory_footprint())
        _save(model, partial, shard_gib)
        own_tokenizer = (folder / "tokenizer_config.json").is_file()
        copy_tokenizer(folder if own_tokenizer else of_adapter or folder, partial)
        for name in (PROMPT_FORMAT, RECORD):
            if (folder / name).is_file():
                shutil.copyfile(folder / name, partial / name)
        carry_manifests(folder, partial)
    return Plain(parts_of(folder), model.num_parameters(), chosen)


def parts_of(folder: Path) -> tuple[str, ...]:
    """Say what a model folder computes with besides plain weights: an adapter, a mask."""
    parts = []
    if (existing(folder) / ADAPTER).is_file():
        packing = read_packing(folder)
        bits = 0 if packing is None else 4 if packing.get("load_in_4bit") else 8
        parts.append("adapter" + (f" on its base unpacked from {bits} bits" if bits else ""))
    mask = read_forward_mask(folder)
    if mask is not None:
        parts.append(f"forward mask ({mask.mode})")
    return tuple(parts)


def adapter_base(folder: Path, base: str | None = None) -> Path | None:
    """Return the folder of an adapter's base, ``base`` first; None for a full model.

    Either may be a name on the hub, which becomes a local snapshot.

    Raises
    ------
    InputError
        For a base that is not there, and for one that is given to a full model.
    """
    file = existing(folder) / ADAPTER
    if not file.is_file():
        if base is not None:
            raise InputError(f"{folder}: base: expected an adapter, found a model; leave base out")
        return None
    if base is not None:
        return local_model(base)
    try:
        return local_model(read_json(file)["base_model_name_or_path"])
    except InputError as error:
        raise InputError(f"{file}: base_model_name_or_path: {error}; or name the base") from None


def merged_adapter(base: Path, folder: Path) -> PreTrainedModel:
    """Return the base with the adapter in ``folder`` merged in float32, on the CPU.

    Embedding and output layer that are tied in the base come apart when the adapter changes
    either of them.

    Raises
    ------
    InputError
        For adapters of another kind than LoRA, and for a base that the adapter does not fit.
    """
    from peft import PeftModel  # seconds of import that full models need not pay

    kind = read_json(folder / ADAPTER).get("peft_type")
    if kind != "LORA":
        raise InputError(f"{folder / ADAPTER}: peft_type: expected LORA, found {kind}; use PEFT")
    model = _float32_base(base, folder)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"(?s).*(tie_word_embeddings|weight_tying)")
        try:
            adapted = PeftModel.from_pretrained(model, folder)
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"{folder}: expected an adapter of the base {base}, found one that does not fit "
                f"({reason}); name its own base"
            ) from None
        _untie(adapted)
        merged: PreTrainedModel = adapted.merge_and_unload()
    return merged


def _full(folder: Path) -> PreTrainedModel:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    _require_unpacked(model, folder)
    return model


def _fold_mask(model: PreTrainedModel, folder: Path) -> None:
    """Fold the mask on the forward pass into the weights in float32, if there is one."""
    mask = read_forward_mask(folder)
    if mask is None:
        return
    try:
        fold(model.float(), mask)
    except InputError as error:
        raise InputError(f"{folder / MASK}: {error}") from None


def _float32_base(base: Path, folder: Path) -> PreTrainedModel:
    """Load the weights that an adapter was trained on: rounded ones where they were packed."""
    packing = read_packing(folder)
    if packing is None:
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        _require_unpacked(model, base)
        return model
    model = load_packed(base, packing, accelerator())
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # it warns of the type that is asked for here
    try:
        return model.dequantize(dtype=torch.float32).to("cpu")
    finally:
        logging.set_verbosity(verbosity)


def _untie(adapted: "PeftModel") -> None:
    """Give an adapted end of tied embeddings weights of its own; PEFT then notes it in the config.

    Else merging would change the other end too.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    model = adapted.get_base_model()
    for end in (model.get_input_embeddings(), model.get_output_embeddings()):
        if isinstance(end, BaseTunerLayer):
            layer = end.get_base_layer()
            layer.weight = torch.nn.Parameter(layer.weight.detach().clone())


def _require_unpacked(model: PreTrainedModel, folder: Path) -> None:
    if getattr(model, "is_quantized", False):
        raise InputError(
            f"{folder}: expected weights in floating point, found packed ones "
            "(quantization_config); name the model that they were packed from"
        )


def _require_range(model: PreTrainedModel, dtype: str, folder: Path) -> None:
    """Refuse weights that would become infinite."""
    limit = torch.finfo(getattr(torch, dtype)).max
    if limit >= torch.finfo(model.dtype).max:
        return
    for name, parameter in model.named_parameters():
        if (largest := parameter.abs().max().item()) > limit:
            raise InputError(
                f"{folder}: {name}: expected weights up to {limit:g} for {dtype}, found "
                f"{largest:g}; use bfloat16"
            )


def _save(model: PreTrainedModel, folder: Path, shard_gib: float) -> None:
    generation = model.generation_config
    try:
        generation.validate(strict=True)
    except ValueError:
        generation.do_sample = True  # a temperature without it is what many bases have
    model.save_pretrained(folder, max_shard_size=int(shard_gib * (1 << 30)))
