"""The parameters whose entries belong to neurons: the MLP's weights, or those of its adapters."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from fnsft.architectures.blocks import MLPBlock, has_adapters, linear_widths, mlp_blocks
from fnsft.errors import InputError

Role = Literal["gate", "up", "down"]


@dataclass(frozen=True, eq=False)
class MLPMatrix:
    """One matrix of an MLP or its adapter: a parameter, or its half when gate and up are fused.

    ``name`` is the parameter's, with ``[gate]`` or ``[up]`` behind it for a half. ``index``
    counts the model's matrices. The matrix holds ``d_mlp`` neurons along ``neuron_axis``,
    from ``offset`` on. A bias [N] is a matrix [N, 1].
    """

    name: str
    layer: int
    index: int
    role: Role
    neuron_axis: int
    d_mlp: int
    offset: int
    parameter: nn.Parameter

    @property
    def input_axis(self) -> int:
        """The axis along which the weights of different inputs lie; no bias's."""
        return self.neuron_axis if self.role == "down" else 1 - self.neuron_axis

    @property
    def n_inputs(self) -> int:
        """How many inputs a weight matrix has: neurons in down, ``d_model`` in the others."""
        return self.view(self.parameter).shape[self.input_axis]

    def view(self, tensor: Tensor) -> Tensor:
        """Return this matrix's part, sharing memory, of a tensor shaped like the parameter."""
        whole = tensor[:, None] if tensor.ndim == 1 else tensor
        return whole.narrow(self.neuron_axis, self.offset, self.d_mlp)


def mlp_matrices(model: nn.Module) -> list[MLPMatrix]:
    """List the MLP weight matrices: layer by layer, gate, up, down; biases are not among them.

    Raises
    ------
    InputError
        As :func:`mlp_blocks`; for quantised weights, which have no matrix to view; and for
        weights with adapters, which are not what is trained.
    """
    matrices: list[MLPMatrix] = []
    for block, role, path in _projections(model):
        parameter, transposed = plain_weight(path, model.get_submodule(path))
        axis = int((role == "down") != transposed)
        matrices.append(_matrix(len(matrices), block, role, axis, f"{path}.weight", parameter))
    return matrices


def mlp_biases(model: nn.Module) -> list[MLPMatrix]:
    """List the biases of gate and up, whose indices follow those of :func:`mlp_matrices`.

    Down's bias is no neuron's.
    """
    biases: list[MLPMatrix] = []
    first = len(mlp_matrices(model))
    for block, role, path in _projections(model):
        bias = getattr(model.get_submodule(path), "bias", None)
        if role != "down" and bias is not None:
            biases.append(_matrix(first + len(biases), block, role, 0, f"{path}.bias", bias))
    return biases


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
    matrices: list[MLPMatrix] = []
    for block, role, path in _projections(model):
        _require_lora(path, model.get_submodule(path), adapter)
        name = f"{path}.{'lora_A' if role == 'down' else 'lora_B'}.{adapter}.weight"
        axis, parameter = int(role == "down"), model.get_parameter(name)
        matrices.append(_matrix(len(matrices), block, role, axis, name, parameter))
    return matrices


def _projections(model: nn.Module) -> Iterator[tuple[MLPBlock, Role, str]]:
    """Yield the paths of each block's gate, up and down; a fused projection is both of two."""
    for block in mlp_blocks(model):
        paths: dict[Role, str | None] = {"gate": block.gate, "up": block.up, "down": block.down}
        for role, path in paths.items():
            if path is not None:
                yield block, role, path


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


def _matrix(
    index: int, block: MLPBlock, role: Role, neuron_axis: int, name: str, parameter: nn.Parameter
) -> MLPMatrix:
    half = block.fused and role != "down"
    return MLPMatrix(
        name=f"{name}[{role}]" if half else name,
        layer=block.layer,
        index=index,
        role=role,
        neuron_axis=neuron_axis,
        d_mlp=block.d_mlp,
        offset=block.d_mlp if half and role == "up" else 0,
        parameter=parameter,
    )
