"""The MLP of every decoder block, found by its modules and checked by their widths."""

from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from fnsft.architectures.layouts import EXPERTS, LAYOUTS, SHARED_EXPERTS, Layout
from fnsft.errors import InputError

CHECKPOINTED = "_checkpoint_wrapped_module"  # where torch keeps a block that it checkpoints


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
    def n_mlps(self) -> int:
        """One: the layer's."""
        return 1

    @property
    def fused(self) -> bool:
        """Whether one projection holds the gate (first N rows) and up."""
        return self.gate == self.up


@dataclass(frozen=True)
class ExpertsBlock:
    """The mixture of experts of layer ``layer`` (from 0), by module paths in the model.

    The module ``experts`` holds ``n_experts`` gated MLPs of ``d_expert`` neurons in two
    parameters, [n_experts, 2·d_expert, d_model] and [n_experts, d_model, d_expert]; ``shared``
    is an MLP that every token passes besides, and ``mlp`` the module that adds them all up.
    """

    layer: int
    n_experts: int
    d_expert: int
    d_model: int
    mlp: str
    experts: str
    shared: MLPBlock | None

    @property
    def n_mlps(self) -> int:
        """Every routed expert is one."""
        return self.n_experts

    @property
    def d_mlp(self) -> int:
        """Neurons of each."""
        return self.d_expert

    @property
    def d_routed(self) -> int:
        """Neurons of all routed experts; expert e has those from e·d_expert on."""
        return self.n_experts * self.d_expert


def mlp_layers(model: nn.Module) -> list[MLPBlock | ExpertsBlock]:
    """Find the MLP or the experts of every decoder block, with adapters or without.

    Raises
    ------
    InputError
        For an architecture that is not in the table or does not have the expected shapes.
    """
    name, decoder = decoder_blocks(model)
    d_model = text_config(model).hidden_size
    layers = [_layer(f"{name}.{i}", i, block, d_model) for i, block in enumerate(decoder)]
    dense = [layer.shared if isinstance(layer, ExpertsBlock) else layer for layer in layers]
    paths = [block.activation for block in dense if block is not None]
    if len({id(model.get_submodule(path)) for path in paths}) < len(paths):
        raise InputError(f"{name}: expected an activation module a layer, found a shared one")
    return layers


def mlp_blocks(model: nn.Module) -> list[MLPBlock]:
    """Find the MLP of every decoder block, with adapters or without.

    Raises
    ------
    InputError
        As :func:`alike_layers`, and for mixtures of experts.
    """
    blocks: list[MLPBlock] = []
    for layer in alike_layers(model):
        if isinstance(layer, ExpertsBlock):
            raise InputError(
                f"{layer.mlp}: expected one MLP, found a mixture of experts; graphs and masks take "
                "experts with full weights, not with adapters"
            )
        blocks.append(layer)
    return blocks


def alike_layers(model: nn.Module) -> list[MLPBlock | ExpertsBlock]:
    """Find the MLPs of every decoder block: in all of them as many, and of one width.

    Expert e of layer l, of E experts each, is MLP l·E + e of the model.

    Raises
    ------
    InputError
        As :func:`mlp_layers`, for shared experts, and for layers that differ.
    """
    layers = mlp_layers(model)
    for layer in layers:
        if isinstance(layer, ExpertsBlock) and layer.shared is not None:
            raise InputError(
                f"{layer.mlp}: expected routed experts alone, found shared ones of "
                f"{layer.shared.d_mlp} neurons too; networks and masks on the forward pass work "
                "with them, graphs and masks on weights do not"
            )
    found = sorted({(layer.n_mlps, layer.d_mlp) for layer in layers})
    if len(found) > 1:
        words = " and ".join(f"{n} of {d_mlp} neurons" for n, d_mlp in found)
        raise InputError(
            f"{type(model).__name__}: expected MLPs of one width, as many in every layer, found "
            f"{words}; graphs and masks on weights take no others"
        )
    return layers


def has_adapters(module: nn.Module) -> bool:
    """Tell whether peft wraps a layer here; importing peft to ask its classes takes seconds."""
    return hasattr(module, "base_layer")


def unwrapped(module: Any) -> Any:
    """Return a layer without peft's wrappers; experts have one for each parameter."""
    while has_adapters(module):
        module = module.base_layer
    return module


def linear_widths(path: str, module: Any) -> tuple[int, int]:
    """Return the widths in and out by attribute, which packed 4-bit weights have too."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if isinstance(module, Conv1D):
        return module.nx, module.nf
    raise InputError(f"{path}: expected a linear layer, found {type(module).__name__}")


def text_config(model: nn.Module) -> Any:
    """Return the configuration of a model's decoder."""
    config: Any = model.config
    return config.get_text_config()


