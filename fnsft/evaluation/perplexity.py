"""Perplexity of completions given their prompts, and which of two a model finds likelier."""

from fnsft.artifacts.records import Measurement
from fnsft.evaluation.shares import share
from fnsft.training.completion_loss import SampleLosses

BENCHMARK = "perplexity"
PREFERENCES = "preferences"


def preference(chosen: SampleLosses, rejected: SampleLosses) -> Measurement:
    """Return the share of pairs whose chosen answer is the likelier one, as a whole."""
    return share(PREFERENCES, "accuracy", (chosen.nll < rejected.nll).tolist())


def measure(losses: SampleLosses) -> list[Measurement]:
    """Return the perplexity as a measurement over samples."""
    return [
        Measurement(BENCHMARK, "perplexity", losses.perplexity, losses.perplexity_stderr, losses.n)
    ]
