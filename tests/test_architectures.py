"""Where MLP neurons live, on tiny random models of every supported family."""

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional

from fnsft.architectures import mlp_blocks, mlp_matrices, neuron_activity
from fnsft.errors import InputError

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
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
IDS = torch.arange(3, 23).view(2, 10)


def model_of(family: str, **options: Any) -> Any:
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**(FAMILIES[family] | SPECIAL | options))
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # biases too, which are 0 at first
            parameter.normal_(std=0.3)
    return model


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest) -> Any:
    return model_of(request.param)


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def test_zeroed_neurons_of_down_are_neurons_zeroed_at_its_input(model: Any) -> None:
    """In every layer; the neuron axis slice of down is the only thing that is changed."""
    blocks, matrices = mlp_blocks(model), mlp_matrices(model)
    assert [b.layer for b in blocks] == list(range(LAYERS))
    lesioned = torch.ones(blocks[0].d_mlp)
    lesioned[[0, 5, blocks[0].d_mlp - 1]] = 0
    handles = [
        model.get_submodule(block.down).register_forward_pre_hook(lambda _, x: x[0] * lesioned)
        for block in blocks
    ]
    hooked = logits(model)
    for handle in handles:
        handle.remove()
    bare = logits(model)
    down = [matrix for matrix in matrices if matrix.role == "down"]
    before = [matrix.parameter.detach().clone() for matrix in down]
    try:
        with torch.no_grad():
            for matrix in down:
                part = matrix.view(matrix.parameter).movedim(matrix.neuron_axis, -1)
                part.mul_(lesioned)
        zeroed = logits(model)
    finally:
        for matrix, weight in zip(down, before, strict=True):
            matrix.parameter.data.copy_(weight)
    torch.testing.assert_close(zeroed, hooked, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(bare, hooked, rtol=1e-3, atol=1e-3)


def test_recorded_activity_is_what_the_gate_or_up_matrix_computes(model: Any) -> None:
    """From the input of the MLP and the matrix whose rows are the neurons, computed anew."""
    blocks = mlp_blocks(model)
    matrices = {(matrix.layer, matrix.role): matrix for matrix in mlp_matrices(model)}
    inputs: dict[int, Tensor] = {}
    recorded: dict[int, Tensor] = {}

    def keep(layer: int) -> Any:
        return lambda _, x: inputs.__setitem__(layer, x[0])

    bare = logits(model)
    with neuron_activity(model, recorded.__setitem__):
        handles = [
            model.get_submodule(block.up).register_forward_pre_hook(keep(block.layer))
            for block in blocks
        ]
        assert torch.equal(logits(model), bare)
        for handle in handles:
            handle.remove()
    assert not any(module._forward_hooks for module in model.modules())
    for block in blocks:
        matrix = matrices[block.layer, "up" if block.gate is None else "gate"]
        projection = model.get_submodule(block.gate or block.up)
        weight = matrix.view(matrix.parameter).movedim(matrix.neuron_axis, 0)
        bias = None if projection.bias is None else projection.bias[: block.d_mlp]
        x = inputs[block.layer].reshape(-1, block.d_model)
        activation = model.get_submodule(block.activation)(functional.linear(x, weight, bias))
        assert recorded[block.layer].shape == (IDS.numel(), block.d_mlp)
        torch.testing.assert_close(recorded[block.layer], activation, rtol=1e-4, atol=1e-6)
        assert 0.1 < (recorded[block.layer] > 0).float().mean() < 0.9


def test_matrices_are_listed_layer_by_layer_as_gate_up_down(model: Any) -> None:
    matrices = mlp_matrices(model)
    roles = ["gate", "up", "down"] if mlp_blocks(model)[0].gate else ["up", "down"]
    assert [(m.layer, m.role) for m in matrices] == [(i, r) for i in range(LAYERS) for r in roles]
    assert [m.index for m in matrices] == list(range(len(matrices)))
    assert len({m.name for m in matrices}) == len(matrices)
    parameters = dict(model.named_parameters())
    for matrix in matrices:
        assert parameters[matrix.name.partition("[")[0]] is matrix.parameter
        part = matrix.view(matrix.parameter)
        assert part.shape[matrix.neuron_axis] == matrix.d_mlp
        assert part.shape[1 - matrix.neuron_axis] == D


def test_fused_halves_are_disjoint_row_blocks_that_share_memory() -> None:
    model = model_of("Phi3")
    gate, up, _ = mlp_matrices(model)[:3]
    assert gate.parameter is up.parameter
    assert (gate.name.rpartition("weight")[2], up.name.rpartition("weight")[2]) == (
        "[gate]",
        "[up]",
    )
    marks = torch.zeros_like(gate.parameter)
    gate.view(marks).fill_(1)
    up.view(marks).fill_(2)
    assert (marks[:N] == 1).all() and (marks[N:] == 2).all()


class HandMadeMLP(nn.Module):
    """Two neurons on two features, gate the identity, up its negative."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(2, 2, bias=False)
        self.up_proj = nn.Linear(2, 2, bias=False)
        self.down_proj = nn.Linear(2, 2, bias=False)
        self.act_fn = nn.SiLU()
        self.gate_proj.weight.data = torch.eye(2)
        self.up_proj.weight.data = -torch.eye(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


class HandMadeModel(nn.Module):
    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        self.config = transformers.PretrainedConfig(num_hidden_layers=1, hidden_size=2)
        self.layers = nn.ModuleList([nn.ModuleDict({"mlp": mlp})])

    def forward(self, x: Tensor) -> Tensor:
        return self.layers[0]["mlp"](x)


def test_a_gated_neuron_is_activated_by_its_gate_and_not_by_its_product() -> None:
    """Gate (3, −1) activates neuron 0; the products SiLU(3)·(−3) and SiLU(−1)·1 are negative."""
    recorded = []
    model = HandMadeModel(HandMadeMLP())
    with neuron_activity(model, lambda layer, values: recorded.append(values)):
        model(torch.tensor([[[3.0, -1.0]]]))
    assert torch.equal(recorded[0], functional.silu(torch.tensor([[3.0, -1.0]])))
    assert (recorded[0] > 0).tolist() == [[True, False]]


def test_hooks_are_removed_when_the_forward_pass_fails() -> None:
    model = HandMadeModel(HandMadeMLP())
    with pytest.raises(RuntimeError), neuron_activity(model, lambda *_: None):
        model(torch.ones(1, 1, 3))
    assert not any(module._forward_hooks for module in model.modules())


def test_a_nan_activation_names_its_layer() -> None:
    model = model_of("Llama")
    model.model.layers[1].mlp.gate_proj.weight.data[3, 4] = torch.nan
    with pytest.raises(InputError, match="layer 1 .*found NaN"), neuron_activity(model, print):
        logits(model)


def test_a_mixture_of_experts_is_refused() -> None:
    config = transformers.MixtralConfig(**LLAMA, num_local_experts=4)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with pytest.raises(InputError, match=r"model\.layers\.0.*mixture of experts"):
        mlp_blocks(model)


def test_an_unknown_family_is_told_what_was_looked_for_and_found() -> None:
    with pytest.raises(InputError, match=r"mlp\.down_proj.*found mlp\.wi; add"):
        mlp_blocks(HandMadeModel(nn.ModuleDict({"wi": nn.Linear(2, 2)})))


def test_a_second_gate_beside_a_plain_layout_is_refused() -> None:
    linear = {name: nn.Linear(2, 2) for name in ("c_fc", "c_fc2", "c_proj")}
    with pytest.raises(InputError, match="alone, found mlp.c_fc2"):
        mlp_blocks(HandMadeModel(nn.ModuleDict(linear | {"act": nn.SiLU()})))


def test_widths_that_do_not_fit_are_refused() -> None:
    mlp = HandMadeMLP()
    mlp.up_proj = nn.Linear(2, 3)
    with pytest.raises(InputError, match=r"up_proj: expected widths in, out \(2, 2\), found"):
        mlp_blocks(HandMadeModel(mlp))


def test_a_shared_activation_module_is_refused() -> None:
    model = model_of("Llama")
    model.model.layers[1].mlp.act_fn = model.model.layers[0].mlp.act_fn
    with pytest.raises(InputError, match="found a shared one"):
        mlp_blocks(model)


def test_packed_weights_have_neurons_but_no_matrix_to_mask() -> None:
    """As 4-bit weights: the widths stay, the weight becomes (n, 1) of bytes."""
    model = model_of("Llama")
    projection = model.model.layers[0].mlp.up_proj
    projection.weight = nn.Parameter(torch.zeros(N * D // 2, 1, dtype=torch.uint8), False)
    assert mlp_blocks(model)[0].d_mlp == N
    with pytest.raises(InputError, match=r"up_proj\.weight: expected floating-point \(64, 32\)"):
        mlp_matrices(model)