def decoder_blocks(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """Find the one list of decoder blocks; lists inside of another one are part of a block."""
    n_layers = text_config(model).num_hidden_layers
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


def _layer(prefix: str, layer: int, block: nn.Module, d_model: int) -> MLPBlock | ExpertsBlock:
    modules = block_modules(block)
    if EXPERTS in modules:
        return _experts(prefix, layer, modules, d_model)
    return _block(prefix, layer, modules, _layout(prefix, modules), d_model)


def _experts(prefix: str, layer: int, modules: dict[str, nn.Module], d_model: int) -> ExpertsBlock:
    experts: Any = modules[EXPERTS]
    weights = [getattr(experts, name, None) for name in ("gate_up_proj", "down_proj")]
    shapes = [tuple(getattr(weight, "shape", ())) for weight in weights]
    n_experts, _, d_expert = shapes[1] if len(shapes[1]) == 3 else (0, 0, 0)
    plain = (
        getattr(experts, "is_concatenated", False)
        and not experts.has_bias
        and not experts.has_post_expert_norm
        and type(experts)._apply_gate.__name__ == "_default_apply_gate"
        and all(weight.is_floating_point() for weight in weights if weight is not None)
    )
    expected = [(n_experts, 2 * d_expert, d_model), (n_experts, d_model, d_expert)]
    if not n_experts or not plain or shapes != expected:
        raise InputError(
            f"{prefix}.{EXPERTS}: expected experts down(act(gate x)·up x) without biases, in "
            f"floating-point gate_up_proj [n, 2·w, {d_model}] and down_proj [n, {d_model}, w], "
            f"found {type(experts).__name__} {shapes}; add them to fnsft.architectures.experts"
        )
    shared = None
    if set(SHARED_EXPERTS.paths) <= set(modules):
        shared = _block(prefix, layer, modules, SHARED_EXPERTS, d_model)
    else:
        _require_alone(prefix, modules, [])
    return ExpertsBlock(
        layer=layer,
        n_experts=n_experts,
        d_expert=d_expert,
        d_model=d_model,
        mlp=f"{prefix}.{EXPERTS.rpartition('.')[0]}",
        experts=f"{prefix}.{EXPERTS}",
        shared=shared,
    )


def _block(
    prefix: str, layer: int, modules: dict[str, nn.Module], layout: Layout, d_model: int
) -> MLPBlock:
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


def block_modules(block: nn.Module) -> dict[str, nn.Module]:
    """Return a block's modules by path; where an adapter wraps a layer, the layer alone.

    Paths are as in a block that no activation checkpointing wraps, by which they are found in both.
    """
    modules: dict[str, Any] = dict(getattr(block, CHECKPOINTED, block).named_modules())
    wrappers = tuple(f"{path}." for path, module in modules.items() if has_adapters(module))
    return {
        path: unwrapped(module) for path, module in modules.items() if not path.startswith(wrappers)
    }


def _layout(prefix: str, modules: dict[str, nn.Module]) -> Layout:
    """Return the first layout that fits a decoder block's modules."""
    experts = [path for path in modules if "expert" in path]
    if experts:
        raise InputError(
            f"{prefix}: expected one MLP, or experts in {EXPERTS}, found {experts[0]}; add the "
            "family to fnsft.architectures.layouts and fnsft.architectures.experts"
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
    _require_alone(prefix, modules, layout.paths)
    d_mlp, _ = linear_widths(f"{prefix}.{layout.down}", modules[layout.down])
    up_width = 2 * d_mlp if layout.gate == layout.up else d_mlp
    for path in layout.paths:
        expected = (d_mlp, d_model) if path == layout.down else (d_model, up_width)
        found = linear_widths(f"{prefix}.{path}", modules[path])
        if found != expected:
            raise InputError(f"{prefix}.{path}: expected widths in, out {expected}, found {found}")
    return d_mlp


def _require_alone(prefix: str, modules: dict[str, nn.Module], paths: list[str]) -> None:
    """Refuse linear layers besides these; a gate of another name would pass for a plain MLP."""
    for path, module in modules.items():
        linear = isinstance(module, (nn.Linear, Conv1D))
        if linear and path.startswith(("mlp.", "ffn.")) and path not in paths:
            expected = ", ".join(paths) or EXPERTS
            raise InputError(f"{prefix}: expected {expected} alone, found {path}")
