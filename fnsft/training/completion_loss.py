"""The loss of completions given their prompts: validation curves, perplexity, cloze choices.

Shapes: B samples a batch, T tokens of the longest, V tokens of the vocabulary, C completion
tokens of the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
import torch


class PromptAndCompletion(Protocol):
    """What is needed of a tokenised sample (:class:`fnsft.data.tokens.Encoded` has it)."""

    @property
    def prompt_ids(self) -> Sequence[int]: ...  # noqa: D102

    @property
    def completion_ids(self) -> Sequence[int]: ...  # noqa: D102


@dataclass(frozen=True, eq=False)
class SampleLosses:
    """Negative log-likelihoods of n samples' completions.

    ``nll`` is [n] float64, summed over each completion's tokens, in nats; ``tokens`` is
    [n] int64, the completion tokens of each.
    """

    nll: np.ndarray
    tokens: np.ndarray

    @property
    def n(self) -> int:
        """Samples."""
        return len(self.nll)

    @property
    def n_tokens(self) -> int:
        """Completion tokens of all samples."""
        return int(self.tokens.sum())

    @property
    def mean_per_token(self) -> float:
        """Total loss over total completion tokens, in nats."""
        return float(self.nll.sum() / self.tokens.sum())

    @property
    def perplexity(self) -> float:
        """Exponential of the mean loss a token; infinite where that overflows."""
        with np.errstate(over="ignore"):
            return float(np.exp(np.float64(self.mean_per_token)))

    @property
    def perplexity_stderr(self) -> float | None:
        """Standard error of the perplexity over samples; None for one sample.

        Notes
        -----
        By the delta method the error of exp(r) is exp(r) times :func:`mean_stderr`, that of r.
        """
        if self.n < 2:
            return None
        return float(self.perplexity * mean_stderr(self.nll, self.tokens))


def mean_stderr(sums: np.ndarray, tokens: np.ndarray) -> float:
    """Return the standard error of a mean a token over n > 1 samples.

    Parameters
    ----------
    sums
        Of each sample, over its tokens, [n].
    tokens
        Of each sample, [n].

    Notes
    -----
    The mean r = ΣL/ΣT is a ratio estimator, with the delta method's variance
    Σ(L − rT)² / ((n − 1) n T̄²) (Cochran 1977, eq. 6.13, without the finite-population factor).
    """
    n = len(sums)
    residual = sums - float(sums.sum() / tokens.sum()) * tokens
    return float(np.sqrt((residual**2).sum() / (n - 1) / n / tokens.mean() ** 2))


@dataclass(frozen=True, eq=False)
class PaddedBatch:
    """Samples side by side, padded on the right, where causal attention never looks.

    ``input_ids`` and ``attended`` are int64 [B, T]; ``scored`` is bool [B, T], true where a
    completion's tokens stand.
    """

    input_ids: torch.Tensor
    attended: torch.Tensor
    scored: torch.Tensor

    @classmethod
    def of(cls, batch: Sequence[PromptAndCompletion]) -> Self:
        """Pad samples to the longest."""
        longest = max(len(sample.prompt_ids) + len(sample.completion_ids) for sample in batch)
        input_ids = torch.zeros(len(batch), longest, dtype=torch.long)
        attended = torch.zeros_like(input_ids)
        scored = torch.zeros(len(batch), longest, dtype=torch.bool)
        for row, sample in enumerate(batch):
            ids = [*sample.prompt_ids, *sample.completion_ids]
            input_ids[row, : len(ids)] = torch.tensor(ids)
            attended[row, : len(ids)] = 1
            scored[row, len(sample.prompt_ids) : len(ids)] = True
        # The first token of a text has no prediction; a prompt without tokens would lose it.
        assert not scored[:, 0].any(), "a sample needs at least one prompt token"
        return cls(input_ids, attended, scored)

    @property
    def rows(self) -> torch.Tensor:
        """Which sample each completion token is of, int64 [C]."""
        return self.scored.nonzero(as_tuple=True)[0]

    def predictions(self, model: torch.nn.Module) -> torch.Tensor:
        """Return what a model predicts every completion token with: float32 logits [C, V]."""
        device = next(model.parameters()).device
        logits = model(
            input_ids=self.input_ids.to(device),
            attention_mask=self.attended.to(device),
            use_cache=False,
        ).logits  # [B, T, V]
        rows, columns = self.scored.nonzero(as_tuple=True)
        return logits[rows.to(device), (columns - 1).to(device)].float()


@torch.no_grad()
def completion_loss(
    model: torch.nn.Module, samples: Sequence[PromptAndCompletion], batch_size: int
) -> SampleLosses:
    """Return each sample's loss on its completion, whatever it is batched with.

    Samples are batched by length. Log-probabilities are taken in float32 and summed in float64.
    The logits take B·T·V values of the model's precision. The model comes back in the mode it was
    in.
    """
    nll = np.zeros(len(samples))
    tokens = np.array([len(sample.completion_ids) for sample in samples], dtype=np.int64)
    lengths = [len(sample.prompt_ids) + len(sample.completion_ids) for sample in samples]
    order = sorted(range(len(samples)), key=lambda i: -lengths[i])
    was_training = model.training
    model.eval()
    try:
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            nll[chosen] = _batch_loss(model, [samples[i] for i in chosen])
    finally:
        model.train(was_training)
    return SampleLosses(nll, tokens)


def _batch_loss(model: torch.nn.Module, batch: Sequence[PromptAndCompletion]) -> np.ndarray:
    padded = PaddedBatch.of(batch)
    predictions = padded.predictions(model)
    targets = padded.input_ids[padded.scored].to(predictions.device)
    losses = torch.nn.functional.cross_entropy(predictions, targets, reduction="none")
    sums = torch.zeros(len(batch), dtype=torch.float64)
    sums.index_add_(0, padded.rows, losses.cpu().double())
    return sums.numpy()
