"""Parameters of some neurons or columns alone, in layers that are otherwise frozen.

A mask that stays the same in all steps needs no gradient and no moments outside of it. Here a
linear layer keeps its weight whole and frozen, and the n trained rows or columns of it are a
parameter beside it: gradient and optimizer state have that parameter's size. The layer
computes as before, and its backward pass takes no other weight gradient than theirs. What
an activation returns, which is as large as its input, is computed twice and not kept.

T tokens, I and O widths in and out of a layer, N neurons of an MLP, n of them trained.
"""

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.pytorch_utils import Conv1D

from fnsft.architectures import mlp_blocks, mlp_matrices
from fnsft.errors import InputError


class CompactLinear(nn.Module):
    """A frozen linear layer with n trained outputs, or inputs.

    Parameters
    ----------
    layer
        Gate, up, or both fused, whose outputs are neurons, or down, whose inputs are. Its weight
        is frozen; so is its bias where outputs train.
    index
        The trained ones, int64 [n], each once.
    of_inputs
        Whether they are inputs: down's neurons, or columns of any matrix.

    Attributes
    ----------
    trained_weight
        Their part of the weight, [n, I] or [O, n]; of a Conv1D the transpose.
    trained_bias
        Their part of the bias, [n]; None where there is none, and for inputs.

    Notes
    -----
    y = W x + b, where W has the trained part in its place. The gradient g of y gives Wᵀ g for x,
    as ever, and for the trained part g[index] xᵀ (outputs) or g x[index]ᵀ (inputs): entry by entry
    what the whole weight's gradient has there. Of an x of which inputs train, n columns are kept
    for the backward pass.
    """

    index: Tensor

    def __init__(self, layer: nn.Linear | Conv1D, index: Tensor, of_inputs: bool) -> None:
        super().__init__()
        self.base_layer = layer
        self.of_inputs, self.transposed = of_inputs, isinstance(layer, Conv1D)
        self.axis = int(of_inputs != self.transposed)
        self.register_buffer("index", index.to(layer.weight.device), persistent=False)
        part = layer.weight.detach().index_select(self.axis, self.index)
        self.trained_weight = nn.Parameter(part)
        layer.weight.requires_grad_(False)
        self.trained_bias: nn.Parameter | None = None
        if layer.bias is not None and not of_inputs:
            self.trained_bias = nn.Parameter(layer.bias.detach()[self.index])
            layer.bias.requires_grad_(False)

    @torch.no_grad()
    def write(self) -> None:
        """Put the trained part into the frozen weight and bias."""
        # By ``data``: a second forward pass, as checkpointing takes, writes the same values once
        # more, which is no change to what the first has kept.
        self.base_layer.weight.data.index_copy_(self.axis, self.index, self.trained_weight)
        if self.trained_bias is not None:
            self.base_layer.bias.data.index_copy_(0, self.index, self.trained_bias)

    def forward(self, values: Tensor) -> Tensor:
        """Return the layer's output [..., O] of values [..., I]."""
        self.write()
        kind = values.device.type
        if torch.is_autocast_enabled(kind):
            values = values.to(torch.get_autocast_dtype(kind))
        bias = self.trained_bias if self.trained_bias is not None else self.base_layer.bias
        output: Tensor = _Product.apply(values, self.trained_weight, bias, self)
        return output


class _Product(torch.autograd.Function):
    """The layer's product; ``weight`` and ``bias`` are there for their gradients."""

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, weight: Tensor, bias: Tensor | None, layer: CompactLinear
    ) -> Tensor:
        kept = values[..., layer.index] if layer.of_inputs else values
        ctx.save_for_backward(kept, layer.base_layer.weight)
        ctx.layer = layer
        output: Tensor = layer.base_layer(values)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        layer, (kept, whole) = ctx.layer, ctx.saved_tensors
        of_values = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            whole = whole.to(gradient.dtype)
            of_values = gradient @ (whole.T if layer.transposed else whole)
        x, g = kept.flatten(0, -2), gradient.flatten(0, -2)  # [T, I or n], [T, O]
        if not layer.of_inputs:
            g = g.index_select(1, layer.index)
        if ctx.needs_input_grad[1]:
            of_weight = x.T @ g if layer.transposed else g.T @ x
        if ctx.needs_input_grad[2]:
            of_bias = g.sum(0)
        return of_values, of_weight, of_bias, None


