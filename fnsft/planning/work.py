"""What a job does, counted: its work, its memory and what it leaves on the disk.

A job's seconds are a sum of amounts of work, each over a rate of the machine
(:func:`fnsft.planning.machines.seconds_of`). The amounts are counted from settings and shapes and
know of no machine.
"""

from dataclasses import dataclass, replace
from typing import Literal

Start = Literal["none", "light", "arrays", "kernels", "model", "training"]
Dtype = Literal["float64", "float32", "bfloat16"]


@dataclass(frozen=True)
class Work:
    """Amounts of work of a job.

    Attributes
    ----------
    start
        What is imported before the first line of work.
    flops
        Multiplications and additions in matrix products on the device, in ``dtype``.
    layer_passes
        Layers that a batch passes forward or backward, each a few dozen kernels.
    device_bytes
        Read and written in the device's memory beside matrix products: weights for every decoded
        token, Adam's moments.
    selected_entries
        Matrix entries that are scored and ranked for a mask.
    array_operations, host_operations
        Arithmetic on arrays by the device, and by the processor where there is another device.
    bit_products
        Pairs of neurons times tokens of a projection.
    tokens_read
        Tokens of text that is tokenised.
    programs
        Model-written programs that run in the sandbox.
    disk_bytes, fetched_bytes
        Read or written on the disk, and come over the network.
    """

    start: Start = "none"
    dtype: Dtype = "float32"
    flops: float = 0.0
    layer_passes: float = 0.0
    device_bytes: float = 0.0
    selected_entries: float = 0.0
    array_operations: float = 0.0
    host_operations: float = 0.0
    bit_products: float = 0.0
    tokens_read: float = 0.0
    programs: float = 0.0
    disk_bytes: float = 0.0
    fetched_bytes: float = 0.0

    def plus(self, **amounts: float) -> "Work":
        """Return this work and further amounts."""
        return replace(self, **{name: getattr(self, name) + n for name, n in amounts.items()})

    def times(self, factor: float) -> "Work":
        """Return every amount that many times; the start is one."""
        kept = ("start", "dtype")
        amounts = {name: n * factor for name, n in vars(self).items() if name not in kept}
        return replace(self, **amounts)


@dataclass(frozen=True)
class Cost:
    """Of one job: work, peak memory beside libraries (bytes), and bytes on the disk.

    ``memory`` is the device's where the stage computes on one, else the host's. ``temporary`` bytes
    go when the job ends. ``model`` and ``method`` name what it is about; of a fine-tuning ``way``
    is what of its method decides the memory.
    """

    work: Work
    memory: float = 0.0
    kept: float = 0.0
    temporary: float = 0.0
    model: str = ""
    method: str = ""
    way: str = ""
