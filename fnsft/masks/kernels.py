"""Whether Triton's kernels run here, and how they are launched.

The kernels are the modules whose names end in ``_triton``. They are imported where they are used,
since Triton need not be installed: without it, and on other devices than CUDA's, plain torch does
the same.
"""

import functools
import importlib.util
import warnings
from typing import Any

import torch


def uses_triton(device: torch.device) -> bool:
    """Tell whether work on ``device`` is done by Triton's kernels."""
    return device.type == "cuda" and torch.version.cuda is not None and _works(device)


@functools.cache
def _works(device: torch.device) -> bool:
    """Try the smallest kernel: Triton needs a C compiler, and a GPU that it knows."""
    if importlib.util.find_spec("triton") is None:
        return False
    from fnsft.masks import radix_triton
    from fnsft.masks.radix import Keys, Threshold

    try:
        return bool(radix_triton.taken(Keys(None, 1, 0, 0, device), Threshold()).all())
    except Exception as error:  # whatever Triton, a compiler or a driver raises
        reason = (str(error).splitlines() or [""])[0]
        warnings.warn(
            f"Triton's kernels do not run here ({type(error).__name__}: {reason}); going on "
            "without, slower",
            stacklevel=2,
        )
        return False


def launch(
    kernel: Any, grid: tuple[int, ...], device: torch.device, *arguments: Any, **constants: Any
) -> None:
    """Run a kernel on ``device``, whichever is the current one; an empty grid is no launch."""
    if 0 in grid:
        return
    with torch.cuda.device(device if device.type == "cuda" else -1):
        kernel[grid](*arguments, **constants)
