"""Functional networks: independent components of activations that are too large for memory."""

from fnsft.neurons.decomposition.activations import Activations
from fnsft.neurons.decomposition.networks import (
    Decomposition,
    NetworksDidNotConverge,
    decompose,
    functional_connectivity,
)
from fnsft.neurons.decomposition.thresholds import Coverage, coverage

__all__ = [
    "Activations",
    "Coverage",
    "Decomposition",
    "NetworksDidNotConverge",
    "coverage",
    "decompose",
    "functional_connectivity",
]
