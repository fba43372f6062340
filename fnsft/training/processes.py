"""The processes that share a run, as ``torchrun`` or ``accelerate launch`` starts them."""

import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from fnsft.config.stages import TrainSettings
from fnsft.errors import InputError

# How long torchrun, once told to end, waits for a checkpoint before it kills (ours; else 30).
GRACE_SECONDS = 600
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)  # that torchrun passes on


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


def require_as_launched(settings: TrainSettings, processes: Processes) -> None:
    """Refuse settings that ``accelerate launch`` was told otherwise, of which one would be ignored.

    Raises
    ------
    InputError
        For another way to share the run, and for a precision that the settings do not have.
    """
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION")
    if precision is None:  # not started by accelerate
        return
    if precision not in ("no", "bf16" if settings.bf16_autocast else "no"):
        raise InputError(
            f"bf16_autocast: expected mixed_precision no in accelerate's configuration, found "
            f"{precision!r}; the flags of fnsft train say it instead"
        )
    sharded = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    if processes.n > 1 and sharded != (settings.parallel == "fsdp"):
        told = "fsdp" if sharded else "ddp"
        raise InputError(
            f"parallel: expected {told}, as accelerate's configuration says, found "
            f"{settings.parallel}; add --parallel {told}, or take the other configuration"
        )


def require_whole_layers(settings: TrainSettings, n: int) -> None:
    """Refuse to shard layers of which only some neurons are parameters.

    Raises
    ------
    InputError
        For a compact run that ``n`` processes would share by FSDP2.
    """
    if settings.compact and n > 1 and settings.parallel == "fsdp":
        raise InputError(
            f"compact: expected layers that every process holds whole, found FSDP2 over {n} "
            "processes; use --parallel ddp, or leave compact off"
        )


def launch(n: int, words: Sequence[str]) -> None:
    """Run ``fnsft`` with these words in ``n`` processes of this machine, with torchrun.

    torchrun's agent is this process, so that a signal reaches it, and through it the others.

    Raises
    ------
    InputError
        When they have failed; what is wrong stands in what they have printed.
    SystemExit
        When a signal has ended them, which they have said.
    """
    import psutil
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(GRACE_SECONDS))
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        run.main(["--standalone", f"--nproc-per-node={n}", "-m", "fnsft", *words])
    except SignalException as told:
        for number in handlers:  # a second signal makes torchrun leave the others alone
            signal.signal(number, signal.SIG_IGN)
        psutil.wait_procs(psutil.Process().children(), timeout=GRACE_SECONDS)
        sys.exit(128 + told.sigval)
    except ChildFailedError as failed:
        # The others' codes are of how this one's end has ended them.
        code = failed.get_first_failure()[1].exitcode
        if code - 128 in SIGNALS:
            sys.exit(code)
        if code == -signal.SIGKILL:
            why = "as one was killed, perhaps for want of memory; the same command goes on"
        else:
            why = f"with code {code}; the first message above says why"
        raise InputError(f"{n} processes ended {why}") from None
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
