"""Policies: one module a method, each of which keeps the contract (:mod:`.contract`)."""

from fnsft.masks.policies.collab import Collab
from fnsft.masks.policies.columns import Columns
from fnsft.masks.policies.contract import MatrixStep, Policy
from fnsft.masks.policies.fixed import Fixed, PackedMask
from fnsft.masks.policies.hft import HalfFineTuning, draw_matrices
from fnsft.masks.policies.highest import Highest
from fnsft.masks.policies.momentum import Momentum
from fnsft.masks.policies.network import Network
from fnsft.masks.policies.random import Random
from fnsft.masks.policies.small_weights import SmallWeights

__all__ = [
    "Collab",
    "Columns",
    "Fixed",
    "HalfFineTuning",
    "Highest",
    "MatrixStep",
    "Momentum",
    "Network",
    "PackedMask",
    "Policy",
    "Random",
    "SmallWeights",
    "draw_matrices",
]
