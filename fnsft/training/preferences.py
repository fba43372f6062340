"""Pairs of answers: what the model that a run begins with says of them, and the loss of DPO.

Of a prompt x with the answers y⁺ (chosen) and y⁻ (rejected), π the trained model and π₀ the one
that the run began with, without adapters::

    h = log π(y⁺|x) − log π(y⁻|x) − (log π₀(y⁺|x) − log π₀(y⁻|x))
    loss = −log σ(β·h)

(Rafailov et al. 2023, arXiv 2305.18290, Eq. 7). π₀ does not change: it is asked once, before the
first step, and kept in the run's checkpoints. The loss that trains is TRL's
(:class:`fnsft.training.trainer.MaskedDPOTrainer`); here it is measured.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel, TrainingArguments

from fnsft.artifacts.rows import numbered_rows
from fnsft.artifacts.tensors import Header, read_tensors, write_tensors
from fnsft.config.stages import Objective, TrainSettings
from fnsft.data.tokens import Encoded
from fnsft.errors import InputError
from fnsft.training.completion_loss import SampleLosses, completion_loss

KIND, SCHEMA = "reference-losses", 1
FILE_NAME = "reference.safetensors"


@dataclass(frozen=True, eq=False)
class PairLosses:
    """Negative log-likelihoods of both answers of n pairs."""

    chosen: SampleLosses
    rejected: SampleLosses

    @property
    def nll(self) -> np.ndarray:
        """Of chosen and rejected answers, float64 [2, n]."""
        return np.stack([self.chosen.nll, self.rejected.nll])


def require_objective(files: Sequence[Path], objective: Objective) -> None:
    """Refuse prepared splits with or without pairs where the objective wants the other.

    Raises
    ------
    InputError
        For the first such row.
    """
    for path in files:
        for number, row in numbered_rows(path):
            is_pair = isinstance(row, dict) and "rejected" in row
            if is_pair and objective != "dpo":
                raise InputError(
                    f"objective: expected samples of one answer, found a pair ({path} line "
                    f"{number}); use --objective dpo, or learn the chosen answers alone with "
                    "--columns prompt=FIELD,completion=FIELD (conversations: messages=FIELD)"
                )
            if objective == "dpo" and not is_pair:
                raise InputError(
                    "objective: dpo compares a chosen with a rejected answer, found a sample of "
                    f"one ({path} line {number}); give rows of prompt, chosen and rejected, or use "
                    "--objective completion"
                )


def pair_losses(model: torch.nn.Module, pairs: Sequence[Encoded], batch_size: int) -> PairLosses:
    """Return the losses of both answers, ``batch_size`` answers a forward pass."""
    chosen = completion_loss(model, pairs, batch_size)
    others = [pair.with_rejected for pair in pairs]
    return PairLosses(chosen, completion_loss(model, others, batch_size))


def reference_losses(
    model: PreTrainedModel,
    folder: Path,
    splits: Mapping[str, Sequence[Encoded]],
    settings: TrainSettings,
    arguments: TrainingArguments,
) -> dict[str, np.ndarray]:
    """Return the untouched model's :attr:`PairLosses.nll` of every split.

    The main process computes them if ``folder`` has none yet, in the precision of training.
    """
    path = folder / FILE_NAME
    with arguments.main_process_first(local=False):
        if arguments.process_index == 0 and not path.exists():
            model.to(arguments.device)
            half = settings.bf16_autocast
            with torch.autocast(arguments.device.type, torch.bfloat16, enabled=half):
                found = {
                    name: pair_losses(model, pairs, settings.micro_batch_size).nll
                    for name, pairs in splits.items()
                }
            write_tensors(path, Header(KIND, SCHEMA, "run"), found)
    return read_tensors(path, KIND, SCHEMA)[1]


def as_pairs(pairs: Sequence[Encoded], reference: np.ndarray) -> Dataset:
    """Turn pairs and the start's losses of them, [2, n], into TRL's columns."""
    return Dataset.from_list(
        [
            {
                "prompt_ids": pair.prompt_ids,
                "chosen_ids": pair.completion_ids,
                "rejected_ids": pair.rejected_ids,
                "ref_chosen_logps": -float(chosen),
                "ref_rejected_logps": -float(rejected),
            }
            for pair, (chosen, rejected) in zip(pairs, reference.T, strict=True)
        ]
    )


def preference_point(losses: PairLosses, reference: np.ndarray, beta: float) -> dict[str, float]:
    """Return a point of the validation curve: DPO's mean loss, and what goes with it.

    ``accuracy`` is the share of pairs with h > 0 (a tie is half a pair: before the first step all
    are), ``perplexity`` that of the chosen answers.
    """
    h = (reference[0] - losses.chosen.nll) - (reference[1] - losses.rejected.nll)
    return {
        "loss": float(np.logaddexp(0, -beta * h).mean()),
        "accuracy": float(((1 + np.sign(h)) / 2).mean()),
        "perplexity": losses.chosen.perplexity,
        "samples": losses.chosen.n,
        "tokens": losses.chosen.n_tokens,
    }
