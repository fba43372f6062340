"""Tiny random models of every supported family, and adapters of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from models import tiny_tokenizer
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from fnsft.architectures import MLPMatrix, mlp_blocks

N, D, LAYERS = 64, 32, 2
LLAMA = {
    "vocab_size": 128,
    "hidden_size": D,
    "intermediate_size": N,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
GPT2 = {"vocab_size": 128, "n_embd": D, "n_inner": N, "n_layer": LAYERS, "n_head": 4}
BLOOM = {"vocab_size": 128, "hidden_size": D, "n_layer": LAYERS, "n_head": 4}
MPT = {"vocab_size": 128, "d_model": D, "n_layers": LAYERS, "n_heads": 4, "max_seq_len": 64}
FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": LLAMA,
    "Mistral": LLAMA,
    "Qwen2": LLAMA,
    "Qwen3": LLAMA | {"head_dim": 8},
    "Gemma2": LLAMA | {"head_dim": 8},
    "Gemma3Text": LLAMA | {"head_dim": 8},
    "Olmo2": LLAMA,
    "SmolLM3": LLAMA,
    "StableLm": LLAMA,
    "Phi3": LLAMA,
    "Glm4": LLAMA | {"head_dim": 8},
    "Nemotron": LLAMA,
    "GPT2": GPT2,
    "Starcoder2": LLAMA,
    "Phi": LLAMA,
    "OPT": LLAMA | {"ffn_dim": N, "word_embed_proj_dim": D},
    "GPTNeoX": LLAMA,
    "Falcon": LLAMA | {"ffn_hidden_size": N},
    "Bloom": BLOOM,
    "GPTJ": GPT2 | {"rotary_dim": 4},
    "Mpt": MPT,
}
E, W = 4, 24  # experts of a layer, and their neurons where they have a width of their own
MOE = LLAMA | {"num_experts_per_tok": 2}
# Mixtures of experts; the first layer of the last two is a plain MLP.
MOE_FAMILIES: dict[str, dict[str, Any]] = {
    "Mixtral": MOE | {"num_local_experts": E},
    "Qwen3Moe": MOE
    | {"head_dim": 8, "num_experts": E, "moe_intermediate_size": W, "mlp_only_layers": [0]},
    "DeepseekV3": MOE
    | {
        "num_key_value_heads": 4,
        "n_routed_experts": E,
        "n_group": 2,
        "topk_group": 1,
        "n_shared_experts": 2,
        "moe_intermediate_size": W,
        "first_k_dense_replace": 1,
        "kv_lora_rank": 8,
        "q_lora_rank": 8,
        "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 4,
        "v_head_dim": 8,
    },
}
# Mixtures whose layers are alike, which graphs and masks on weights take.
ALIKE: dict[str, dict[str, Any]] = {"Mixtral": {}, "Qwen3Moe": {"mlp_only_layers": []}}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
PREFIX = "base_model.model."  # what peft puts before a model's paths
IDS = torch.arange(3, 23).view(2, 10)


def model_of(family: str, **options: Any) -> Any:
    torch.manual_seed(0)
    shape = (FAMILIES | MOE_FAMILIES)[family]
    config = getattr(transformers, f"{family}Config")(**(shape | SPECIAL | options))
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # biases too, which are 0 at first
            parameter.normal_(std=0.3)
    return model


def write_family(folder: Path, family: str, **options: Any) -> Path:
    """Write such a model, with a tokenizer."""
    tokenizer = tiny_tokenizer()
    model_of(family, vocab_size=len(tokenizer), **options).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def with_adapter(model: nn.Module, name: str = "default", **options: Any) -> PeftModel:
    """Wrap every projection of the MLPs, in place."""
    paths = {path for b in mlp_blocks(model) for path in (b.gate, b.up, b.down) if path}
    config = LoraConfig(**{"r": 3, "lora_alpha": 6, "target_modules": paths} | options)
    return get_peft_model(model, config, adapter_name=name)


def changes(model: PeftModel, matrices: Sequence[MLPMatrix]) -> list[Tensor]:
    """Return what peft adds to each matrix of the model without adapter, by neuron: [N, d]."""
    found = []
    for matrix in matrices:
        layer = model.get_submodule(PREFIX + matrix.name.partition(".weight")[0])
        change = layer.get_delta_weight("default").detach()
        found.append(matrix.view(change).movedim(matrix.neuron_axis, 0))
    return found
