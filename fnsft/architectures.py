"""Where the MLP neurons of a language model live: the only place that knows.

Shapes: N = ``d_mlp`` neurons of a layer, D = ``d_model``. A layer computes
``down(act(gate(x)) * up(x))`` (gated) or ``down(act(up(x)))`` (plain). Neuron i is row i of
gate and up and column i of down in :class:`torch.nn.Linear`, whose weight is [out, in]; in
GPT-2's ``Conv1D``, whose weight is [in, out], it is the other axis.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from fnsft.errors import InputError

Role = Literal["gate", "up", "down"]


class Layout(NamedTuple):
    """Module paths in a decoder block; gate = up is one matrix whose first N rows are the gate."""

    gate: str | None
    up: str
    down: str

    @property
    def paths(self) -> list[str]:
        """The projections' paths."""
        return [path for path in self if path is not None]

    @property
    def activations(self) -> list[str]:
        """Where the activation may be: beside the up projection."""
        return [".".join([*self.up.split(".")[:-1], name]) for name in ACTIVATION_NAMES]


ACTIVATION_NAMES = ("act_fn", "activation_fn", "act", "gelu_impl")


# The first whose modules are all there is the block's.
LAYOUTS = (
    # Llama, Mistral, Qwen 2 and 3, Gemma 2 and 3, OLMo 2, SmolLM 3, Cohere 2, Granite, StableLM
    Layout("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
    # Phi-3, GLM-4
    Layout("mlp.gate_up_proj", "mlp.gate_up_proj", "mlp.down_proj"),
    # Nemotron
    Layout(None, "mlp.up_proj", "mlp.down_proj"),
    # GPT-2, Starcoder 2
    Layout(None, "mlp.c_fc", "mlp.c_proj"),
    # Phi
    Layout(None, "mlp.fc1", "mlp.fc2"),
    # OPT
    Layout(None, "fc1", "fc2"),
    # GPT-NeoX, Falcon, Bloom
    Layout(None, "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
    # GPT-J
    Layout(None, "mlp.fc_in", "mlp.fc_out"),
    # MPT
    Layout(None, "ffn.up_proj", "ffn.down_proj"),
)


@dataclass(frozen=True)
class MLPBlock:
    """The MLP of layer ``layer`` (from 0), by module paths in the model.

    ``gate`` is None for a plain MLP, and ``up`` itself when they are ``fused``. The output of
    the module ``activation`` is act(gate(x)), or act(up(x)) of a plain MLP.
    """

    layer: int
    d_mlp: int
    d_model: int
    gate: str | None
    up: str
    down: str
    activation: str

    @property
    def fused(self) -> bool:
        """Whether one projection holds the gate (first N rows) and up."""
        return self.gate == self.up


@dataclass(frozen=True, eq=False)
class MLPMatrix:
    """One weight matrix of an MLP: a parameter, or its half when gate and up are fused.

    ``name`` is the parameter's, with ``[gate]`` or ``[up]`` behind it for a half. ``index``
    counts the model's matrices. The matrix holds ``d_mlp`` neurons along ``neuron_axis``,
    from ``offset`` on.
    """

    name: str
    layer: int
    index: int
    role: Role
    neuron_axis: int
    d_mlp: int
    offset: int
    parameter: nn.Parameter

    def view(self, tensor: Tensor) -> Tensor:
        """Return this matrix's part, sharing memory, of a tensor shaped like the parameter."""
        return tensor.narrow(self.neuron_axis, self.offset, self.d_mlp)


def mlp_blocks(model: nn.Module) -> list[MLPBlock]:
    """Find the MLP of every decoder block.

    Raises
    ------
    InputError
        For an architecture that is not in the table or does not have the expected shapes,
        and for mixtures of experts.
    """
    name, decoder = _decoder(model)
    d_model = _config(model).hidden_size
    blocks = [_block(f"{name}.{i}", i, block, d_model) for i, block in enumerate(decoder)]
    widths = sorted({block.d_mlp for block in blocks})
    if len(widths) > 1:
        raise InputError(f"{name}: expected MLPs of one width, found {widths}")
    if len({id(model.get_submodule(block.activation)) for block in blocks}) < len(blocks):
        raise InputError(f"{name}: expected an activation module a layer, found a shared one")
    return blocks


def mlp_matrices(model: nn.Module) -> list[MLPMatrix]:
    """List the MLP weight matrices: layer by layer, gate, up, down; biases are not among them.

    Raises
    ------
    InputError
        As :func:`mlp_blocks`, and for quantised weights, which have no matrix to view.
    """
    matrices: list[MLPMatrix] = []
    for block in mlp_blocks(model):
        paths: dict[Role, str | None] = {"gate": block.gate, "up": block.up, "down": block.down}
        for role, path in paths.items():
            if path is not None:
                index = len(matrices)
                matrices.append(_matrix(block, role, path, index, model.get_submodule(path)))
    return matrices


@contextlib.contextmanager
def neuron_activity(model: nn.Module, record: Callable[[int, Tensor], None]) -> Iterator[None]:
    """Call ``record(layer, values)`` for every layer of every forward pass in the context.

    ``values`` is [batch · positions, N], sequence after sequence, padding included:
    act(gate(x)) in a gated MLP, act(up(x)), the input of down, in a plain one; a neuron is
    activated where it is positive. Each layer's can be dropped before the next is made.

    Raises
    ------
    InputError
        When an activation is NaN, which no comparison would show.
    """
    handles = []
    try:
        for block in mlp_blocks(model):
            hook = functools.partial(_record, block, record)
            module = model.get_submodule(block.activation)
            handles.append(module.register_forward_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _record(
    block: MLPBlock,
    record: Callable[[int, Tensor], None],
    module: nn.Module,
    inputs: Any,
    output: Tensor,
) -> None:
    assert output.shape[-1] == block.d_mlp
    if torch.isnan(output).any():
        raise InputError(
            f"layer {block.layer} ({block.activation}): expected finite activations, found NaN; "
            "check the weights, or use float32"
        )
    # OPT flattens batch and positions itself; the others do not.
    record(block.layer, output.reshape(-1, block.d_mlp))


def _config(model: nn.Module) -> Any:
    config: Any = model.config
    return config.get_text_config()


def _decoder(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """Find the one list of decoder blocks; lists inside of another one are part of a block."""
    n_layers = _config(model).num_hidden_layers
    lists = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == n_layers
    }
    outer = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    if len(outer) != 1:
        raise InputError(
            f"{type(model).__name__}: expected one list of {n_layers} decoder blocks, "
            f"found {', '.join(outer) or 'none'}"
        )
    return outer[0], lists[outer[0]]


def _block(prefix: str, layer: int, block: nn.Module, d_model: int) -> MLPBlock:
    modules = dict(block.named_modules())
    layout = _layout(prefix, modules)
    activations = [path for path in layout.activations if path in modules]
    if len(activations) != 1:
        raise InputError(
            f"{prefix}: expected one activation module of {', '.join(layout.activations)}, "
            f"found {', '.join(activations) or 'none'}"
        )
    d_mlp = _checked_width(prefix, layout, modules, d_model)
    return MLPBlock(
        layer=layer,
        d_mlp=d_mlp,
        d_model=d_model,
        gate=layout.gate and f"{prefix}.{layout.gate}",
        up=f"{prefix}.{layout.up}",
        down=f"{prefix}.{layout.down}",
        activation=f"{prefix}.{activations[0]}",
    )


def _layout(prefix: str, modules: dict[str, nn.Module]) -> Layout:
    """Return the first layout that fits a decoder block's modules."""
    experts = [path for path in modules if "expert" in path]
    if experts:
        raise InputError(
            f"{prefix}: expected one MLP, found a mixture of experts ({experts[0]}), "
            "which is not supported"
        )
    for layout in LAYOUTS:
        if set(layout.paths) <= set(modules):
            return layout
    looked_for = "; ".join(", ".join(dict.fromkeys(layout.paths)) for layout in LAYOUTS)
    leaves = [path for path, module in modules.items() if not list(module.children())]
    raise InputError(
        f"{prefix}: expected one of {looked_for}; found {', '.join(leaves)}; "
        "add the architecture to fnsft.architectures.LAYOUTS"
    )


def _checked_width(prefix: str, layout: Layout, modules: dict[str, nn.Module], d_model: int) -> int:
    """Return ``d_mlp`` once the projections fit each other and there are no further ones."""
    for path, module in modules.items():
        linear = isinstance(module, (nn.Linear, Conv1D))
        if linear and path.startswith(("mlp.", "ffn.")) and path not in layout.paths:
            # For example a gate of another name, which would pass for a plain MLP.
            raise InputError(f"{prefix}: expected {', '.join(layout.paths)} alone, found {path}")
    d_mlp, _ = _widths(f"{prefix}.{layout.down}", modules[layout.down])
    up_width = 2 * d_mlp if layout.gate == layout.up else d_mlp
    for path in layout.paths:
        expected = (d_mlp, d_model) if path == layout.down else (d_model, up_width)
        found = _widths(f"{prefix}.{path}", modules[path])
        if found != expected:
            raise InputError(f"{prefix}.{path}: expected widths in, out {expected}, found {found}")
    return d_mlp


def _widths(path: str, module: Any) -> tuple[int, int]:
    """Return the widths in and out by attribute, which packed 4-bit weights have too."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if isinstance(module, Conv1D):
        return module.nx, module.nf
    raise InputError(f"{path}: expected a linear layer, found {type(module).__name__}")


def _matrix(block: MLPBlock, role: Role, path: str, index: int, module: Any) -> MLPMatrix:
    parameter = module.weight
    transposed = isinstance(module, Conv1D)
    widths = _widths(path, module)
    shape = widths if transposed else widths[::-1]
    if parameter.shape != shape or not parameter.is_floating_point():
        raise InputError(
            f"{path}.weight: expected floating-point {shape}, found {parameter.dtype} "
            f"{tuple(parameter.shape)}; a quantised model cannot be masked"
        )
    half = block.fused and role != "down"
    return MLPMatrix(
        name=f"{path}.weight[{role}]" if half else f"{path}.weight",
        layer=block.layer,
        index=index,
        role=role,
        neuron_axis=int((role == "down") != transposed),
        d_mlp=block.d_mlp,
        offset=block.d_mlp if half and role == "up" else 0,
        parameter=parameter,
    )
