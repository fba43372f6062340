"""Sandboxes that this machine has, and programs in them, for more than one test module."""

from typing import Any

import pytest

from fnsft.errors import InputError
from fnsft.evaluation.sandbox import Candidate, Limits, Outcome, Sandbox, choose_sandbox
from fnsft.evaluation.sandbox.bubblewrap import bubblewrap, bubblewrap_without_proc
from fnsft.evaluation.sandbox.landlock import landlock

BACKENDS = {"bubblewrap": bubblewrap, "landlock": landlock}
EVERY = BACKENDS | {"bubblewrap without proc": bubblewrap_without_proc}
ENOUGH = 120.0  # seconds for what ends by itself, also on a machine that has much else to do
SMALL = Limits(
    seconds=2 * ENOUGH, load_seconds=ENOUGH, memory_mib=512, processes=12, file_mib=1, output_mib=1
)


def the_sandbox(name: str) -> Sandbox:
    """The sandbox; the test is skipped where there is none, and fails where it does not hold."""
    try:
        return choose_sandbox(False, [EVERY[name]])
    except InputError as error:
        if "does not refuse" in str(error):
            raise
        pytest.skip(str(error))


def as_program(body: str) -> str:
    """A program whose ``f`` has these lines, and its arguments as ``x``."""
    return "def f(*x):\n" + "\n".join("    " + line for line in body.strip().splitlines())


def run(
    sandbox: Sandbox, body: str, *args: Any, seconds: float = ENOUGH, limits: Limits = SMALL
) -> Outcome:
    """The outcome of one call of :func:`as_program`."""
    with Candidate(sandbox, as_program(body), "f", limits) as candidate:
        return candidate.call(args, seconds)
