"""Where MLP neurons live, on tiny random models of every supported family."""

import copy
import dataclasses
from typing import Any

import pytest
import torch
import transformers
from families import (
    FAMILIES,
    IDS,
    LAYERS,
    PREFIX,
    D,
    N,
    changes,
    logits,
    model_of,
    with_adapter,
)
from peft import AdaLoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from torch.nn import functional

from fnsft.architectures import adapter_matrices, mlp_blocks, mlp_matrices, neuron_activity
from fnsft.errors import InputError


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest) -> Any:
    return model_of(request.param)


@pytest.fixture(scope="module")
def adapted(model: Any) -> PeftModel:
    """A copy of the model with an adapter whose A and B are random."""
    return with_adapter(copy.deepcopy(model), init_lora_weights=False)


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


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("Mixtral", {}, r"\.mlp: expected one MLP, .*experts; graphs and masks take experts with"),
        ("Qwen3Moe", {}, "one width, .* found 1 of 64 neurons and 4 of 24 neurons; graphs"),
        ("DeepseekV3", {}, r"layers\.1\.mlp: expected routed experts alone, found shared ones"),
    ],
)
def test_what_adapters_by_neuron_cannot_be_is_refused_of_moe(
    family: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        mlp_blocks(model_of(family, **options))


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


@pytest.mark.parametrize(
    "packed", [torch.zeros(N * D // 2, 1, dtype=torch.uint8), torch.zeros(N, D, dtype=torch.int8)]
)
def test_packed_weights_have_neurons_but_no_matrix_to_mask(packed: Tensor) -> None:
    """As of 4 and 8 bits: the widths stay; the weight becomes (n, 1) of bytes, or integers."""
    model = model_of("Llama")
    projection = model.model.layers[0].mlp.up_proj
    projection.weight = nn.Parameter(packed, False)
    assert mlp_blocks(model)[0].d_mlp == N
    with pytest.raises(InputError, match=r"up_proj\.weight: expected floating-point \(64, 32\)"):
        mlp_matrices(model)


def test_neurons_without_adapter_parameters_are_those_it_leaves_alone(
    model: Any, adapted: PeftModel
) -> None:
    """In peft's own change of the weight, whose neurons the model without adapter tells."""
    gone = torch.tensor([0, 5, mlp_blocks(model)[0].d_mlp - 1])
    trial = copy.deepcopy(adapted)
    with torch.no_grad():
        for matrix in adapter_matrices(trial):
            matrix.view(matrix.parameter).index_fill_(matrix.neuron_axis, gone, 0)
    matrices = mlp_matrices(model)
    found = zip(matrices, changes(trial, matrices), changes(adapted, matrices), strict=True)
    for matrix, without, whole in found:
        torch.testing.assert_close(without, whole.index_fill(0, gone, 0), rtol=1e-5, atol=1e-6)
        assert without.any(dim=1).sum() == matrix.d_mlp - len(gone)


def test_adapter_matrices_are_listed_as_those_of_the_model(model: Any, adapted: PeftModel) -> None:
    matrices, parameters = adapter_matrices(adapted), dict(adapted.named_parameters())
    for matrix, of_model in zip(matrices, mlp_matrices(model), strict=True):
        same = ("layer", "index", "role", "d_mlp")
        assert [getattr(matrix, f) for f in same] == [getattr(of_model, f) for f in same]
        name, _, half = matrix.name.partition("[")
        assert half == of_model.name.partition("[")[2]
        assert parameters[name] is matrix.parameter
        assert matrix.view(matrix.parameter).shape[1 - matrix.neuron_axis] == 3


def test_a_model_with_an_adapter_has_the_blocks_and_activity_that_it_had(model: Any) -> None:
    fresh = with_adapter(copy.deepcopy(model))
    blocks = [
        dataclasses.replace(
            block,
            gate=block.gate and PREFIX + block.gate,
            up=PREFIX + block.up,
            down=PREFIX + block.down,
            activation=PREFIX + block.activation,
        )
        for block in mlp_blocks(model)
    ]
    assert mlp_blocks(fresh) == blocks
    seen: list[dict[int, Tensor]] = [{}, {}]
    for watched, recorded in zip((model, fresh), seen, strict=True):
        with neuron_activity(watched, recorded.__setitem__):
            logits(watched)
    assert len(seen[0]) == LAYERS
    assert all(torch.equal(seen[0][layer], seen[1][layer]) for layer in seen[0])


def test_each_adapter_has_matrices_of_its_own() -> None:
    """One of them with a name that would pass for a mixture of experts."""
    model = with_adapter(model_of("Phi3"), "expert")
    model.add_adapter("wide", dataclasses.replace(model.peft_config["expert"], r=5))
    for name, rank in (("expert", 3), ("wide", 5)):
        gate, _, down = adapter_matrices(model, name)[:3]
        assert (gate.parameter.shape, down.parameter.shape) == ((2 * N, rank), (rank, N))
    with pytest.raises(InputError, match="adapter 'default', found expert, wide; let"):
        adapter_matrices(model)


def test_adapters_of_other_modules_alone_are_refused() -> None:
    model = with_adapter(model_of("Llama"), target_modules=["q_proj", "up_proj"])
    expected = r"layers\.0\.mlp\.gate_proj: expected a LoRA adapter 'default', found none; let"
    with pytest.raises(InputError, match=expected):
        adapter_matrices(model)


def test_variants_of_lora_are_refused() -> None:
    paths = [path for b in mlp_blocks(model_of("Llama")) for path in (b.gate, b.up, b.down)]
    ada = get_peft_model(model_of("Llama"), AdaLoraConfig(target_modules=paths, total_step=10))
    dora = with_adapter(model_of("Llama"), use_dora=True)
    for model, found in ((ada, "SVDLinear"), (dora, "DoraLinearVariant")):
        with pytest.raises(InputError, match=f"gate_proj: expected plain LoRA, found {found}"):
            adapter_matrices(model)


def test_weights_with_adapters_are_refused_until_they_are_merged() -> None:
    model = with_adapter(model_of("GPT2"))
    with pytest.raises(InputError, match="c_fc: expected a weight without adapters"):
        mlp_matrices(model)
    assert len(mlp_matrices(model.merge_and_unload())) == 2 * LAYERS


def test_packed_weights_can_have_adapters() -> None:
    model = model_of("Llama")
    for block in mlp_blocks(model):
        packed = nn.Parameter(torch.zeros(N * D // 2, 1, dtype=torch.uint8), False)
        model.get_submodule(block.down).weight = packed
    down = adapter_matrices(with_adapter(model))[2]
    assert (down.role, down.parameter.shape, down.neuron_axis) == ("down", (3, N), 1)
