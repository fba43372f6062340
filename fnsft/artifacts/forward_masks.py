"""The mask on the forward pass that a model was trained with, beside its weights.

``forward_mask.safetensors`` in a model's or an adapter's folder holds ``layer_000.factors``
float32 [channels] and so on, one for each layer; ``site`` and ``mode`` int64 [1], numbers in the
lists of both, and ``straight_through`` bool [1]. It names no model: the weights beside it are the
model.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np

from fnsft.artifacts.tensors import Header, read_tensors, write_tensors
from fnsft.config.stages import Site
from fnsft.errors import InputError

KIND, SCHEMA = "forward-mask", 1
FILE = "forward_mask.safetensors"
MODES = ("lesion", "preserve", "amplify")


@dataclass(frozen=True, eq=False)
class ForwardMask:
    """What the values at a site are multiplied by: float32 [channels] for every layer.

    ``mode`` says what the factors stand for, one of ``MODES``; with ``straight_through``
    gradients pass as if they were all 1.
    """

    site: Site
    factors: tuple[np.ndarray, ...]
    mode: str
    straight_through: bool


def write_forward_mask(folder: Path, mask: ForwardMask) -> None:
    """Write a mask into the folder of the model that it belongs to."""
    tensors = {
        "site": np.array([get_args(Site).index(mask.site)]),
        "mode": np.array([MODES.index(mask.mode)]),
        "straight_through": np.array([mask.straight_through]),
    }
    for layer, factor in enumerate(mask.factors):
        tensors[_name(layer)] = np.asarray(factor, dtype=np.float32)
    write_tensors(folder / FILE, Header(KIND, SCHEMA, model=""), tensors)


def read_forward_mask(folder: Path) -> ForwardMask | None:
    """Read the mask of the model in ``folder``, or None when it was trained without.

    Raises
    ------
    InputError
        For a file that is damaged or is none of ours.
    """
    path = folder / FILE
    if not path.exists():
        return None
    _, tensors = read_tensors(path, KIND, SCHEMA)
    try:
        numbers = [int(tensors.pop(name)[0]) for name in ("site", "mode", "straight_through")]
        site, mode = get_args(Site)[numbers[0]], MODES[numbers[1]]
        factors = tuple(tensors[_name(layer)] for layer in range(len(tensors)))
    except (KeyError, IndexError) as error:
        raise InputError(f"{path}: damaged ({error}); train the model anew") from None
    for layer, factor in enumerate(factors):
        if factor.dtype != np.float32 or factor.ndim != 1 or not np.isfinite(factor).all():
            raise InputError(
                f"{path}: layer {layer}: expected finite float32 factors in one row, found "
                f"{factor.dtype} {factor.shape}; train the model anew"
            )
    return ForwardMask(site, factors, mode, bool(numbers[2]))


def _name(layer: int) -> str:
    return f"layer_{layer:03d}.factors"
