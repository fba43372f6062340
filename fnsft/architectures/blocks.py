"""The MLP of every decoder block, found by its modules and checked by their widths."""

from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from fnsft.architectures.layouts import LAYOUTS, Layout
from fnsft.errors import InputError


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


def mlp_blocks(model: nn.Module) -> list[MLPBlock]:
    """Find the MLP of every decoder block, with adapters or without.

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


def has_adapters(module: nn.Module) -> bool:
    """Tell whether peft wraps a layer here; importing peft to ask its classes takes seconds."""
    return hasattr(module, "base_layer")


def linear_widths(path: str, module: Any) -> tuple[int, int]:
    """Return the widths in and out by attribute, which packed 4-bit weights have too."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if isinstance(module, Conv1D):
        return module.nx, module.nf
    raise InputError(f"{path}: expected a linear layer, found {type(module).__name__}")


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
    modules = _modules(block)
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


def _modules(block: nn.Module) -> dict[str, nn.Module]:
    """Return a block's modules by path; where an adapter wraps a layer, the layer alone."""
    modules: dict[str, Any] = dict(block.named_modules())
    wrappers = tuple(f"{path}." for path, module in modules.items() if has_adapters(module))
    return {
        path: getattr(module, "base_layer", module)
        for path, module in modules.items()
        if not path.startswith(wrappers)
    }


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
        "add the architecture to fnsft.architectures.layouts"
    )


def _checked_width(prefix: str, layout: Layout, modules: dict[str, nn.Module], d_model: int) -> int:
    """Return ``d_mlp`` once the projections fit each other and there are no further ones."""
    for path, module in modules.items():
        linear = isinstance(module, (nn.Linear, Conv1D))
        if linear and path.startswith(("mlp.", "ffn.")) and path not in layout.paths:
            # For example a gate of another name, which would pass for a plain MLP.
            raise InputError(f"{prefix}: expected {', '.join(layout.paths)} alone, found {path}")
    d_mlp, _ = linear_widths(f"{prefix}.{layout.down}", modules[layout.down])
    up_width = 2 * d_mlp if layout.gate == layout.up else d_mlp
    for path in layout.paths:
        expected = (d_mlp, d_model) if path == layout.down else (d_model, up_width)
        found = linear_widths(f"{prefix}.{path}", modules[path])
        if found != expected:
            raise InputError(f"{prefix}.{path}: expected widths in, out {expected}, found {found}")
    return d_mlp
