"""A sandbox for programs that a model wrote.

``choose_sandbox`` tries what the machine has, ``Candidate`` runs a program in it, ``digest``
compares values too large to travel.
"""

from fnsft.evaluation.sandbox.candidate import Candidate, Outcome, OutcomeKind
from fnsft.evaluation.sandbox.choice import choose_sandbox
from fnsft.evaluation.sandbox.process import Limits, Sandbox
from fnsft.evaluation.sandbox.values import digest

__all__ = ["Candidate", "Limits", "Outcome", "OutcomeKind", "Sandbox", "choose_sandbox", "digest"]
