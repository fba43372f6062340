"""``fnsft`` with FSDP2 on the CPU: ``torchrun … sharded_train.py train …``.

Accelerate takes DDP instead of FSDP2 where there is no accelerator; here it is told not to.
With DIE_AT in the environment, all processes end at the end of that step.
"""

import os
import signal
import sys
from typing import Any

import accelerate.state
from accelerate.utils import DistributedType

from fnsft.cli.main import main
from fnsft.training import curve

original = accelerate.state.AcceleratorState.__init__


def with_fsdp(self: Any, *arguments: Any, **given: Any) -> None:
    original(self, *arguments, **given)
    plugin = given.get("fsdp_plugin")
    if plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.FSDP
        self.fsdp_plugin = plugin
        accelerate.state.PartialState._shared_state["distributed_type"] = DistributedType.FSDP


on_step_end = curve.ValidationCurve.on_step_end


def until_death(self: Any, args: Any, state: Any, control: Any, **given: Any) -> None:
    if state.global_step == int(os.environ.get("DIE_AT", -1)):
        os.kill(os.getpid(), signal.SIGKILL)
    on_step_end(self, args, state, control, **given)


accelerate.state.AcceleratorState.__init__ = with_fsdp
curve.ValidationCurve.on_step_end = until_death
sys.exit(main())
