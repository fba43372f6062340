"""The attention heads of every decoder block: their output channels as neurons.

Shapes: H query heads of d channels each, N = H·d, V value heads, T tokens, D = ``d_model``.
Neuron h·d + j is channel j of head h in what the output projection reads, z = [T, N]; its weights
are column h·d + j of that projection. Where V = H, row h·d + j of the value projection makes
that channel and no other; with grouped queries (V < H) a row makes one in each of H / V heads, and
is no neuron's.
"""

from dataclasses import dataclass

from torch import nn

from fnsft.architectures.blocks import block_modules, decoder_blocks, linear_widths, text_config
from fnsft.architectures.layouts import HEADS_LAYOUTS, HeadsLayout
from fnsft.errors import InputError


@dataclass(frozen=True)
class HeadsBlock:
    """The heads of layer ``layer`` (from 0), by module paths in the model.

    ``value`` is None where its rows are no neurons'; else they are ``width`` from ``offset`` on.
    """

    layer: int
    width: int
    value: str | None
    offset: int
    output: str


def head_blocks(model: nn.Module) -> list[HeadsBlock]:
    """Find the attention heads of every decoder block, with adapters or without.

    Raises
    ------
    InputError
        For an architecture that is not in the table or does not have the expected widths, and
        for layers of several widths.
    """
    name, decoder = decoder_blocks(model)
    blocks = [_block(model, f"{name}.{i}", i, block) for i, block in enumerate(decoder)]
    widths = sorted({block.width for block in blocks})
    if len(widths) > 1:
        raise InputError(f"{type(model).__name__}: expected heads of one width, found {widths}")
    return blocks


def _block(model: nn.Module, prefix: str, layer: int, block: nn.Module) -> HeadsBlock:
    modules = block_modules(block)
    layout = next((x for x in HEADS_LAYOUTS if _fits(x, modules)), None)
    if layout is None:
        looked_for = "; ".join(", ".join(layout.paths) for layout in HEADS_LAYOUTS)
        raise InputError(
            f"{prefix}: expected the projections of attention heads, one of {looked_for}, found "
            "none; add the architecture to fnsft.architectures.layouts"
        )
    value, offset, output = layout.value, 0, f"{prefix}.{layout.output}"
    config = text_config(model)
    n_heads, d_model = config.num_attention_heads, config.hidden_size
    d_head = getattr(config, "head_dim", None) or d_model // n_heads
    width, expected = n_heads * d_head, (n_heads * d_head, d_model)
    if (found := linear_widths(output, modules[layout.output])) != expected:
        raise InputError(
            f"{output}: expected widths in, out {expected} of {n_heads} heads, found {found}"
        )
    if value is not None:
        _, rows = linear_widths(f"{prefix}.{value}", modules[value])
        offset = 2 * width if rows == 3 * width else 0  # behind all queries and all keys
        value = f"{prefix}.{value}" if rows == offset + width else None
    return HeadsBlock(layer, width, value, offset, output)


def _fits(layout: HeadsLayout, modules: dict[str, nn.Module]) -> bool:
    return all(isinstance(modules.get(path), layout.kind) for path in layout.paths)
