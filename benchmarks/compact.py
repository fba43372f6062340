"""What compact training saves: memory and time of a step, beside full fine-tuning.

    python benchmarks/compact.py [--quick] [--share 0.02] [--steps 7]

A Llama of SmolLM2's shape (135M parameters, 30 layers of 1,536 neurons), random weights, float32,
fused AdamW and clipping by norm, the same batches of 4 sequences of 128 tokens. Full fine-tuning
trains all of it; compact training a share of every layer's neurons, drawn at random, all other
weights frozen. Each has a process of its own; they take their steps in turn, one waiting while the
other computes. The last line is one JSON object:

``memory_ratio``
    Peak of the compact process over that of the full one, each above what it held after its
    imports (VmHWM less VmRSS then).
``memory_ratio_whole``
    The same of whole processes, libraries and all.
``step_time_ratio``
    Median seconds of a step of the one over those of the other; the first of each does not count.
``full_…``, ``compact_…``
    What they are made of: ``peak_mib``, ``imports_mib``, ``step_seconds``, ``trained_parameters``.
``load``
    Processes that were running or waiting, in the mean of the last minute, before and after.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

KINDS = ("full", "compact")
SMOLLM2 = {
    "vocab_size": 49_152,
    "hidden_size": 576,
    "intermediate_size": 1_536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
}
QUICK = SMOLLM2 | {"vocab_size": 512, "num_hidden_layers": 2}


def main() -> None:
    """Parse, start a process of each kind, let them step in turn, print what they took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small model, to try the script")
    parser.add_argument("--share", type=float, default=0.02, help="of the neurons that train")
    parser.add_argument("--steps", type=int, default=7, help="steps of each that count")
    parser.add_argument("--batch", type=int, default=4, help="sequences of a step")
    parser.add_argument("--tokens", type=int, default=128, help="tokens of a sequence")
    parser.add_argument("--kind", choices=KINDS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.kind:
        step_when_told(arguments)
    else:
        print(json.dumps(measure(arguments)))


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what the last line holds."""
    load = os.getloadavg()[0]
    started = {
        kind: subprocess.Popen(
            [sys.executable, *sys.argv, "--kind", kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for kind in KINDS
    }
    found: dict[str, Any] = {kind: answer(process) for kind, process in started.items()}
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(1 + arguments.steps):
        for kind, process in started.items():
            seconds[kind].append(answer(process, "step")["seconds"])
    for kind, process in started.items():
        found[kind] |= answer(process, "end")
        found[kind]["step_seconds"] = statistics.median(seconds[kind][1:])
    full, compact = (found[kind] for kind in KINDS)
    above = [one["peak_mib"] - one["imports_mib"] for one in (compact, full)]
    ratios = {
        "memory_ratio": above[0] / above[1],
        "memory_ratio_whole": compact["peak_mib"] / full["peak_mib"],
        "step_time_ratio": compact["step_seconds"] / full["step_seconds"],
    }
    parts = {f"{kind}_{name}": value for kind in KINDS for name, value in found[kind].items()}
    return {
        **{name: round(value, 4) for name, value in ratios.items()},
        **{name: round(value, 3) for name, value in parts.items()},
        "load": [round(load, 1), round(os.getloadavg()[0], 1)],
    }


def answer(process: "subprocess.Popen[str]", told: str | None = None) -> dict[str, Any]:
    """Tell a process what to do, and return what it says."""
    assert process.stdin is not None and process.stdout is not None
    if told:
        print(told, file=process.stdin, flush=True)
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"a process ended with code {process.wait()}; its message is above")
    found: dict[str, Any] = json.loads(line)
    return found


def step_when_told(arguments: argparse.Namespace) -> None:
    """Make the model, then take a step for every line that comes."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from fnsft.masks.compact import make_compact

    imports = memory_mib("VmRSS")
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**(QUICK if arguments.quick else SMOLLM2)))
    if arguments.kind == "compact":
        model.requires_grad_(False)
        d_mlp = model.config.intermediate_size
        kept = [torch.randperm(d_mlp) < arguments.share * d_mlp for _ in model.model.layers]
        make_compact(model, kept)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)
    shape = (arguments.batch, arguments.tokens)
    draws = torch.Generator().manual_seed(0)
    n = sum(p.numel() for p in trained)
    print(json.dumps({"imports_mib": imports, "trained_parameters": n}), flush=True)
    for told in sys.stdin:
        if told.strip() == "end":
            break
        ids = torch.randint(0, model.config.vocab_size, shape, generator=draws)
        start = time.perf_counter()
        model(input_ids=ids, labels=ids).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        print(json.dumps({"seconds": time.perf_counter() - start}), flush=True)
    print(json.dumps({"peak_mib": memory_mib("VmHWM")}), flush=True)


def memory_mib(name: str) -> float:
    """Return a line of Linux' account of this process: VmRSS now, VmHWM at its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


if __name__ == "__main__":
    main()
