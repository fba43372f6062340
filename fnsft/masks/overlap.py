"""What the graph changes about a mask, on the gradients of a model that is not updated.

Shapes: N = ``d_mlp`` neurons, d = ``d_model``; a gradient is [N, d] or [d, N].
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import torch

from fnsft.architectures import MLPMatrix
from fnsft.data.tokens import Encoded
from fnsft.masks.gradients import accumulate_gradients
from fnsft.masks.policies import MatrixStep, Policy


def compare_policies(
    model: torch.nn.Module,
    matrices: Sequence[MLPMatrix],
    policies: Mapping[str, Policy],
    batches: Iterable[Sequence[Encoded]],
) -> list[dict[str, list[float]]]:
    """Mask every matrix's gradient of every batch, and compare (:func:`compare_masks`).

    All other parameters are frozen; none is updated. Returns for every matrix the values of
    each measure, one a batch that has it.
    """
    model.requires_grad_(False)
    for matrix in matrices:
        matrix.parameter.requires_grad_(True)
    found: list[dict[str, list[float]]] = [defaultdict(list) for _ in matrices]
    for step, batch in enumerate(batches):
        accumulate_gradients(model, batch)
        for matrix, values in zip(matrices, found, strict=True):
            assert matrix.parameter.grad is not None
            gradient = matrix.view(matrix.parameter.grad)
            at = MatrixStep(matrix.layer, matrix.neuron_axis, matrix.index, step)
            masks = {name: policy.select(gradient, at).mask for name, policy in policies.items()}
            for name, value in compare_masks(gradient, masks).items():
                values[name].append(value)
    return found


def compare_masks(gradient: torch.Tensor, masks: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """Measure the ``collab`` mask against the others, and the gradient inside of each.

    Parameters
    ----------
    gradient
        Of one matrix, any floating dtype.
    masks
        Bool, of the gradient's shape, by name; ``collab`` is one of them.

    Returns
    -------
    ``mask_shared_with_<other>``, the share of collab's entries that the other mask holds too,
    and ``gradient_energy_<mask>``, Σ g² inside of the mask over Σ g². Shares of nothing (an
    empty mask, a gradient of zeros) are left out.
    """
    collab = masks["collab"]
    found = {}
    if entries := int(collab.count_nonzero()):
        for name, mask in masks.items():
            if name != "collab":
                shared = int((collab & mask).count_nonzero())
                found[f"mask_shared_with_{name}"] = shared / entries
    energy = gradient.detach().float().square()
    if total := float(energy.sum()):
        for name, mask in masks.items():
            found[f"gradient_energy_{name}"] = float((energy * mask).sum()) / total
    return found
