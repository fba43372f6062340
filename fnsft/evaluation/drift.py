"""How far fine-tuning has moved a model: its predictions on the new task, and its weights.

p are the predictions of the model that the stage began with, q those of the tuned one, θ₀ and θ
their weights. Shapes: C completion tokens of a batch, V tokens of the vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm import tqdm

from fnsft.architectures import mlp_matrices
from fnsft.artifacts.items import ItemScore
from fnsft.artifacts.records import Measurement
from fnsft.errors import InputError
from fnsft.training.completion_loss import PaddedBatch, PromptAndCompletion, mean_stderr

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BENCHMARK = "drift"
CHUNK_ENTRIES = 1 << 22  # logits, or weights, that are compared in float64 at a time
BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes of an entry


@dataclass(frozen=True, eq=False)
class Divergence:
    """KL divergences summed over each sample's completion tokens.

    ``forward``, KL(p‖q), and ``reverse``, KL(q‖p), are float64 [n], in nats; ``tokens`` [n].
    """

    forward: np.ndarray
    reverse: np.ndarray
    tokens: np.ndarray

    def measurements(self) -> list[Measurement]:
        """Return the means a token, with errors over samples, as those of a perplexity are."""
        found = []
        for metric, sums in self._by_metric().items():
            n = len(sums)
            stderr = mean_stderr(sums, self.tokens) if n > 1 else None
            mean = float(sums.sum() / self.tokens.sum())
            found.append(Measurement(BENCHMARK, metric, mean, stderr, n))
        return found

    def items(self) -> list[ItemScore]:
        """Return what each sample, by its place, adds to either mean."""
        return [
            ItemScore(BENCHMARK, metric, str(place), float(value), float(tokens))
            for metric, sums in self._by_metric().items()
            for place, (value, tokens) in enumerate(zip(sums, self.tokens, strict=True))
        ]

    def _by_metric(self) -> dict[str, np.ndarray]:
        return {"kl_forward": self.forward, "kl_reverse": self.reverse}


@torch.no_grad()
def divergence(
    tuned: torch.nn.Module,
    base: torch.nn.Module,
    samples: Sequence[PromptAndCompletion],
    batch_size: int,
) -> Divergence:
    """Return how the predictions of two models differ on completions, whatever the batches.

    Raises
    ------
    InputError
        For models of other vocabularies, and a divergence that is no number.

    Notes
    -----
    Forward KL(p‖q) on the new task's data is what Shenfeld, Pari and Agrawal 2025 ("RL's Razor:
    Why online reinforcement learning forgets less") find to predict forgetting; they take it of
    what the tuned model writes, here it is teacher-forced on the data's completions, of which the
    expectation is over data, Σ_v p_v (log p_v − log q_v) at every token. Log-probabilities are
    taken in float32, sums in float64. Memory: both models, B·T·V logits of one of them and two
    times C·V float32 at a time, and a few chunks of ``CHUNK_ENTRIES`` in float64.
    """
    forward, reverse = np.zeros(len(samples)), np.zeros(len(samples))
    lengths = [len(sample.prompt_ids) + len(sample.completion_ids) for sample in samples]
    order = sorted(range(len(samples)), key=lambda i: -lengths[i])
    starts = range(0, len(order), batch_size)
    for start in tqdm(starts, desc="drift", unit="batch", disable=None):
        chosen = order[start : start + batch_size]
        padded = PaddedBatch.of([samples[i] for i in chosen])
        p, q = padded.predictions(base), padded.predictions(tuned)  # [C, V] each
        if p.shape != q.shape:
            raise InputError(
                f"--base: expected predictions over {q.shape[1]} tokens, found {p.shape[1]}; give "
                "the model that the tuned one's training began with"
            )
        rows = padded.rows
        step = max(1, CHUNK_ENTRIES // p.shape[1])
        for first in range(0, len(rows), step):
            part = slice(first, first + step)
            both = token_divergence(p[part], q[part]).cpu().numpy()  # [2, at most step]
            places = np.array(chosen)[rows[part].numpy()]
            np.add.at(forward, places, both[0])
            np.add.at(reverse, places, both[1])
    if not np.isfinite(forward + reverse).all():
        raise InputError(
            "expected finite divergences, found others: a model's predictions overflow; use "
            "float32, or check its weights"
        )
    return Divergence(forward, reverse, np.array([len(s.completion_ids) for s in samples]))


def token_divergence(p_logits: torch.Tensor, q_logits: torch.Tensor) -> torch.Tensor:
    """Return KL(p‖q) and KL(q‖p) of every row of float32 logits [C, V]: float64 [2, C], nats."""
    log_p, log_q = (logits.log_softmax(dim=1).double() for logits in (p_logits, q_logits))
    gap = log_p - log_q
    return torch.stack([(log_p.exp() * gap).sum(dim=1), -(log_q.exp() * gap).sum(dim=1)])


@torch.no_grad()
def weight_change(tuned: "PreTrainedModel", base: "PreTrainedModel") -> list[Measurement]:
    """Return how far weights moved, over all parameters and over the MLP's matrices.

    ``relative_weight_change`` is ‖θ − θ₀‖₂ / ‖θ₀‖₂, ``changed_share`` the share of entries that
    are not bit-identical; ``n`` counts entries, and there is no error, since nothing was sampled.
    The MLP's rows are left out where masks take no MLP (mixtures whose layers differ).

    Give both models as they were saved, in float32: bfloat16 rounds most of a small update away.

    Raises
    ------
    InputError
        When the models have other parameters.
    """
    try:
        of_mlp = {id(matrix.parameter) for matrix in mlp_matrices(tuned)}
    except InputError:
        of_mlp = set()
    everywhere, in_mlp = np.zeros(4), np.zeros(4)
    for name, parameter in tuned.named_parameters():
        counts = _counts(parameter, _counterpart(base, name, parameter))
        everywhere += counts
        in_mlp += counts * (id(parameter) in of_mlp)
    measured = {None: everywhere} | ({"part=mlp": in_mlp} if of_mlp else {})
    return [
        Measurement(BENCHMARK, metric, float(value), None, int(found[3]), subset)
        for subset, found in measured.items()
        for metric, value in (
            ("relative_weight_change", np.sqrt(found[0] / found[1])),
            ("changed_share", found[2] / found[3]),
        )
    ]


def require_comparable(
    tuned: "PreTrainedTokenizerBase", base: "PreTrainedTokenizerBase", where: Path
) -> None:
    """Refuse models whose predictions are over other tokens.

    Raises
    ------
    InputError
        When the tokenizers' vocabularies differ.
    """
    if tuned.get_vocab() != base.get_vocab():
        raise InputError(
            f"{where}: expected the tokenizer of the tuned model, of {len(tuned)} tokens, found "
            f"another one, of {len(base)}; give --base the model that its training began with"
        )


def _counterpart(
    base: "PreTrainedModel", name: str, parameter: torch.nn.Parameter
) -> torch.nn.Parameter:
    """Return the base's parameter of this name; by the name alone, since either may be tied."""
    try:
        found = base.get_parameter(name)
    except AttributeError:
        found = None
    if found is None or found.shape != parameter.shape:
        raise InputError(
            f"--base: expected {name} of shape {tuple(parameter.shape)}, found "
            f"{tuple(found.shape) if found is not None else 'none'}; give the model that the "
            "tuned one's training began with"
        )
    return found


def _counts(new: torch.Tensor, old: torch.Tensor) -> np.ndarray:
    """Return Σ(θ − θ₀)², Σθ₀², entries that differ in any bit, and entries."""
    bits, counts = BITS[new.element_size()], np.zeros(4)
    flat = (tensor.reshape(-1).split(CHUNK_ENTRIES) for tensor in (new, old))
    for now, before in zip(*flat, strict=True):
        n_changed = int((now.view(bits) != before.view(bits)).sum())
        moved, first = now.double() - before.double(), before.double()
        counts += [float(moved @ moved), float(first @ first), n_changed, len(now)]
    return counts
