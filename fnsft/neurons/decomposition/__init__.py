"""Functional networks: independent components of activations that are too large for memory."""

from fnsft.neurons.decomposition.activations import Activations
from fnsft.neurons.decomposition.networks import Decomposition, NetworksDidNotConverge, decompose

__all__ = ["Activations", "Decomposition", "NetworksDidNotConverge", "decompose"]
