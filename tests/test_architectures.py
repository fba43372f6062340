"""Every family: the matrices hold the neurons along the axis that they say."""

import pytest
import torch
import transformers

from fnsft.architectures import mlp_blocks, mlp_matrices, neuron_activity
from fnsft.errors import InputError

LLAMA_LIKE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
GPT_LIKE = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
FAMILIES = {
    "Llama": LLAMA_LIKE,
    "Mistral": LLAMA_LIKE,
    "Qwen2": LLAMA_LIKE,
    "Qwen3": LLAMA_LIKE | {"head_dim": 8},
    "Gemma2": LLAMA_LIKE | {"head_dim": 8},
    "Olmo2": LLAMA_LIKE,
    "StableLm": LLAMA_LIKE,
    "Phi3": LLAMA_LIKE | {"pad_token_id": 0},
    "Phi": LLAMA_LIKE | {"num_key_value_heads": 4},
    "Starcoder2": LLAMA_LIKE,
    "GPT2": GPT_LIKE,
    "GPTJ": GPT_LIKE | {"rotary_dim": 4},
    "GPTNeoX": {k: v for k, v in LLAMA_LIKE.items() if k != "num_key_value_heads"},
    "Falcon": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
    "Bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "OPT": {
        "hidden_size": 32,
        "ffn_dim": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "word_embed_proj_dim": 32,
        "max_position_embeddings": 64,
    },
    "Mpt": {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 64},
}
IDS = torch.arange(20).view(2, 10)


def build(family: str) -> torch.nn.Module:
    config = getattr(transformers, f"{family}Config")(vocab_size=64, **FAMILIES[family])
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_zeroed_columns_of_down_are_silenced_neurons(family: str) -> None:
    model = build(family)
    downs = [matrix for matrix in mlp_matrices(model) if matrix.role == "down"]
    assert [matrix.layer for matrix in downs] == [0, 1]
    block = mlp_blocks(model)[1]
    chosen = torch.tensor([0, 3, block.d_mlp - 1])

    def silence(module: torch.nn.Module, inputs: tuple) -> tuple:
        kept = torch.ones(block.d_mlp)
        kept[chosen] = 0
        return (inputs[0] * kept, *inputs[1:])

    handle = model.get_submodule(block.down).register_forward_pre_hook(silence)
    silenced = model(input_ids=IDS).logits
    handle.remove()
    whole = model(input_ids=IDS).logits
    weights = downs[1].view(downs[1].parameter.data)
    weights.index_fill_(downs[1].neuron_axis, chosen, 0)
    zeroed = model(input_ids=IDS).logits
    torch.testing.assert_close(zeroed, silenced, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(whole, zeroed, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_zeroed_gate_rows_are_neurons_that_never_fire(family: str) -> None:
    """act(0) = 0 for every activation here, so a neuron without gate weights stays silent."""
    model = build(family)
    block = mlp_blocks(model)[0]
    role = "gate" if block.gate else "up"
    matrix = next(m for m in mlp_matrices(model) if (m.layer, m.role) == (0, role))
    assert matrix.view(matrix.parameter).shape[matrix.neuron_axis] == block.d_mlp
    matrix.view(matrix.parameter.data).index_fill_(matrix.neuron_axis, torch.tensor([2]), 0)
    bias = getattr(model.get_submodule(block.up), "bias", None)
    if bias is not None:
        bias.zero_()
    seen: dict[int, torch.Tensor] = {}
    with neuron_activity(model, seen.__setitem__):
        model(input_ids=IDS)
    assert seen[0].shape == (IDS.numel(), block.d_mlp)
    assert not seen[0][:, 2].any()
    assert seen[0].any()


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_watching_a_model_does_not_change_it(family: str) -> None:
    model = build(family)
    bare = model(input_ids=IDS).logits
    with neuron_activity(model, lambda layer, activated: None):
        watched = model(input_ids=IDS).logits
    assert torch.equal(bare, watched)
    assert not any(module._forward_hooks for module in model.modules())


def test_matrices_are_numbered_in_order_and_cover_the_mlp() -> None:
    names = [matrix.name for matrix in mlp_matrices(build("Llama"))]
    roles = [
        f"model.layers.{i}.mlp.{r}_proj.weight" for i in (0, 1) for r in ("gate", "up", "down")
    ]
    assert names == roles
    fused = mlp_matrices(build("Phi3"))
    assert [matrix.index for matrix in fused] == list(range(6))
    assert fused[0].name == "model.layers.0.mlp.gate_up_proj.weight[gate]"
    halves = torch.cat([matrix.view(matrix.parameter) for matrix in fused[:2]])
    assert torch.equal(halves, fused[0].parameter)


def test_a_mixture_of_experts_is_refused() -> None:
    config = transformers.MixtralConfig(vocab_size=64, num_local_experts=2, **LLAMA_LIKE)
    with pytest.raises(InputError, match="mixture of experts"):
        mlp_matrices(transformers.MixtralForCausalLM(config))


def test_an_unknown_block_says_what_was_looked_for_and_found() -> None:
    model = build("Llama")
    for layer in model.model.layers:
        layer.mlp = torch.nn.Sequential(torch.nn.Linear(32, 32))
    with pytest.raises(InputError, match=r"expected one of mlp\.gate_proj.*found.*mlp\.0"):
        mlp_blocks(model)
