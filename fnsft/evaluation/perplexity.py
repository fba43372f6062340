"""Perplexity of completions given their prompts."""

from fnsft.artifacts.records import Measurement
from fnsft.training.completion_loss import SampleLosses

BENCHMARK = "perplexity"


def measure(losses: SampleLosses) -> list[Measurement]:
    """Return the perplexity as a measurement over samples."""
    return [
        Measurement(BENCHMARK, "perplexity", losses.perplexity, losses.perplexity_stderr, losses.n)
    ]