class CompactActivation(nn.Module):
    """An activation that gates, whose output the backward pass computes again."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = layer

    def forward(self, gate: Tensor) -> "_Gate":
        """Return the factor of the MLP's product, not yet computed, of gate [..., N]."""
        return _Gate(gate, self.base_layer)


class _Gate:
    """act(gate), waiting for what it is multiplied with."""

    def __init__(self, gate: Tensor, activation: nn.Module) -> None:
        self.gate, self.activation = gate, activation

    def __mul__(self, up: Tensor) -> Tensor:
        output: Tensor = _Gated.apply(self.gate, up, self.activation)
        return output

    __rmul__ = __mul__


class _Gated(torch.autograd.Function):
    """act(gate) · up, of which gate and up are kept."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, activation: nn.Module) -> Tensor:
        ctx.save_for_backward(gate, up)
        ctx.activation = activation
        output: Tensor = activation(gate) * up
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        gate, up = ctx.saved_tensors
        with torch.enable_grad():
            gate = gate.detach().requires_grad_()
            active = ctx.activation(gate)
        (of_gate,) = torch.autograd.grad(active, gate, gradient * up)
        return of_gate, gradient * active.detach(), None


def make_compact(model: nn.Module, trained: Sequence[Tensor], of_columns: bool = False) -> float:
    """Let of the MLPs' weights only these train, as slices, in place; return their share.

    ``trained`` are bool vectors of neurons, [N] a layer, all of whose weights train: rows of gate
    and up with their biases, columns of down. Or, ``of_columns``, of the inputs of every matrix, as
    :func:`fnsft.architectures.mlp_matrices` lists them. Other parameters stay as they are.

    Raises
    ------
    InputError
        As :func:`fnsft.architectures.mlp_matrices`, for experts, and for columns of a gate and an
        up that share a parameter; then nothing has changed.
    """
    indices = defaultdict(list)
    roles = {}
    n_trained = n_entries = 0
    for matrix in mlp_matrices(model):
        if matrix.expert is not None:
            raise InputError(
                f"{matrix.name}: compact: expected linear layers, found a mixture of experts; "
                "leave compact off"
            )
        path = matrix.module
        if of_columns and path in indices:
            raise InputError(
                f"{matrix.name}: compact: expected a matrix whose columns train by themselves, "
                "found gate and up in one parameter; leave compact off"
            )
        chosen = trained[matrix.index if of_columns else matrix.layer]
        indices[path].append(chosen.nonzero().flatten() + matrix.offset)
        roles[path] = matrix.role
        size = matrix.view(matrix.parameter).numel()
        n_trained += int(chosen.sum()) * (size // len(chosen))
        n_entries += size
    for path, found in indices.items():
        layer: Any = model.get_submodule(path)
        of_inputs = of_columns or roles[path] == "down"
        compact = CompactLinear(layer, torch.cat(found), of_inputs)
        if len(compact.index):  # without one the layer, now frozen, stays as it is
            model.set_submodule(path, compact)
    for block in mlp_blocks(model):
        if block.gate is not None:
            activation = model.get_submodule(block.activation)
            model.set_submodule(block.activation, CompactActivation(activation))
    return n_trained / n_entries


@contextlib.contextmanager
def as_plain(model: nn.Module) -> Iterator[None]:
    """Put the layers themselves back, with what they have learned, for as long as it lasts."""
    kinds = (CompactLinear, CompactActivation)
    found = [(path, m) for path, m in model.named_modules() if isinstance(m, kinds)]
    for path, layer in found:
        if isinstance(layer, CompactLinear):
            layer.write()
        model.set_submodule(path, layer.base_layer)
    try:
        yield
    finally:
        for path, layer in found:
            model.set_submodule(path, layer)
