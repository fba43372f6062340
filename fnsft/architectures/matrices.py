"""The parameters whose entries belong to neurons: weights of MLPs and heads, or adapters."""

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from fnsft.architectures.blocks import (
    ExpertsBlock,
    MLPBlock,
    alike_layers,
    has_adapters,
    linear_widths,
    mlp_blocks,
)
from fnsft.architectures.heads import head_blocks
from fnsft.config.stages import Neurons
from fnsft.errors import InputError

Role = Literal["gate", "up", "down", "value", "output"]
READERS = ("down", "output")  # what has a neuron's weights in a column of [out, in]


@dataclass(frozen=True, eq=False)
class MLPMatrix:
    """One matrix of an MLP, of its adapter, or of attention heads: a parameter, or a part of it.

    ``name`` is the parameter's, with the expert and the role behind it where it has several.
    ``index`` counts the model's matrices. The matrix holds ``d_mlp`` neurons along
    ``neuron_axis``, from ``offset`` on. A bias [N] is a matrix [N, 1].

    ``layer`` is that of graphs: a decoder block's, or, of E experts a block, expert e of block l
    is layer l·E + e. A parameter of experts is [E, rows, columns], and ``expert`` says which.
    """

    name: str
    layer: int
    index: int
    role: Role
    neuron_axis: int
    d_mlp: int
    offset: int
    parameter: nn.Parameter
    expert: int | None = None

    @property
    def input_axis(self) -> int:
        """The axis along which the weights of different inputs lie; no bias's."""
        return self.neuron_axis if self.role in READERS else 1 - self.neuron_axis

    @property
    def n_inputs(self) -> int:
        """How many inputs a weight matrix has: neurons in a reader, ``d_model`` in the others."""
        return self.view(self.parameter).shape[self.input_axis]

    @property
    def module(self) -> str:
        """The path of the module whose weight it is."""
        return self.name.partition(".weight")[0]

    def view(self, tensor: Tensor) -> Tensor:
        """Return this matrix's part, sharing memory, of a tensor shaped like the parameter."""
        whole = tensor if self.expert is None else tensor[self.expert]
        whole = whole[:, None] if whole.ndim == 1 else whole
        return whole.narrow(self.neuron_axis, self.offset, self.d_mlp)


def neuron_matrices(model: nn.Module, neurons: Neurons) -> list[MLPMatrix]:
    """List the weight matrices of these neurons; raises as the function for them."""
    return mlp_matrices(model) if neurons == "mlp" else head_matrices(model)


def mlp_matrices(model: nn.Module) -> list[MLPMatrix]:
    """List the MLP weight matrices: layer by layer, gate, up, down; biases are not among them.

    In mixtures they are those of expert after expert.

    Raises
    ------
    InputError
        As :func:`alike_layers`; for quantised weights, which have no matrix to view; and for
        weights with adapters, which are not what is trained.
    """
    found: list[MLPMatrix] = []
    for layer in alike_layers(model):
        if isinstance(layer, ExpertsBlock):
            found += _of_experts(model, layer)
        else:
            found += _weights(model, _of_mlp(layer))
    return _numbered(found)


def head_matrices(model: nn.Module) -> list[MLPMatrix]:
    """List the weight matrices of attention heads' channels: layer by layer, value and output.

    Value is left out where a row of it is no neuron's (:mod:`.heads`).

    Raises
    ------
    InputError
        As :func:`head_blocks`, and for weights as :func:`mlp_matrices`.
    """
    return _numbered(_weights(model, _head_projections(model)))


def neuron_biases(model: nn.Module, neurons: Neurons = "mlp") -> list[MLPMatrix]:
    """List the biases of gate, up and value, whose indices follow those of the matrices.

    That of down or output is no neuron's, and experts have none.
    """
    biases: list[MLPMatrix] = []
    matrices = neuron_matrices(model, neurons)
    for matrix in matrices:
        module = None if matrix.expert is not None else model.get_submodule(matrix.module)
        bias = getattr(module, "bias", None)
        if matrix.role not in READERS and bias is not None:
            name = matrix.name.replace(".weight", ".bias")
            own = dataclasses.replace(matrix, name=name, neuron_axis=0, parameter=bias)
            biases.append(own)
    return _numbered(biases, first=len(matrices))


def adapter_matrices(model: nn.Module, adapter: str = "default") -> list[MLPMatrix]:
    """List the matrices of a LoRA adapter that hold neurons, as :func:`mlp_matrices` does.

    They are B [N, r] of gate and up, with a neuron's parameters in its row ([2N, r] when
    fused), and A [r, N] of down, with them in its column. The base model may be quantised.

    Raises
    ------
    InputError
        As :func:`mlp_blocks`; for a projection without this adapter, and for variants of LoRA.

    Notes
    -----
    An adapter adds s·B·A to a weight [out, in] (Hu et al. 2021, Section 4.1), to that of a
    Conv1D its transpose. Neuron i's part of it is s·B[i]·A in gate and up and s·B·A[:, i] in
    down. A of gate and up and B of down are every neuron's, so they are not listed; whatever
    they hold, a neuron's part is zero while its own parameters are.
    """
    found = []
    for projection in (p for block in mlp_blocks(model) for p in _of_mlp(block)):
        _require_lora(projection.path, model.get_submodule(projection.path), adapter)
        axis = int(projection.role == "down")
        name = f"{projection.path}.{'lora_A' if axis else 'lora_B'}.{adapter}.weight"
        found.append(projection.matrix(name, axis, model.get_parameter(name)))
    return _numbered(found)


