"""What a model loses when functional networks are removed, and what is left with them alone.

Networks are ordered by their effect, the rise of the loss when one of them is removed, on the
*ranking* split. Every number that is shown is of the *evaluation* split, which had no part in
that choice: the largest of several noisy effects, shown on the data that chose it, would be
too large. Beside every condition stand random channels, as many in every layer.
"""

import dataclasses
import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fnsft.artifacts.lesions import Lesion, Split
from fnsft.artifacts.records import Measurement
from fnsft.config.stages import EvaluateSettings
from fnsft.data.tokens import Encoded
from fnsft.errors import InputError
from fnsft.evaluation import suite
from fnsft.evaluation.lesion_plan import Condition, Plan
from fnsft.masks.forward import forward_mask, masked
from fnsft.training.completion_loss import SampleLosses, completion_loss

Measure = Callable[[Split], list[Measurement]]


@dataclass(frozen=True)
class Material:
    """What every condition is measured on; ``accuracies`` has no split of its own."""

    samples: dict[Split, Sequence[Encoded]]
    accuracies: suite.Benchmarks
    settings: EvaluateSettings

    def measure(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, split: Split
    ) -> list[Measurement]:
        """Return the loss on a split and, beside the evaluation split, the accuracies."""
        batch_size = self.settings.batch_size
        found = [loss_of(completion_loss(model, self.samples[split], batch_size))]
        if split == "evaluation":
            everything = suite.measure(model, tokenizer, self.accuracies, self.settings)
            found += [
                m for m in everything.measurements if (m.metric, m.subset) == ("accuracy", None)
            ]
        return found


def loss_of(losses: SampleLosses) -> Measurement:
    """Return the mean loss a token in nats, the logarithm of the perplexity.

    Its standard error is the perplexity's after the mean was taken off, when the perplexity
    is 1: no loss is too large for it.
    """
    mean = losses.mean_per_token
    centred = dataclasses.replace(losses, nll=losses.nll - mean * losses.tokens)
    return Measurement("perplexity", "loss", mean, centred.perplexity_stderr, losses.n)


@dataclass(frozen=True)
class Lesions:
    """The rows, networks by descending effect on the ranking split, and masks measured."""

    rows: list[Lesion]
    order: list[int]
    n_masks: int


def lesion(model: PreTrainedModel, measure: Measure, plan: Plan, run_of: dict[str, Any]) -> Lesions:
    """Measure every condition; the model ends as it began.

    Parameters
    ----------
    measure
        Measures the model, as it is masked at the time, on a split.
    run_of
        The ``model``, ``task``, ``networks`` and ``seed`` of all rows.

    Raises
    ------
    InputError
        For a network without a channel in the plan's layers, before anything is measured,
        and for a loss that is no number.
    """
    seed, draws = plan.settings.seed, plan.settings.random_draws
    singles = plan.singles()
    intact = plan.intact()
    rows: list[Lesion] = []
    known: dict[tuple[bytes, Split], list[Measurement]] = {}
    first = forward_mask(plan.templates.site, intact.chosen, "lesion")
    with (
        masked(model, first) as attached,
        tqdm(total=plan.n_conditions, desc="lesion", unit="condition", disable=None) as bar,
    ):

        def take(condition: Condition) -> None:
            mask = forward_mask(
                plan.templates.site, condition.chosen, condition.mode, gain=plan.settings.gain
            )
            attached.set(mask)
            digest = hashlib.sha256(b"".join(f.tobytes() for f in mask.factors)).digest()
            for split in splits_of(condition):
                if (digest, split) not in known:
                    known[digest, split] = _finite(measure(split), condition)
                rows.extend(_row(condition, split, m, plan, run_of) for m in known[digest, split])
            bar.update()

        take(intact)
        for condition in singles:
            for one in condition.with_random(seed, draws):
                take(one)
        order = ranked(rows)
        amplified = [replace(c, experiment="amplified", mode="amplify") for c in singles]
        for condition in (*plan.curves(order), *plan.unmasked(), *amplified):
            for one in condition.with_random(seed, draws):
                take(one)
    return Lesions(rows, order, len({digest for digest, _ in known}))


def splits_of(condition: Condition) -> tuple[Split, ...]:
    """Return where a condition is measured: for the ranking the intact model and networks."""
    ranks = condition.source == "network" and condition.experiment in ("intact", "single")
    return ("ranking", "evaluation") if ranks else ("evaluation",)


def ranked(rows: Sequence[Lesion]) -> list[int]:
    """Return the networks by their effect on the ranking split, the largest first."""
    losses = {
        row.network: row.value
        for row in rows
        if (row.experiment, row.split) == ("single", "ranking") and row.network is not None
    }
    return sorted(losses, key=lambda network: (-losses[network], network))


def _finite(found: list[Measurement], condition: Condition) -> list[Measurement]:
    for measurement in found:
        if not math.isfinite(measurement.value):
            which = "" if condition.network is None else f" {condition.network}"
            raise InputError(
                f"{condition.experiment}{which}: {measurement.metric}: expected a number, found "
                f"{measurement.value}: the model's values overflow; use float32, a lower gain, "
                "or check its weights"
            )
    return found


def _row(
    condition: Condition, split: Split, measured: Measurement, plan: Plan, run_of: dict[str, Any]
) -> Lesion:
    fields = {f.name: getattr(condition, f.name) for f in dataclasses.fields(condition)}
    fields |= vars(measured)
    for name in ("mode", "chosen", "subset"):
        del fields[name]
    return Lesion(**run_of, **fields, split=split, n_neurons=condition.n_neurons, n_all=plan.n_all)
