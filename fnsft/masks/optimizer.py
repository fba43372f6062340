"""AdamW that leaves masked entries where they are (``applies_to: update``).

A mask on the gradient does not keep an entry still: momentum and decoupled weight decay
move it. Here an entry outside the mask is bitwise the same after the step as before.

n counts the entries of a parameter that this process holds.
"""

import warnings
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch.nn import Parameter

from fnsft.errors import InputError
from fnsft.masks import kernels
from fnsft.masks.adam import Moments, compiled_step, eager_step, fused_step, scalars_of
from fnsft.masks.shards import local


class MaskSource(Protocol):
    """Where an optimizer gets a parameter's mask from: a dict, or one that makes it on demand."""

    def get(self, parameter: Parameter, /) -> torch.Tensor | None:
        """Return the bool mask of what this process holds of a parameter; None lets all move."""


class MaskedAdamW(torch.optim.AdamW):
    """Fused AdamW with ``masks``: a parameter's mask says which entries may move.

    Parameters
    ----------
    params, **options
        As for :class:`torch.optim.AdamW`, without amsgrad; ``fused`` is always on.
    moments
        What Adam's moments see outside the mask: ``full``, the gradient; ``masked``, zero;
        ``frozen``, nothing: they stay as they are. Bias correction counts the parameter's
        steps in all three.
    compiled
        Whether masked parameters take their step in one kernel: Triton's (:mod:`.adam_triton`)
        on CUDA, else one that ``torch.compile`` makes. None: on CUDA alone, and with a warning
        not even there if it cannot be compiled.

    Raises
    ------
    ValueError
        For amsgrad, and in ``step`` for a mask of another dtype, shape or device, before its
        parameter moves.
    InputError
        In ``step``, if ``compiled`` is True and there is no compiler.

    Notes
    -----
    ``masks.get(parameter)`` is called once a step for every parameter with a gradient, in the
    order of the groups, right before that parameter's step; the mask is dropped after it.
    Sharded parameters (DTensors) are stepped in their local part, which may be empty.

    Eager, a parameter without a mask, or with a mask of ones, takes bitwise the step of torch's
    fused AdamW; scratch is up to four chunks of ``chunk_entries`` a thread (64 times that on a
    GPU) in the parameter's dtype. Compiled, there is none, and the last bits of what moves
    differ. Strided gradients and masks are copied.

    On one CPU thread, for 16.8M float32 entries of which half may move, the eager step takes
    2.2 times as long as fused AdamW, the compiled one 1.2 times. That is 10 ms, and compiling
    takes 3 to 20 s: the CPU keeps the exact one.

    State dictionaries are AdamW's, both ways.
    """

    # Small enough for a level-2 cache, and a multiple of every vector width, so that chunks
    # round as the whole tensor does.
    chunk_entries = 1 << 17

    def __init__(
        self,
        params: Any,
        *args: Any,
        moments: Moments = "full",
        compiled: bool | None = None,
        **options: Any,
    ) -> None:
        super().__init__(params, *args, **(options | {"fused": True}))
        # Torch's fused AdamW unscales gradients itself; here a GradScaler does it before.
        self._step_supports_amp_scaling = False
        self.moments = moments
        self.compiled = compiled
        self.masks: MaskSource = {}
        self._refuse_amsgrad()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take the state of any AdamW; its groups may come from one that was not fused."""
        super().__setstate__(state)
        self._refuse_amsgrad()
        for group in self.param_groups:
            group.update(fused=True, foreach=None)
        for parameter, moments in self.state.items():
            if moments:
                moments["step"] = moments["step"].to(parameter.device, torch.float32)

    def _refuse_amsgrad(self) -> None:
        if any(group["amsgrad"] for group in self.param_groups):
            raise ValueError("MaskedAdamW: expected amsgrad=False, found True")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; entries outside their parameter's mask do not move."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step_parameter(parameter, group)
        return loss

    def _step_parameter(self, parameter: Parameter, group: dict[str, Any]) -> None:
        mask = self.masks.get(parameter)
        if mask is not None:
            _check(mask, local(parameter))
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        state["step"] += 1
        assert parameter.grad is not None
        sources = (parameter, parameter.grad, state["exp_avg"], state["exp_avg_sq"])
        tensors = [local(tensor) for tensor in sources]
        if mask is None:
            fused_step(tensors, state["step"], group)
        else:
            self._masked_step(tensors, mask, state["step"], group)

    def _masked_step(
        self,
        tensors: list[torch.Tensor],
        mask: torch.Tensor,
        step: torch.Tensor,
        group: dict[str, Any],
    ) -> None:
        # Gradient and mask may be strided, and are not written to.
        flat = [t.reshape(-1) if t is tensors[1] else t.view(-1) for t in tensors]
        kept = mask.reshape(-1).view(torch.int8)
        # An empty part would be a compilation of its own.
        if kept.numel() and (kept.is_cuda if self.compiled is None else self.compiled):
            if kernels.uses_triton(kept.device):
                from fnsft.masks.adam_triton import masked_step

                masked_step(flat, kept, step, group, self.moments)
                return
            scalars = scalars_of(step, group, flat[0].dtype)
            # A view would be compiled for its base's shape too; detached it counts as none.
            *flat, kept = (tensor.detach() for tensor in (*flat, kept))
            try:
                compiled_step()(flat, kept, scalars, self.moments, group["maximize"])
                return
            except torch._dynamo.exc.TorchDynamoException as error:
                self._go_on_without_compiler(error)
        chunk = self.chunk_entries * (torch.get_num_threads() if kept.is_cpu else 64)
        for start in range(0, kept.numel(), chunk):
            part = slice(start, start + chunk)
            eager_step([t[part] for t in flat], kept[part], step, group, self.moments)

    def _go_on_without_compiler(self, error: Exception) -> None:
        message = f"the masked step cannot be compiled: {str(error).splitlines()[0]}"
        if self.compiled:
            raise InputError(f"{message}; install a compiler or use compiled=False") from error
        warnings.warn(f"{message}; going on without, slower", stacklevel=2)
        self.compiled = False


def _check(mask: torch.Tensor, held: torch.Tensor) -> None:
    expected, found = (
        f"{dtype} of shape {tuple(tensor.shape)} on {tensor.device}"
        for dtype, tensor in ((torch.bool, held), (mask.dtype, mask))
    )
    if found != expected:
        raise ValueError(f"mask of what this process holds: expected {expected}, found {found}")
