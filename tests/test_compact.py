"""Compact layers: some neurons of a frozen MLP are parameters, and learn as the whole would."""

from typing import Any

import pytest
import torch
from families import FAMILIES, IDS, LAYERS, N, logits, model_of
from torch import Tensor

from fnsft.architectures import mlp_matrices
from fnsft.architectures.matrices import neuron_biases
from fnsft.masks.compact import CompactLinear, as_plain, make_compact

# Of the second layer none trains in the third choice; of both all do in the last one.
CHOICES = [
    [[1, 5, 40], [0, *range(30, 64)]],
    [[63], [2, 1]],
    [[7], []],
    [range(N), range(N)],
]


def neurons(choice: int = 0) -> list[Tensor]:
    layers = [torch.zeros(N, dtype=torch.bool) for _ in range(LAYERS)]
    for layer, listed in zip(layers, CHOICES[choice], strict=True):
        layer[list(listed)] = True
    return layers


def biased(family: str) -> dict[str, Any]:
    return {"mlp_bias": True} if family == "Llama" else {}


def backward(model: Any) -> float:
    loss = model(input_ids=IDS, labels=IDS).loss
    loss.backward()
    return loss.item()


def trained_part(compact: CompactLinear, whole: Tensor) -> Tensor:
    """What the layer's slice is of a tensor shaped like its weight, by plain loops."""
    rows = compact.of_inputs == compact.transposed
    kept = compact.index.tolist()
    return torch.stack([whole[i] if rows else whole[:, i] for i in kept], dim=0 if rows else 1)


@pytest.mark.parametrize("family", FAMILIES)
def test_slices_have_the_gradient_that_the_whole_weights_have_there(family: str) -> None:
    whole, model = (model_of(family, **biased(family)) for _ in range(2))
    make_compact(model, neurons())
    before = logits(whole)
    assert torch.equal(logits(model), before)
    assert backward(model) == pytest.approx(backward(whole), rel=1e-6)
    masked = {matrix.parameter for matrix in (*mlp_matrices(whole), *neuron_biases(whole))}
    found = dict(model.named_modules())
    n_slices = 0
    for path, layer in whole.named_modules():
        compact = found[path]
        if not isinstance(compact, CompactLinear):
            continue
        n_slices += 1
        expected = trained_part(compact, layer.weight.grad)
        torch.testing.assert_close(compact.trained_weight.grad, expected, rtol=1e-4, atol=1e-6)
        assert compact.base_layer.weight.grad is None
        if compact.trained_bias is not None:
            expected = layer.bias.grad[compact.index]
            torch.testing.assert_close(compact.trained_bias.grad, expected, rtol=1e-4, atol=1e-6)
            assert compact.base_layer.bias.grad is None
    assert n_slices == len({m.name.partition(".weight")[0] for m in mlp_matrices(whole)})
    gradients = {n.replace(".base_layer", ""): p.grad for n, p in model.named_parameters()}
    for name, parameter in whole.named_parameters():
        if parameter not in masked:  # down's bias among them
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("choice", range(len(CHOICES)))
@pytest.mark.parametrize("family", ["Llama", "GPT2", "Phi3"])
def test_only_the_chosen_neurons_are_parameters_and_what_they_learn_is_in_the_plain_model(
    family: str, choice: int
) -> None:
    model = model_of(family, **biased(family))
    names = [name for name, _ in model.named_parameters()]
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    entries = {
        matrix.name: matrix.parameter.numel() // N if matrix.parameter.ndim > 1 else 1
        for matrix in (*mlp_matrices(model), *neuron_biases(model))
    }
    model.requires_grad_(False)
    make_compact(model, neurons(choice))
    trained = [p for p in model.parameters() if p.requires_grad]
    per_neuron = sum(entries.values()) // LAYERS
    if family == "Phi3":  # its gate and up are one parameter
        per_neuron = sum(e // (2 if "[" in name else 1) for name, e in entries.items()) // LAYERS
    assert sum(p.numel() for p in trained) == per_neuron * sum(map(len, CHOICES[choice]))
    optimizer = torch.optim.AdamW(trained, lr=0.01)
    for _ in range(2):
        backward(model)
        optimizer.step()
        optimizer.zero_grad()
    learned = logits(model)
    with as_plain(model):
        assert [name for name, _ in model.named_parameters()] == names
        assert torch.equal(logits(model), learned)
        for matrix in (*mlp_matrices(model), *neuron_biases(model)):
            was = matrix.view(start[matrix.name.partition("[")[0]]).movedim(matrix.neuron_axis, 0)
            now = matrix.view(matrix.parameter.detach()).movedim(matrix.neuron_axis, 0)
            chosen = neurons(choice)[matrix.layer]
            assert torch.equal(now[~chosen].view(torch.int32), was[~chosen].view(torch.int32))
            assert (now[chosen] != was[chosen]).float().mean().nan_to_num(1) > 0.9, matrix.name
    assert torch.equal(logits(model), learned)


def test_no_gradient_is_larger_than_the_slices() -> None:
    """The backward pass of a compact layer makes nothing of the whole weight's shape."""
    model = model_of("Llama", intermediate_size=1009)
    trained = [torch.zeros(1009, dtype=torch.bool) for _ in range(LAYERS)]
    for layer in trained:
        layer[:3] = True
    model.requires_grad_(False)
    make_compact(model, trained)
    seen: list[tuple[int, ...]] = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor) and func is torch.ops.aten.mm.default:
                seen.append(tuple(out.shape))
            return out

    loss = model(input_ids=IDS, labels=IDS).loss
    with Watch():
        loss.backward()
    d = model.config.hidden_size
    assert {(3, d), (d, 3)} <= set(seen)
    assert not {(1009, d), (d, 1009)} & set(seen)


def test_of_a_gated_mlp_gate_up_and_what_trains_are_kept() -> None:
    model = model_of("Llama")
    model.requires_grad_(False)
    make_compact(model, neurons())
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter) and tensor.shape[:-1] == IDS.shape:
            kept[tensor.data_ptr()] = tensor.shape[-1]
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(input_ids=IDS)
    widths = list(kept.values())
    assert widths.count(N) == 2 * LAYERS
    assert all(widths.count(len(layer)) == 1 for layer in CHOICES[0])


def test_in_bfloat16_by_autocast_slices_have_the_whole_weights_gradient() -> None:
    whole, model = (model_of("Llama", mlp_bias=True) for _ in range(2))
    make_compact(model, neurons())
    for each in (whole, model):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = each(input_ids=IDS, labels=IDS).loss
        loss.backward()
    for path, compact in model.named_modules():
        if isinstance(compact, CompactLinear):
            expected = trained_part(compact, whole.get_submodule(path).weight.grad)
            found = compact.trained_weight.grad
            assert found is not None and found.dtype == torch.float32
            error = (found - expected).norm() / expected.norm()
            assert error < 0.01, path


def test_with_checkpointing_and_two_passes_gradients_are_the_same() -> None:
    one, other = (model_of("Llama") for _ in range(2))
    for model in (one, other):
        make_compact(model, neurons())
    other.train()
    other.activation_checkpointing_enable()
    for model in (one, other):
        backward(model)
        backward(model)
    slices = {n: p.grad for n, p in one.named_parameters() if "trained_" in n}
    assert len(slices) == 3 * LAYERS
    for name, parameter in other.named_parameters():
        if name in slices:
            torch.testing.assert_close(parameter.grad, slices[name], rtol=1e-5, atol=1e-7)
