"""The linear layers that LoRA's adapters go to.

A module of its own, since peft, which puts them there, takes seconds to import.
"""

from typing import Literal

import torch
from transformers.pytorch_utils import Conv1D

from fnsft.architectures.blocks import ExpertsBlock, decoder_blocks, mlp_blocks, mlp_layers
from fnsft.errors import InputError

LoraTargets = Literal["all-linear", "attention", "mlp"]


def lora_targets(model: torch.nn.Module, kind: LoraTargets) -> list[str]:
    """Return the paths of the layers that have an adapter.

    ``mlp`` are the projections of every MLP, ``attention`` all other linear layers of the
    decoder blocks but those of experts, ``all-linear`` all but the output.

    Raises
    ------
    InputError
        For an architecture whose MLP is not known, and where a kind has no layer.
    """
    linear = (torch.nn.Linear, Conv1D)  # packed weights are of classes below Linear
    paths = [path for path, module in model.named_modules() if isinstance(module, linear)]
    if kind == "all-linear":
        output = model.get_output_embeddings()  # type: ignore[operator]
        return sorted(path for path in paths if model.get_submodule(path) is not output)
    if kind == "mlp":
        blocks = [(block.gate, block.up, block.down) for block in mlp_blocks(model)]
        return sorted({path for block in blocks for path in block if path is not None})
    blocks_name, _ = decoder_blocks(model)
    owned = tuple(
        path
        for layer in mlp_layers(model)
        for path in (
            (f"{layer.mlp}.",)
            if isinstance(layer, ExpertsBlock)
            else (layer.gate or layer.up, layer.up, layer.down)
        )
    )
    found = [p for p in paths if p.startswith(f"{blocks_name}.") and not p.startswith(owned)]
    if not found:
        raise InputError(
            f"lora_targets: expected linear layers in the attention of {type(model).__name__}, "
            "found none; use all-linear"
        )
    return sorted(found)
