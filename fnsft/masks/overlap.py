"""What the graph changes about a mask, on the gradients of a model that is not updated.

Shapes: N = ``d_mlp`` neurons, d = ``d_model``; a gradient is [N, d] or [d, N]. S samples of
one pass, L tokens of the longest, V tokens of the vocabulary.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from fnsft.data.tokens import Encoded
from fnsft.errors import InputError
from fnsft.masks.masker import MaskedMatrix
from fnsft.masks.policies import MatrixStep, Policy

PASS_SAMPLES = 4  # samples a forward pass, for the memory of their logits
IGNORED = -100  # the label that the loss leaves out


def compare_policies(
    model: torch.nn.Module,
    matrices: Sequence[MaskedMatrix],
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
            masks = {name: policy.mask(gradient, at) for name, policy in policies.items()}
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


def accumulate_gradients(model: torch.nn.Module, batch: Sequence[Encoded]) -> None:
    """Set the gradients of the completions' summed loss over a batch, in nats.

    Training takes the mean instead: that is one factor for all entries, which changes neither
    a mask nor a share of Σ g². The logits of a pass take S·L·V values, twice.

    Raises
    ------
    InputError
        When the loss is not finite.
    """
    model.zero_grad()
    device = next(model.parameters()).device
    for start in range(0, len(batch), PASS_SAMPLES):
        samples = batch[start : start + PASS_SAMPLES]
        ids = pad_sequence([torch.tensor(sample.ids) for sample in samples], batch_first=True)
        attended = pad_sequence([torch.ones(len(s.ids)) for s in samples], batch_first=True)
        labels = pad_sequence(
            [torch.tensor([*[IGNORED] * len(s.prompt_ids), *s.completion_ids]) for s in samples],
            batch_first=True,
            padding_value=IGNORED,
        )  # [S, L], as the two above
        logits = model(
            input_ids=ids.to(device), attention_mask=attended.long().to(device), use_cache=False
        ).logits  # [S, L, V]
        predictions = logits[:, :-1].flatten(0, 1).float()  # [S (L − 1), V]
        targets = labels[:, 1:].flatten().to(device)
        loss = cross_entropy(predictions, targets, ignore_index=IGNORED, reduction="sum")
        if not loss.isfinite():
            raise InputError(
                f"expected a finite loss, found {loss.item()}; check the model's weights"
            )
        loss.backward()
