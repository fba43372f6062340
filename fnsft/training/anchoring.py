"""Staying near the weights that a stage began with: by a penalty, or by averaging afterwards.

θ are the trained weights, θ₀ those that the stage began with.
"""

import torch
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn import Parameter

from fnsft.architectures.blocks import CHECKPOINTED
from fnsft.errors import InputError


class Anchor:
    """θ₀ of every trained parameter, and the pull towards it (L2-SP).

    Made of the model as it was loaded, before a checkpoint is read or FSDP2 shards it, since a
    run that resumes must be pulled to the same place. It holds one copy of what trains.

    Notes
    -----
    The penalty w/2 · Σ(θ − θ₀)² has the gradient w · (θ − θ₀) (Li, Grandvalet and Davoine 2018,
    without their term of a new head). It is added to the loss's gradient, so that Adam scales
    it as that; decoupled weight decay is another thing, and pulls to zero besides.
    """

    def __init__(self, model: torch.nn.Module, weight: float) -> None:
        self.weight = weight
        self._start = {
            name: parameter.detach().clone()
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }
        self._pairs: list[tuple[Parameter, torch.Tensor]] = []

    def place(self, model: torch.nn.Module) -> None:
        """Put every θ₀ where its parameter is: on its device, and sharded as it is."""
        for path, parameter in model.named_parameters():
            name = path.replace(f"{CHECKPOINTED}.", "")
            if name in self._start:
                start = self._start.pop(name).to(parameter.device)
                if isinstance(parameter, DTensor):
                    start = distribute_tensor(start, parameter.device_mesh, parameter.placements)
                self._pairs.append((parameter, start))
        assert not self._start, f"parameters have other names now: {list(self._start)[:3]}"

    @torch.no_grad()
    def pull(self) -> None:
        """Add w · (θ − θ₀) to the accumulated gradients, in place; scratch is one parameter."""
        for parameter, start in self._pairs:
            if parameter.grad is not None:
                parameter.grad.add_(parameter - start, alpha=self.weight)


@torch.no_grad()
def average_into(model: torch.nn.Module, start: torch.nn.Module, share: float) -> None:
    """Set every weight of ``model`` to (1 − a)·θ + a·θ₀, taken in float32, in place.

    It is written as θ + a·(θ₀ − θ), by which a weight that has not moved stays bit-identical.
    WiSE-FT (Wortsman et al. 2022), with ``share`` a = 1 − α of theirs.

    Raises
    ------
    InputError
        When ``start`` has other parameters.
    """
    others = dict(start.named_parameters())
    for name, parameter in model.named_parameters():
        if name not in others or others[name].shape != parameter.shape:
            raise InputError(
                f"average_with_start: expected {name} of shape {tuple(parameter.shape)} in the "
                "model that the stage began with, found none"
            )
        tuned = parameter.float()
        first = others[name].to(parameter.device, torch.float32)
        parameter.copy_(tuned + share * (first - tuned))
