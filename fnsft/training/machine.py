"""What the device can do, found by trying; every probe imports what it needs by itself."""

import os
import platform
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from fnsft.artifacts.storage import size_in_words

if TYPE_CHECKING:
    import torch

DEMO_BYTES = 4 << 30  # memory that `make demo` needs
DTYPES = ("float32", "bfloat16", "float16")
# The largest error of a product of 64 terms, and of NF4 (.09 was measured), relative to the norm.
PRODUCT_ERROR_EPS = 4
NF4_ERROR = 0.15


@dataclass(frozen=True)
class Finding:
    """One line of the doctor: what was found, and what to do unless it is ``ok``.

    ``needed``: without it the default run does not work.
    """

    subject: str
    state: Literal["ok", "warning", "missing"]
    found: str
    remedy: str = ""
    needed: bool = False


Probe = Callable[[], Iterable[Finding]]


def probed(subject: str, probe: Probe, needed: bool = False) -> list[Finding]:
    """Return what a probe finds; one that fails is a finding of its own."""
    try:
        return list(probe())
    except Exception as error:  # whatever a driver or a half-installed package raises
        reason = " ".join(str(error).split())[:160]
        found = f"could not be told ({type(error).__name__}: {reason})"
        remedy = "mend or reinstall what the message names"
        return [Finding(subject, "missing" if needed else "warning", found, remedy, needed)]


def system() -> Iterable[Finding]:
    """Say which system, cores and memory there are."""
    import psutil

    yield Finding(
        "platform", "ok", f"{platform.system()} {platform.release()} {os.uname().machine}"
    )
    yield Finding("python", "ok", platform.python_version())
    memory = psutil.virtual_memory()
    found = f"{size_in_words(memory.available)} of {size_in_words(memory.total)} free"
    if memory.available >= DEMO_BYTES:
        yield Finding("memory", "ok", found)
    else:
        remedy = f"the smallest runs need {size_in_words(DEMO_BYTES)}; end other programs"
        yield Finding("memory", "warning", found, remedy)


def devices() -> Iterable[Finding]:
    """Say which processor and accelerators torch sees."""
    import torch

    affinity = getattr(os, "sched_getaffinity", None)
    n_cores = len(affinity(0)) if affinity else os.cpu_count()
    extensions = [torch.backends.cpu.get_cpu_capability(), *_half_precision_units()]
    yield Finding("processor", "ok", f"{n_cores} cores; {', '.join(extensions)}")
    for number in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(number)
        free, total = torch.cuda.mem_get_info(number)
        yield Finding(
            f"cuda:{number}",
            "ok",
            f"{device.name}, capability {device.major}.{device.minor}, "
            f"{size_in_words(free)} of {size_in_words(total)} free",
        )
    if torch.backends.mps.is_available():
        limit = size_in_words(torch.mps.recommended_max_memory())
        yield Finding("mps", "ok", f"Apple GPU, up to {limit}")
    if torch.accelerator.current_accelerator(check_available=True) is None:
        yield Finding("accelerator", "ok", "none: everything runs on the processor")


def _half_precision_units() -> list[str]:
    """Name the processor's units for bfloat16, as far as torch says."""
    import torch

    tests = {"AVX512-BF16": "_is_avx512_bf16_supported", "AMX": "_is_amx_tile_supported"}
    # torch keeps both to itself: they may go.
    return [name for name, test in tests.items() if getattr(torch.cpu, test, bool)()]


def _device() -> "torch.device":
    import torch

    found = torch.accelerator.current_accelerator(check_available=True)
    return found if found is not None else torch.device("cpu")


def dtypes() -> Iterable[Finding]:
    """Multiply two small matrices in every precision."""
    for name in DTYPES:
        yield from probed(name, partial(_product, name), needed=name == "float32")


def _product(name: str) -> Iterable[Finding]:
    import torch

    device, dtype = _device(), getattr(torch, name)
    draws = torch.Generator().manual_seed(0)
    a, b = (torch.randn(64, 64, generator=draws).to(dtype) for _ in range(2))
    exact = a.double() @ b.double()
    product = (a.to(device) @ b.to(device)).cpu().double()
    error = ((product - exact).norm() / exact.norm()).item()
    found = f"a product on {device.type} is off by {error:.1e}"
    if not error <= PRODUCT_ERROR_EPS * torch.finfo(dtype).eps:
        if name == "float32":
            yield Finding(name, "missing", found, "reinstall torch or the driver", needed=True)
        else:
            yield Finding(name, "warning", found, "do not train in it here")
    elif name == "bfloat16" and device.type == "cpu" and not _half_precision_units():
        remedy = "no unit for it, so it is slow: leave --bf16-autocast off"
        yield Finding(name, "warning", found, remedy)
    else:
        yield Finding(name, "ok", found)


def quantisation() -> Iterable[Finding]:
    """Pack a small matrix in 4 bits on the device, and unpack it."""
    import torch

    try:
        from bitsandbytes import functional
    except ImportError as reason:
        remedy = "pip install 'fnsft[quantised]', for --quantise alone"
        yield Finding("quantisation", "missing", f"bitsandbytes: {reason}", remedy)
        return
    device = _device()
    weights = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)).to(device)
    try:
        packed, state = functional.quantize_4bit(weights, quant_type="nf4")
        error = (
            (functional.dequantize_4bit(packed, state) - weights).norm() / weights.norm()
        ).item()
    except (RuntimeError, NotImplementedError) as reason:
        found = f"4 bits fail on {device.type} ({' '.join(str(reason).split())[:120]})"
        remedy = "train LoRA without --quantise, or use CUDA or the processor"
        yield Finding("quantisation", "missing", found, remedy)
        return
    found = f"4 bits on {device.type}, off by {error:.2f}"
    if error <= NF4_ERROR:
        yield Finding("quantisation", "ok", found)
    else:
        yield Finding("quantisation", "warning", found, "reinstall bitsandbytes")


def attention() -> Iterable[Finding]:
    """Say which of attention's codes there are."""
    from transformers.utils import is_flash_attn_2_available

    if is_flash_attn_2_available():
        yield Finding("attention", "ok", "flash_attention_2, sdpa, eager")
    elif _device().type == "cuda":
        remedy = "pip install flash-attn --no-build-isolation, for less memory on long samples"
        yield Finding("attention", "missing", "sdpa, eager; no flash_attention_2", remedy)
    else:
        yield Finding("attention", "ok", "sdpa, eager (flash_attention_2 needs CUDA)")


def processes() -> Iterable[Finding]:
    """Say how several processes could share a run."""
    import torch
    from torch import distributed

    backends = []
    if distributed.is_available():
        known = {"nccl": distributed.is_nccl_available, "gloo": distributed.is_gloo_available}
        backends = [name for name, test in known.items() if test()]
    wanted = "nccl" if torch.cuda.is_available() else "gloo"
    found = ", ".join(backends) or "no backend"
    if wanted in backends:
        yield Finding("processes", "ok", found)
    else:
        remedy = f"--processes needs {wanted}: install a torch that has it"
        yield Finding("processes", "missing", found, remedy)
