"""Gradients of the completions' loss, outside of any trainer.

Shapes: S samples of one pass, L tokens of the longest, V tokens of the vocabulary, N neurons.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from fnsft.architectures import MLPMatrix
from fnsft.data.tokens import IGNORED, Encoded
from fnsft.devices import widest
from fnsft.errors import InputError

PASS_SAMPLES = 4  # samples a forward pass, for the memory of their logits


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
            [torch.tensor(sample.labels) for sample in samples],
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


def neuron_gradients(
    model: torch.nn.Module, matrices: Sequence[MLPMatrix], samples: Sequence[Encoded]
) -> list[np.ndarray]:
    """Return the mean of |g| over all weights of a neuron, float64 [N] a layer.

    g is the gradient of the samples' summed loss, as of one step over all of them. The model is
    whole and comes back as it was. Memory: the gradients of the matrices.
    """
    was_training, trained = model.training, [p.requires_grad for p in model.parameters()]
    model.eval().requires_grad_(False)
    for matrix in matrices:
        matrix.parameter.requires_grad_(True)
    accumulate_gradients(model, samples)
    sums: dict[int, np.ndarray] = {}
    weights: dict[int, int] = {}
    for matrix in matrices:
        assert matrix.parameter.grad is not None
        gradient = matrix.view(matrix.parameter.grad).abs()
        across = 1 - matrix.neuron_axis
        of_matrix = gradient.sum(dim=across, dtype=widest(gradient.device))
        of_layer = sums.get(matrix.layer, np.zeros(matrix.d_mlp))
        sums[matrix.layer] = of_layer + of_matrix.cpu().numpy()
        weights[matrix.layer] = weights.get(matrix.layer, 0) + gradient.shape[across]
    model.zero_grad()
    model.train(was_training)
    for parameter, trains in zip(model.parameters(), trained, strict=True):
        parameter.requires_grad_(trains)
    return [sums[layer] / weights[layer] for layer in sorted(sums)]