class _Projection(NamedTuple):
    """A linear layer that holds ``width`` neurons from ``offset`` on, among others if ``half``."""

    layer: int
    role: Role
    path: str
    width: int
    offset: int = 0
    half: bool = False

    def matrix(self, name: str, neuron_axis: int, parameter: nn.Parameter) -> MLPMatrix:
        return MLPMatrix(
            name=f"{name}[{self.role}]" if self.half else name,
            layer=self.layer,
            index=0,
            role=self.role,
            neuron_axis=neuron_axis,
            d_mlp=self.width,
            offset=self.offset,
            parameter=parameter,
        )


def _of_mlp(block: MLPBlock) -> Iterator[_Projection]:
    """Yield a block's gate, up and down; a fused projection is both of two."""
    at, width, fused = block.layer, block.d_mlp, block.fused
    if block.gate is not None:
        yield _Projection(at, "gate", block.gate, width, half=fused)
    yield _Projection(at, "up", block.up, width, width if fused else 0, half=fused)
    yield _Projection(at, "down", block.down, width)


def _head_projections(model: nn.Module) -> Iterator[_Projection]:
    for block in head_blocks(model):
        at, width = block.layer, block.width
        if block.value is not None:
            yield _Projection(at, "value", block.value, width, block.offset, block.offset > 0)
        yield _Projection(at, "output", block.output, width)


def _weights(model: nn.Module, projections: Iterable[_Projection]) -> Iterator[MLPMatrix]:
    for projection in projections:
        path = projection.path
        parameter, transposed = plain_weight(path, model.get_submodule(path))
        axis = int((projection.role in READERS) != transposed)
        yield projection.matrix(f"{path}.weight", axis, parameter)


def _of_experts(model: nn.Module, block: ExpertsBlock) -> Iterator[MLPMatrix]:
    experts: Any = model.get_submodule(block.experts)
    if has_adapters(experts):
        raise InputError(
            f"{block.experts}: expected weights without adapters, found those of "
            f"{type(experts).__name__} of peft; merge the adapters first"
        )
    width = block.d_expert
    for expert in range(block.n_experts):
        layer = block.layer * block.n_experts + expert
        for role, name, offset in _EXPERT_PARTS:
            path = f"{block.experts}.{name}"
            part = _Projection(layer, role, path, width, offset * width, half=role != "down")
            matrix = part.matrix(f"{path}[{expert}]", int(role == "down"), getattr(experts, name))
            yield dataclasses.replace(matrix, expert=expert)


_EXPERT_PARTS: tuple[tuple[Role, str, int], ...] = (
    ("gate", "gate_up_proj", 0),
    ("up", "gate_up_proj", 1),
    ("down", "down_proj", 0),
)


def _numbered(matrices: Iterable[MLPMatrix], first: int = 0) -> list[MLPMatrix]:
    return [dataclasses.replace(matrix, index=i) for i, matrix in enumerate(matrices, first)]


def plain_weight(path: str, module: Any) -> tuple[nn.Parameter, bool]:
    """Return the weight of a linear layer and whether it is [in, out]."""
    if has_adapters(module):
        raise InputError(
            f"{path}: expected a weight without adapters, found {type(module).__name__} of peft; "
            "use adapter_matrices, or merge the adapters first"
        )
    parameter = module.weight
    transposed = isinstance(module, Conv1D)
    widths = linear_widths(path, module)
    shape = widths if transposed else widths[::-1]
    if parameter.shape != shape or not parameter.is_floating_point():
        raise InputError(
            f"{path}.weight: expected floating-point {shape}, found {parameter.dtype} "
            f"{tuple(parameter.shape)}; a quantised model cannot be masked"
        )
    return parameter, transposed


def _require_lora(path: str, module: Any, adapter: str) -> None:
    adapters = getattr(module, "lora_A", {})
    if adapter not in adapters:
        raise InputError(
            f"{path}: expected a LoRA adapter {adapter!r}, found {', '.join(adapters) or 'none'}; "
            "let target_modules name every projection of the MLP"
        )
    variant = module.lora_variant.get(adapter)
    if variant or not isinstance(adapters[adapter], nn.Linear):
        # DoRA, for one, scales rows of the whole weight, and with them every neuron of down.
        raise InputError(
            f"{path}: expected plain LoRA, found {type(variant or module).__name__}; "
            "use a LoraConfig without use_dora or another variant"
        )
