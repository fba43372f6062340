"""Neuron masks on LoRA adapters: what peft's change of the weights holds after training."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from families import IDS, N, changes, logits, model_of, with_adapter
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from fnsft.architectures import MLPMatrix, adapter_matrices, mlp_matrices
from fnsft.errors import InputError
from fnsft.masks.adapters import zero_outside
from fnsft.masks.masker import GradientMasker
from fnsft.masks.optimizer import MaskedAdamW
from fnsft.masks.policies import Network

TRAINED = [torch.arange(N) % 5 < 2, torch.arange(N) >= N - 7]  # other neurons in each layer
ADAM = {"lr": 1e-2, "betas": (0.9, 0.99), "weight_decay": 0.1}


@pytest.fixture(params=["Llama", "GPT2", "Phi3"])
def model(request: pytest.FixtureRequest) -> Any:
    """Linear, Conv1D, and a gate and up that are fused."""
    return model_of(request.param)


def train(model: PeftModel, trained: list[Tensor], applies_to: str = "update") -> None:
    """Take five steps, on all of the adapter, with momentum and decay."""
    model.train()
    masker = GradientMasker(adapter_matrices(model), Network(trained))
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = MaskedAdamW(parameters, **ADAM)
    for step in range(5):
        optimizer.zero_grad()
        model(input_ids=IDS.roll(step), labels=IDS.roll(step)).loss.backward()
        if applies_to == "gradient":
            masker.apply_to_gradients(step)
        else:
            optimizer.masks = masker.masks_at(step)
        optimizer.step()


def assert_changed_in_network_alone(model: PeftModel, matrices: Sequence[MLPMatrix]) -> None:
    for matrix, change in zip(matrices, changes(model, matrices), strict=True):
        trained = TRAINED[matrix.layer]
        assert (change[~trained] == 0).all()
        assert change[trained].any(dim=1).all()


@pytest.mark.parametrize("applies_to", ["update", "gradient"])
def test_training_changes_the_weights_of_the_network_and_no_other(
    model: Any, applies_to: str
) -> None:
    matrices = mlp_matrices(model)  # of the weights, before peft wraps them
    adapted = with_adapter(model)
    zero_outside(adapter_matrices(adapted), TRAINED)
    train(adapted, TRAINED, applies_to)
    assert_changed_in_network_alone(adapted, matrices)


def test_the_merged_model_is_bitwise_the_base_model_outside_the_network(model: Any) -> None:
    before = copy.deepcopy(model)
    adapted = with_adapter(model)
    zero_outside(adapter_matrices(adapted), TRAINED)
    train(adapted, TRAINED)
    merged = mlp_matrices(adapted.merge_and_unload())
    for old, new in zip(mlp_matrices(before), merged, strict=True):
        was, now = (m.view(m.parameter).movedim(m.neuron_axis, 0) for m in (old, new))
        same = (was.view(torch.int32) == now.view(torch.int32)).all(dim=1)
        assert torch.equal(same, ~TRAINED[old.layer])


def test_a_new_adapter_loses_the_other_neurons_and_the_model_computes_what_it_did(
    model: Any,
) -> None:
    bare = logits(model)
    adapted = with_adapter(model)
    matrices = adapter_matrices(adapted)
    before = {name: p.detach().clone() for name, p in adapted.named_parameters()}
    zero_outside(matrices, TRAINED)
    assert torch.equal(logits(adapted), bare)
    changed = {name for name, p in adapted.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {matrix.name for matrix in matrices if matrix.role == "down"}
    for matrix in matrices:
        trained = TRAINED[matrix.layer]
        now, was = (
            matrix.view(tensor).movedim(matrix.neuron_axis, 0)
            for tensor in (matrix.parameter, before[matrix.name.partition("[")[0]])
        )
        assert torch.equal(now[trained], was[trained])
        assert not now[~trained].any()


def test_a_trained_adapter_goes_on_with_its_own_neurons_alone(model: Any) -> None:
    adapted = with_adapter(model)
    matrices = adapter_matrices(adapted)
    zero_outside(matrices, TRAINED)
    train(adapted, TRAINED)
    before = copy.deepcopy(adapted.state_dict())
    zero_outside(matrices, TRAINED)
    with pytest.raises(InputError, match=r"\.0\.mlp.*: expected zeros.*new adapter"):
        zero_outside(matrices, [~trained for trained in TRAINED])
    assert all(torch.equal(value, before[name]) for name, value in adapted.state_dict().items())


def test_an_adapter_that_does_not_begin_at_zero_is_refused() -> None:
    adapted = with_adapter(model_of("Llama"), init_lora_weights=False)
    with pytest.raises(InputError, match="lora_B.default.weight: expected zeros"):
        zero_outside(adapter_matrices(adapted), TRAINED)


def test_one_value_in_the_fused_half_of_up_is_found() -> None:
    matrices = adapter_matrices(with_adapter(model_of("Phi3")))
    _, up, *_ = matrices
    outside = int(torch.nonzero(~TRAINED[0])[-1])
    with torch.no_grad():
        up.view(up.parameter)[outside, 1] = 1e-30
    with pytest.raises(InputError, match=r"\.0\..*weight\[up\]: expected zeros"):
        zero_outside(matrices, TRAINED)


def test_weights_of_four_bits_change_in_the_network_alone(tiny_model_dir: Path) -> None:
    pytest.importorskip("bitsandbytes")
    matrices = mlp_matrices(AutoModelForCausalLM.from_pretrained(tiny_model_dir))
    packed = AutoModelForCausalLM.from_pretrained(
        tiny_model_dir, quantization_config=BitsAndBytesConfig(load_in_4bit=True), device_map="cpu"
    )
    assert {p.dtype for name, p in packed.named_parameters() if "mlp" in name} == {torch.uint8}
    adapted = with_adapter(packed)
    zero_outside(adapter_matrices(adapted), TRAINED)
    train(adapted, TRAINED)
    assert_changed_in_network_alone(adapted, matrices)
