"""The kernels as they are compiled for an A100 and an H100, neither of which need be here.

Every launch of a step on a small matrix is noted instead of made, and its kernel compiled for
the arguments that it would have had.
"""

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

triton = pytest.importorskip("triton", reason="Triton is not installed (Linux only)")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("TRITON_INTERPRET is set", allow_module_level=True)

from matrices import two_neighbours  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402

from fnsft.masks import adam_triton, radix_kernels, radix_triton, score_triton  # noqa: E402
from fnsft.masks.radix import Keys, Threshold  # noqa: E402

CPU = torch.device("cpu")
NEURONS, WIDTH = 64, 128
TYPES = {
    torch.float64: "*fp64",
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.int8: "*i8",
    torch.uint8: "*u8",
}
OPTIONS = {"lr": 1e-5, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.1, "maximize": False}


def a_score(dtype: torch.dtype, axis: int) -> Callable[[], Any]:
    gradient, out = torch.ones(2, NEURONS, WIDTH)
    if axis == 1:
        gradient, out = (tensor.t().contiguous().t() for tensor in (gradient, out))
    weights = two_neighbours(0, NEURONS).weights
    return lambda: score_triton.score(gradient.to(dtype), weights, 0.5, out)


def a_step(dtype: torch.dtype) -> Callable[[], Any]:
    tensors = [torch.ones(4096, dtype=dtype) for _ in range(4)]
    kept, count = torch.ones(4096, dtype=torch.int8), torch.ones(())
    return lambda: adam_triton.masked_step(tensors, kept, count, OPTIONS, "frozen")


def a_selection() -> None:
    keys = Keys(torch.ones(4096, dtype=torch.int32), 4096, 1, 0, CPU)
    radix_triton.search(keys, 5, None)
    radix_triton.taken(keys, Threshold(7, 9))


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    found = []

    def note(kernel: Any, grid: tuple, device: torch.device, *arguments: Any, **constants: Any):
        found.append((kernel, arguments, constants))
        if kernel is radix_kernels.descend:  # the search goes on to the hash's second digit
            here = 1 if constants["SHIFT"] == 44 else 2
            arguments[1].copy_(torch.tensor([0, 0, 1, here, 0]))

    for module in (adam_triton, radix_triton, score_triton):
        monkeypatch.setattr(module, "launch", note)
    return found


def compiled(kernel: Any, arguments: tuple, constants: dict[str, Any], capability: int) -> Any:
    """Compile a kernel as Triton does when it is launched with these arguments."""
    options = {k: v for k, v in constants.items() if k not in kernel.arg_names}
    signature = {name: "constexpr" for name in constants if name in kernel.arg_names}
    values = {(kernel.arg_names.index(name),): constants[name] for name in signature}
    hints = {}
    for number, (parameter, argument) in enumerate(zip(kernel.params, arguments, strict=False)):
        name, place = parameter.name, (number,)
        signature[name] = parameter.annotation_type or "i32"
        if isinstance(argument, torch.Tensor):
            signature[name] = TYPES[argument.dtype]
        elif isinstance(argument, float) or parameter.do_not_specialize:
            continue
        elif argument == 1:
            signature[name], values[place] = "constexpr", 1
        if isinstance(argument, torch.Tensor) or argument % 16 == 0:
            hints[place] = [["tt.divisibility", 16]]
    source = triton.compiler.ASTSource(kernel, signature, values, hints)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def stack_bytes(cubin: bytes, folder: Path) -> int:
    """Return how many bytes of registers a thread spills to memory."""
    file = folder / "kernel.cubin"
    file.write_bytes(cubin)
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    command = [tool, "--dump-resource-usage", file]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return sum(map(int, re.findall(r"STACK:(\d+)", shown)))


@pytest.mark.parametrize(
    ("work", "capability"),
    [
        (a_selection, 80),
        (a_score(torch.bfloat16, 0), 90),
        (a_score(torch.float32, 1), 80),
        (a_step(torch.bfloat16), 80),
        (a_step(torch.float32), 90),
    ],
    ids=["selection-80", "score-90", "score-down-80", "step-80", "step-90"],
)
def test_kernels_compile_with_wide_loads_and_without_spilling(
    work, capability, launches, tmp_path, monkeypatch
):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    work()
    assert launches
    for kernel, arguments, constants in launches:
        found = compiled(kernel, arguments, constants, capability)
        assert stack_bytes(found.asm["cubin"], tmp_path) == 0, kernel.__name__
        if "BLOCK" in constants or "COLUMNS" in constants:  # they walk over all entries
            assert "ld.global.v4.b32" in found.asm["ptx"], kernel.__name__
        if kernel is score_triton._score:
            # A fused product would have other last bits than the CPU's.
            assert "mul" in found.asm["ptx"]
            assert not re.search(r"fma\.rn|mad\.rn", found.asm["ptx"])
