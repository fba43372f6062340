"""What the masks cost: selection, score, optimizer, and a whole training step.

    python benchmarks/masks.py [--quick]

The matrix is the up projection of an 8B Llama, [14336, 4096], p = 0.5, λ = 0.5; its gradient is
|normal| times a lognormal factor for each row and each column. The affinity is a random kNN
graph, k = 20. Parts that run on one thread are timed in seconds of the processor, so that what
else the machine does counts little; a training step in seconds of the clock. All are the
shortest of several. The last line is one JSON object:

``selection_speedup_vs_kthvalue``, ``selection_over_read_pass``
    Seconds of ``kthvalue`` over those of ``select_top``, scores in float32 on one thread, and
    seconds of ``select_top`` over those of ``score.sum()``, which reads the scores once.
    ``selection_bf16_…`` are the same for scores in bfloat16, whose read pass is half as long.
``score_seconds_8b_matrix``
    Seconds of ``score`` on one thread; ``score_transposed_…`` for a down projection, [4096, 14336].
``scratch_mb``, ``scratch_highest_mb``, ``matrix_mb``
    Most memory during ``select`` of Collab and of Highest above that before, less their mask, and
    that of a float32 matrix; MB of 10^6 bytes. The score that they return is counted.
``masked_adamw_over_fused``, ``masked_adamw_eager_over_fused``
    Seconds of a step of MaskedAdamW, compiled or not, over those of torch's fused AdamW: 16.8M
    float32 entries, half of them in the mask, moments full, one thread.
``step_overhead``, ``masking_over_step``
    Llama of 135M parameters (SmolLM2's shape), random weights, float32, fused AdamW, 32 sequences
    of 128 tokens: seconds of a step with masked gradients over those of one without, taken in
    turn; and 1 + the seconds that masking alone takes over those of a step without, which
    forward and backward passes do not blur.
``telemetry_overhead``
    1 + seconds of telemetry over those of a masked step, the mean of 10 steps of which one is
    recorded.
``load``
    Processes that were running or waiting, in the mean of the last minute, before and after.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from graph import say

EIGHT_B, ADAMW = (14_336, 4_096), (4_096, 4_096)
FRACTION, LAM, NEIGHBOURS = 0.5, 0.5, 20


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, to try the script")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--steps", type=int, default=2, help="training steps of each kind")
    print(json.dumps(measure(parser.parse_args())))


def measure(arguments: argparse.Namespace) -> dict[str, object]:
    """Return what the last line holds."""
    import torch

    quick, repeats = arguments.quick, arguments.repeats
    load, threads = os.getloadavg()[0], torch.get_num_threads()
    rows, columns = (1_536, 576) if quick else EIGHT_B
    torch.set_num_threads(1)
    gradient = skewed_gradient(rows, columns)
    found = selection(gradient, repeats) | scoring(gradient, repeats) | scratch(gradient)
    del gradient
    found |= optimizers((576, 576) if quick else ADAMW, repeats)
    torch.set_num_threads(threads)
    found |= training(2 if quick else 30, arguments.steps)
    return {
        "rows": rows,
        "columns": columns,
        "threads_of_the_step": threads,
        **{name: float(f"{value:.5g}") for name, value in found.items()},
        "load": [round(load, 1), round(os.getloadavg()[0], 1)],
    }


def skewed_gradient(rows: int, columns: int) -> Any:
    """Return a gradient [rows, columns] of heavy tails; neurons and inputs differ in scale."""
    import torch

    generator = torch.Generator().manual_seed(0)
    scale = torch.randn(rows, 1, generator=generator).mul(2).exp()
    scale = scale * torch.randn(1, columns, generator=generator).exp() * 1e-5
    return torch.randn(rows, columns, generator=generator).mul_(scale)


def random_affinity(n_neurons: int, seed: int) -> Any:
    """Return the affinity of a graph in which every neuron has 20 random neighbours."""
    import numpy as np

    from fnsft.masks.affinity import knn_affinity

    rng = np.random.default_rng(seed)
    others = rng.integers(0, n_neurons - 1, (n_neurons, NEIGHBOURS), dtype=np.int32)
    others += others >= np.arange(n_neurons)[:, None]
    weights = -np.sort(-rng.lognormal(size=others.shape), axis=1).astype(np.float32)
    indptr = np.arange(0, others.size + 1, NEIGHBOURS)
    return knn_affinity(indptr, others.ravel(), weights.ravel(), NEIGHBOURS, NEIGHBOURS)


def selection(gradient: Any, repeats: int) -> dict[str, float]:
    """Time the exact selection against a selection of the threshold alone."""
    import torch

    from fnsft.masks.selection import select_top

    found = {}
    for dtype, name in ((torch.float32, "selection"), (torch.bfloat16, "selection_bf16")):
        score = gradient.abs().to(dtype).flatten()
        rank = score.numel() // 2
        ours = cpu_seconds(lambda s=score: select_top(s, FRACTION, 0, None), repeats)
        kth = cpu_seconds(lambda s=score, r=rank: s.kthvalue(r), min(repeats, 3))
        one_pass = cpu_seconds(score.sum, repeats)
        say(f"{name}: {1e3 * ours:.1f} ms, kthvalue {1e3 * kth:.0f}, read {1e3 * one_pass:.1f}")
        found |= {
            f"{name}_speedup_vs_kthvalue": kth / ours,
            f"{name}_over_read_pass": ours / one_pass,
            f"{name}_seconds": ours,
        }
    return found


def scoring(gradient: Any, repeats: int) -> dict[str, float]:
    """Time the score along both axes."""
    from fnsft.masks.score import score

    affinity, down = random_affinity(gradient.shape[0], 0), gradient.t().contiguous()
    found = {
        "score_seconds_8b_matrix": cpu_seconds(lambda: score(gradient, affinity, LAM, 0), repeats),
        "score_transposed_seconds": cpu_seconds(lambda: score(down, affinity, LAM, 1), repeats),
    }
    say(", ".join(f"{name} {seconds:.3f}" for name, seconds in found.items()))
    return found


def scratch(gradient: Any) -> dict[str, float]:
    """Measure the memory that selecting takes beside the mask."""
    from fnsft.masks.policies import Collab, Highest, MatrixStep

    collab = Collab(FRACTION, 0, LAM, [random_affinity(gradient.shape[0], 0)])
    found = {"matrix_mb": 4e-6 * gradient.numel()}
    for name, policy in (("scratch_mb", collab), ("scratch_highest_mb", Highest(FRACTION, 0))):
        at = MatrixStep(0, 0, 0, 0)
        policy.select(gradient, at)
        Path("/proc/self/clear_refs").write_text("5")  # starts the peak anew
        before = memory_mb("VmRSS")
        policy.select(gradient, at)
        found[name] = memory_mb("VmHWM") - before - 1e-6 * gradient.numel()
        say(f"{name}: {found[name]:.1f}")
    return found


def optimizers(shape: tuple[int, int], repeats: int) -> dict[str, float]:
    """Time MaskedAdamW against AdamW."""
    import torch

    from fnsft.masks import random_fraction
    from fnsft.masks.optimizer import MaskedAdamW

    parameter = torch.nn.Parameter(torch.randn(shape))
    parameter.grad = torch.randn(shape)
    mask, seconds = random_fraction(shape, FRACTION, seed=0), {}
    for name in ("fused", "masked_adamw", "masked_adamw_eager"):
        if name == "fused":
            optimizer: Any = torch.optim.AdamW([parameter], lr=1e-5, fused=True)
        else:
            optimizer = MaskedAdamW([parameter], lr=1e-5, compiled=name == "masked_adamw")
            optimizer.masks = {parameter: mask}
        seconds[name] = cpu_seconds(optimizer.step, 3 * repeats)
    say(", ".join(f"{name} {1e3 * value:.1f} ms" for name, value in seconds.items()))
    fused = seconds.pop("fused")
    return {f"{name}_over_fused": value / fused for name, value in seconds.items()}


def training(n_layers: int, n_steps: int) -> dict[str, float]:
    """Time steps with and without CollabMask, and the telemetry."""
    import torch

    from fnsft.architectures import mlp_matrices
    from fnsft.masks.masker import GradientMasker
    from fnsft.masks.policies import Collab
    from fnsft.masks.telemetry import Telemetry

    model = random_llama(n_layers)
    matrices = mlp_matrices(model)
    affinities = [random_affinity(matrices[0].d_mlp, layer) for layer in range(n_layers)]
    masker = GradientMasker(matrices, Collab(FRACTION, 0, LAM, affinities))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    tokens = torch.randint(model.config.vocab_size, (32, 128))
    seconds: dict[str, list[float]] = {"plain": [], "masked": [], "masking": []}
    for step in range(-1, n_steps):  # the first of each kind warms up
        for kind in ("plain", "masked"):
            start = time.perf_counter()
            model(input_ids=tokens, labels=tokens).loss.backward()
            masking = time.perf_counter()
            if kind == "masked":
                masker.require_finite()
                masker.apply_to_gradients(step + 1)
            masked = time.perf_counter()
            optimizer.step()
            optimizer.zero_grad()
            seconds[kind].append(time.perf_counter() - start)
            if kind == "masked":
                seconds["masking"].append(masked - masking)
            say(f"{kind} step: {seconds[kind][-1]:.2f} s, masking {masked - masking:.3f} s")
    plain, with_masks, masking = (min(times[1:]) for times in seconds.values())
    model(input_ids=tokens, labels=tokens).loss.backward()
    observed = telemetry_seconds(masker, Telemetry(matrices, masker.shards, every=10, lam=LAM))
    say(f"telemetry: {observed:.4f} s a step")
    return {
        "step_seconds": plain,
        "step_overhead": with_masks / plain,
        "masking_over_step": 1 + masking / plain,
        "telemetry_overhead": 1 + observed / (plain + masking),
    }


def telemetry_seconds(masker: Any, telemetry: Any) -> float:
    """Return the mean seconds that telemetry takes of each of 10 steps, on the same gradients."""
    from fnsft.masks.policies import MatrixStep

    seconds = 0.0
    for matrix, shard in zip(masker.matrices, masker.shards, strict=True):
        gradient = matrix.view(matrix.parameter.grad)
        at = MatrixStep(matrix.layer, matrix.neuron_axis, matrix.index, 0, shard)
        selection = masker.policy.select(gradient, at)
        start = time.perf_counter()
        for step in range(10):
            telemetry.observe(matrix.index, step, gradient, selection)
        seconds += time.perf_counter() - start
    return seconds / 10


def random_llama(n_layers: int) -> Any:
    """Return a Llama of SmolLM2-135M's shape with ``n_layers`` of its 30 layers."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=49_152,
            hidden_size=576,
            intermediate_size=1_536,
            num_hidden_layers=n_layers,
            num_attention_heads=9,
            num_key_value_heads=3,
            tie_word_embeddings=True,
            use_cache=False,
        )
    )


def cpu_seconds(run: Callable[[], Any], repeats: int) -> float:
    """Return the processor's seconds of the fastest run, after one that compiles."""
    run()
    found = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        found.append(time.process_time() - start)
    return min(found)


def memory_mb(field: str) -> float:
    """Return one of the kernel's counts of this process's memory, in MB of 10^6 bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024 / 1e6


if __name__ == "__main__":
    main()
