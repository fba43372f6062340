"""Training that a signal ends: after a whole step, with a checkpoint, in all processes alike."""

import os
import signal
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import distributed
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from fnsft.errors import Interrupted
from fnsft.training.processes import Processes
from fnsft.training.trainer import MaskedSteps

_AGAIN = b"finishing the step, then saving a checkpoint; Ctrl-C again ends at once\n"


class StopWhenTold(TrainerCallback):
    """Stops after the step in which SIGTERM or SIGINT comes, once its checkpoint is written.

    It is the last of the callbacks: what belongs to the step (its point of the curve, the
    weights of the best epoch) comes first, so that a resumed run lacks none of it. Before the
    first step the signals end the process at once.
    """

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self.told = 0  # the signal's number
        self._stopping = False
        self._before: dict[signal.Signals, Any] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Take the signals over, but for one that is ignored, as a shell's background has it."""
        for number in (signal.SIGTERM, signal.SIGINT):
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._note)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Ask for a checkpoint and the end, when any process has been told."""
        if self.agreed(args.device):
            self._stopping = control.should_save = control.should_training_stop = True

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Leave the checkpoint alone that the step has written, or a kill could cut it short."""
        if self._stopping:
            control.should_save = False

    def agreed(self, device: torch.device) -> int:
        """Return the signal that any of the processes was told, or 0; all call it together."""
        if self.processes.n == 1:
            return self.told
        told = torch.tensor(self.told, device=device)
        distributed.all_reduce(told, op=distributed.ReduceOp.MAX)
        return int(told)

    def restore(self) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGINT:
            if self.told:
                raise KeyboardInterrupt
            if self.processes.is_main:
                os.write(2, _AGAIN)  # print may be what was interrupted
        self.told = signum


def train_until_told(trainer: MaskedSteps, processes: Processes, resume_from: Path | None) -> None:
    """Train to the end, or to a checkpoint when a signal asks for the end.

    Raises
    ------
    Interrupted
        In all processes, when one has been told.
    """
    stop = StopWhenTold(processes)
    trainer.add_callback(stop)
    try:
        trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
        # Also waits for the process that writes: the others' end would be taken for a failure.
        told = stop.agreed(trainer.args.device)
    finally:
        stop.restore()
    if told:
        raise Interrupted(told)
