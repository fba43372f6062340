"""What a LoRA adapter needs before a network of neurons is trained through it."""

from collections.abc import Sequence

import torch

from fnsft.architectures import MLPMatrix
from fnsft.errors import InputError


@torch.no_grad()
def zero_outside(matrices: Sequence[MLPMatrix], trained: Sequence[torch.Tensor]) -> None:
    """Set a new adapter's parameters of the neurons that are not trained to zero.

    LoRA starts with B = 0 and a random A. B of down is shared by all neurons: once it moves,
    s·B·A reaches each neuron whose column of A is not zero. With zeros there, and the mask of
    :class:`~.policies.Network` on gradients or updates, the weights of the other neurons stay
    exactly what they were. The model still computes what it did, since B is zero.

    Parameters
    ----------
    matrices
        Of :func:`fnsft.architectures.adapter_matrices`, before they are sharded.
    trained
        For each layer a bool vector [N].

    Raises
    ------
    InputError
        When B of gate or up is not zero outside: the adapter is in use there already. One
        that was trained with the same neurons stays as it is.
    """
    for matrix in matrices:
        part = matrix.view(matrix.parameter)
        outside = torch.nonzero(~trained[matrix.layer]).flatten().to(part.device)
        if matrix.role != "down" and part[outside].any():
            raise InputError(
                f"{matrix.name}: expected zeros in neurons that are not trained, found other "
                "values; begin with a new adapter, with init_lora_weights=True"
            )
        part.index_fill_(matrix.neuron_axis, outside, 0)
