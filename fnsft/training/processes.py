"""The processes that share a run, as ``torchrun`` or ``accelerate launch`` starts them."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from fnsft.errors import InputError


@dataclass(frozen=True)
class Processes:
    """How many processes share the run, and which of them this one is, from 0."""

    n: int
    rank: int

    @classmethod
    def of_environment(cls) -> Self:
        """Read what the launcher has set; one process without a launcher.

        Raises
        ------
        InputError
            Under DeepSpeed, whose engine steps before a mask could act.
        """
        if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
            raise InputError(
                "expected one process, DDP or FSDP2, found DeepSpeed, whose engine clips and "
                "steps by itself, before a mask can act; FSDP2 shards parameters, gradients and "
                "moments too: fnsft train --processes N --parallel fsdp"
            )
        return cls(int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0")))

    @property
    def is_main(self) -> bool:
        """Whether this process writes the run's files."""
        return self.rank == 0


def launch(n: int, words: Sequence[str]) -> None:
    """Run ``fnsft`` with these words in ``n`` processes of this machine, with torchrun.

    Raises
    ------
    InputError
        When they have failed; what is wrong stands in what they have printed.
    """
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*torchrun, f"--nproc-per-node={n}", "-m", "fnsft", *words]
    code = subprocess.run(command).returncode
    if code:
        raise InputError(f"{n} processes ended with code {code}; the first message above says why")
