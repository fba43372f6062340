"""Machines as rates: how many seconds an amount of work takes.

    seconds = start + Σ amount / rate

With several devices the device's amounts are divided by their number times ``device_sharing``.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import yaml

from fnsft.config.settings import Settings, fields_of, setting
from fnsft.errors import InputError
from fnsft.planning.work import Cost, Start, Work

FOLDER = Path("workflow/machines")


@dataclass(frozen=True, kw_only=True)
class Machine(Settings):
    """One machine: what it has, and its rates. Without GPUs a core is the device."""

    stage: ClassVar[str] = "machine"

    source: str = setting(help="where the numbers come from, and whether they were measured")
    gpus: int = setting(0, "GPUs that jobs may use at a time", minimum=0)
    cores: int = setting(1, "cores that jobs may use at a time", above=0)
    memory_gib: float = setting(help="memory of a GPU, or of the host where there is none", above=0)
    context_mib: float = setting(help="memory of a process before any tensor", minimum=0)
    price: float = setting(0.0, "of a GPU for an hour", minimum=0)
    currency: str = setting("USD", "of the price")

    float64_flops: float = setting(help="products in float64, a second of a device", above=0)
    float32_flops: float = setting(help="the same in float32", above=0)
    bfloat16_flops: float = setting(help="the same in bfloat16", above=0)
    layer_pass_seconds: float = setting(help="of a layer's pass, however small", above=0)
    device_bytes_per_second: float = setting(help="of the device's memory", above=0)
    selected_entries_per_second: float = setting(help="ranked for a mask", above=0)
    device_sharing: float = setting(
        1.0, "share of its speed that each of several devices keeps", above=0, maximum=1
    )
    array_operations_per_second: float = setting(
        help="of a device on arrays that are no products", above=0
    )
    host_operations_per_second: float = setting(help="the same of a core", above=0)
    bit_products_per_second: float = setting(help="of a core in a projection", above=0)
    tokens_per_second: float = setting(help="tokenised by a core", above=0)
    program_seconds: float = setting(help="of a program in the sandbox", above=0)
    disk_bytes_per_second: float = setting(help="read and written", above=0)
    fetched_bytes_per_second: float = setting(help="over the network", above=0)
    start_light: float = setting(help="seconds of a stage's start: Python alone", minimum=0)
    start_arrays: float = setting(help="the same with NumPy and numba", minimum=0)
    start_kernels: float = setting(help="the same with kernels that numba compiles", minimum=0)
    start_model: float = setting(help="the same with torch, transformers and a model", minimum=0)
    start_training: float = setting(help="the same with TRL and PEFT", minimum=0)
    job_seconds: float = setting(help="between two jobs of the workflow", minimum=0)

    @property
    def has_gpus(self) -> bool:
        """Whether models run on GPUs."""
        return self.gpus > 0


def read_machine(name: str) -> Machine:
    """Read a machine by its name in ``workflow/machines``, or from a YAML file.

    What a file leaves out is that of the machine it is ``like``, if it names one.

    Raises
    ------
    InputError
        For a name that no file has, and a file with keys missing or wrong.
    """
    fields, path = _fields(name), str(name)
    if "like" in fields:
        fields = _fields(str(fields.pop("like"))) | fields
    required = [n for n, f in fields_of(Machine).items() if f.default is dataclasses.MISSING]
    if missing := [key for key in required if key not in fields]:
        raise InputError(f"{path}: the key {missing[0]!r} is missing; see cpu.yaml in {FOLDER}")
    return Machine.from_mapping(fields, path)


def _fields(name: str) -> dict[str, Any]:
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in FOLDER.glob("*.yaml"))) or "none here"
        raise InputError(
            f"machine: expected one of {FOLDER} ({known}) or a YAML file, found {name!r}; run it "
            "where the Snakefile is"
        )
    try:
        found = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise InputError(f"{path}: expected YAML, found {' '.join(str(error).split())}") from None
    if not isinstance(found, dict):
        raise InputError(f"{path}: expected the keys of a machine, found {found!r}")
    return found


def seconds_of(work: Work, machine: Machine, devices: int = 1, threads: int = 1) -> float:
    """Return how long a job takes, with so many devices and threads of its own."""
    start: dict[Start, float] = {
        "none": 0.0,
        "light": machine.start_light,
        "arrays": machine.start_arrays,
        "kernels": machine.start_kernels,
        "model": machine.start_model,
        "training": machine.start_training,
    }
    flops = {
        "float64": machine.float64_flops,
        "float32": machine.float32_flops,
        "bfloat16": machine.bfloat16_flops,
    }[work.dtype]
    shared = devices * machine.device_sharing if devices > 1 else 1.0
    on_device = (
        work.flops / flops
        + work.device_bytes / machine.device_bytes_per_second
        + work.selected_entries / machine.selected_entries_per_second
        + work.array_operations / machine.array_operations_per_second
    ) / shared + work.layer_passes * machine.layer_pass_seconds
    on_host = (
        work.host_operations / machine.host_operations_per_second
        + work.bit_products / (threads * machine.bit_products_per_second)
        + work.tokens_read / machine.tokens_per_second
        + work.programs * machine.program_seconds / threads
        + work.disk_bytes / machine.disk_bytes_per_second
        + work.fetched_bytes / machine.fetched_bytes_per_second
    )
    return start[work.start] + on_device + on_host


def memory_of(cost: Cost, machine: Machine) -> float:
    """Return a job's peak memory in bytes with what the process takes before any tensor."""
    return cost.memory + machine.context_mib * (1 << 20)
