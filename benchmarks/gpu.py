"""How near the stages that are ours come to the limits of a GPU, in one go of under 8 minutes.

    python benchmarks/gpu.py [--device cuda] [--quick] [--sections NAME ...] [--minutes 7.5]

Needs torch, Triton, transformers, NumPy and numba, and no installation: it finds fnsft beside
itself. Every section prints its part as it ends; one that fails, or that no time is left for, says
so and stops no other. The last line is one JSON object. Times are medians of up to nine
repetitions by the device's own events, no longer than 15 seconds together, after two that do not
count, and ``…_spread`` is (longest − shortest) / median; whole steps and passes are timed by the
clock, the device waited for. Products in float32 do not use TF32 but where it is said.
``--quick`` takes toy sizes, and with ``--device cpu`` shows in less than a minute that everything
runs.

``machine``
    Operations a second of dense products [2048, K] · [K, N] of the projection's shape, K = 16,384,
    N = 14,336, of normal values, and bytes a second that a copy reads and writes.
``projection``
    One layer of 14,336 neurons and 800,000 tokens, a quarter of the bits set, Zipf tokens
    (exponent 1, 50,000 kinds), α = 2.5, β = 1.3, the three most frequent dropped.
    ``seconds_per_layer`` is all from bits in the host's memory to the 64 heaviest neighbours in the
    host's; ``seconds`` the part after the bits are on the device and the sizes are known.
    ``share_of_matmul_rate``: operations of the products that were made (blocks on and above the
    diagonal) in ``seconds``, over the larger of float16's and bfloat16's rates.
    Errors are against float64 sums of exact weights on 64 rows.
``selection``
    A matrix [14336, 4096] and its transpose, p = λ = .5, k = 20; ``…_passes`` are seconds over
    those that the copy's rate takes for the bytes of the scores, or of the gradient, read once.
``optimizer``
    Gate, up and down projections of 32 layers of an 8B Llama in bfloat16, AdamW's states too
    (fewer layers where memory is short). ``update``: ``MaskedAdamW`` with a mask made for it;
    ``given``: with masks made before; ``gradient``: masked gradients and fused AdamW.
``training``
    Steps of a Llama of 1.35B parameters, random weights, bfloat16, 8 sequences of 1,024 tokens;
    plain, with masked gradients, and with masked updates, taken in turn.
``capture``
    Tokens a second of a dump of that model's neurons, and of its bare forward pass.
``networks``
    20 principal components of 8,000 tokens × 46,080 channels, float16, and FastICA on them.
    ``seconds`` includes the way to the device, ``seconds_again`` does not.
"""

import argparse
import functools
import gc
import json
import platform
import shutil
import statistics
import sys
import tempfile
import time
import traceback
import types
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

FRACTION, LAM, NEIGHBOURS, K_MAX = 0.5, 0.5, 20, 64
LIMIT_SECONDS = 15  # of the repetitions of one measurement
KINDS, ALPHA, BETA, DROPPED = 50_000, 2.5, 1.3, 3
AIMS = {  # at least, if positive; at most, if negative
    "projection.share_of_matmul_rate": 0.7,
    "projection.seconds_per_layer": -2,
    "selection.float32_selection_passes": -4,
    "selection.bfloat16_selection_passes": -4,
    "optimizer.update_over_fused": -2.5,
    "training.update_over_plain": -1.05,
    "training.gradient_over_plain": -1.05,
    "capture.share_of_bare_forward": 0.8,
}


@dataclass(frozen=True)
class Sizes:
    """What is measured; of ``QUICK`` no number means anything."""

    neurons: int = 14_336
    d_model: int = 4_096
    tokens: int = 800_000
    product: tuple[int, int] = (2_048, 16_384)
    copied: int = 2 << 30
    layers: int = 32
    llama: tuple[int, int, int, int, int] = (2_048, 8_192, 20, 16, 32_000)
    batch: tuple[int, int] = (8, 1_024)
    steps: int = 5
    passes: int = 8
    activations: tuple[int, int, int] = (8_000, 46_080, 20)
    repeats: int = 9


QUICK = Sizes(
    neurons=512,
    d_model=128,
    tokens=6_000,
    product=(128, 256),
    copied=1 << 20,
    layers=2,
    llama=(64, 192, 2, 2, 300),
    batch=(2, 64),
    steps=2,
    passes=2,
    activations=(400, 600, 4),
    repeats=3,
)


@dataclass
class Bench:
    """The device, the sizes, and what earlier sections found."""

    device: Any
    sizes: Sizes
    end: float
    found: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def on_cuda(self) -> bool:
        """Whether the device has events, and memory that can run out."""
        return self.device.type == "cuda"

    def rate(self, name: str) -> float:
        """Return one of the machine's rates; NaN where it was not measured."""
        return float(self.found.get("machine", {}).get(name, "nan"))

    def wait(self) -> None:
        """Wait until the device has done all."""
        if self.on_cuda:
            import torch

            torch.cuda.synchronize()

    def clocked(self, run: Callable[[], Any]) -> tuple[Any, float]:
        """Return a result, and the seconds until the device has done all of it."""
        self.wait()
        start = time.perf_counter()
        result = run()
        self.wait()
        return result, time.perf_counter() - start

    def times(self, run: Callable[[], Any], repeats: int, by_events: bool) -> list[float]:
        """Return the seconds of some calls, after two; fewer when the time is nearly over."""
        for _ in range(2):
            run()
        found: list[float] = []
        end = min(self.end, time.monotonic() + LIMIT_SECONDS)
        while len(found) < repeats and (not found or time.monotonic() < end):
            if by_events and self.on_cuda:
                import torch

                start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                run()
                stop.record()
                stop.synchronize()
                found.append(start.elapsed_time(stop) / 1e3)
            else:
                found.append(self.clocked(run)[1])
        return found

    def timed(self, name: str, run: Callable[[], Any], by_events: bool = True) -> dict[str, float]:
        """Return ``name`` and ``name_spread`` of a call's seconds."""
        return summary(name, self.times(run, self.sizes.repeats, by_events))


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="toy sizes, to try the script")
    parser.add_argument("--sections", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--minutes", type=float, default=7.5, help="after which none begins")
    arguments = parser.parse_args()
    print(json.dumps(measure(arguments)))


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what the last line holds."""
    import torch

    torch.set_float32_matmul_precision("highest")
    torch.manual_seed(0)
    sizes, start = QUICK if arguments.quick else Sizes(), time.monotonic()
    bench = Bench(torch.device(arguments.device), sizes, start + 60 * arguments.minutes)
    for name in arguments.sections:
        bench.found[name] = guarded(name, bench)
        print(json.dumps({name: bench.found[name]}), flush=True)
    return {
        **surroundings(arguments),
        "seconds": round(time.monotonic() - start, 1),
        **bench.found,
        "aims": aims(bench.found),
    }


def guarded(name: str, bench: Bench) -> dict[str, Any]:
    """Run a section; what goes wrong becomes its result."""
    import torch

    if time.monotonic() > bench.end:
        return {"error": "not run: no time was left"}
    start = time.monotonic()
    found: dict[str, Any] = {}
    try:
        for part in SECTIONS[name](bench):
            found |= part
    except Exception as error:
        traceback.print_exc()
        found["error"] = f"{type(error).__name__}: {error}".splitlines()[0]
    gc.collect()
    if bench.on_cuda:
        found["peak_device_gb"] = torch.cuda.max_memory_allocated() / 1e9
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    found["section_seconds"] = time.monotonic() - start
    return {key: rounded(value) for key, value in found.items()}


def machine(bench: Bench) -> Iterator[dict[str, Any]]:
    """Measure dense products and copies."""
    yield from products(bench)
    import torch

    source = torch.ones(bench.sizes.copied, dtype=torch.uint8, device=bench.device)
    target = torch.empty_like(source)
    found = bench.timed("copy", lambda: target.copy_(source))
    yield {
        "copy_bytes_per_second": 2 * source.nbytes / found["copy"],
        "copy_spread": found["copy_spread"],
    }


def products(bench: Bench) -> Iterator[dict[str, Any]]:
    """Measure dense products of the projection's shape."""
    import torch

    rows, inner = bench.sizes.product
    a, b = (torch.randn(n, inner, device=bench.device) for n in (rows, bench.sizes.neurons))
    left, right = ((x * 20).to(torch.int8) for x in (a, b))
    operations = 2 * rows * inner * bench.sizes.neurons

    def rate(name: str, run: Callable[[], Any]) -> dict[str, Any]:
        found = bench.timed(name, run)
        return {name: operations / found[name], f"{name}_spread": found[f"{name}_spread"]}

    for dtype in (torch.float16, torch.bfloat16):
        x, y = a.to(dtype), b.to(dtype).T
        name = str(dtype).removeprefix("torch.")
        yield rate(f"{name}_flops", lambda x=x, y=y: x @ y)
        if bench.on_cuda:  # the CPU has none
            run = functools.partial(torch.mm, x, y, out_dtype=torch.float32)
            yield rate(f"{name}_to_float32_flops", run)
    yield rate("float32_flops", lambda: a @ b.T)
    if bench.on_cuda:
        torch.set_float32_matmul_precision("high")
        yield rate("tf32_flops", lambda: a @ b.T)
        torch.set_float32_matmul_precision("highest")
    yield rate("int8_ops", lambda: torch._int_mm(left, right.T))


def projection(bench: Bench) -> Iterator[dict[str, Any]]:
    """Project a layer as ``fnsft project --device accelerator`` does."""
    import numpy as np

    from fnsft.neurons.hyperedges import hyperedge_weights
    from fnsft.neurons.projection_torch import CHUNK_TOKENS, DeviceLayer

    bits = RandomBits(bench)
    token_weights = zipf_weights(bench.sizes.tokens)

    def project() -> Any:
        layer = DeviceLayer(bits, bench.device)
        sizes = layer.sizes()
        weights = hyperedge_weights(sizes, token_weights, ALPHA)
        return layer, sizes, weights, layer.project(sizes, weights, K_MAX)

    project()  # compiles
    (layer, sizes, weights, graph), seconds = bench.clocked(project)
    again = [bench.clocked(project)[1] for _ in range(2)]
    yield summary("seconds_per_layer", [seconds, *again]) | {
        "neurons": bits.n_neurons,
        "tokens": bits.n_tokens,
        "tokens_with_weight": int((weights > 0).sum()),
        "mean_hyperedge_share": float(sizes.mean()) / bits.n_neurons,
        "product_tokens": CHUNK_TOKENS,
    }
    found = bench.timed("seconds", lambda: layer.project(sizes, weights, K_MAX), by_events=False)
    yield found
    pairs = multiplied_pairs(bits.n_neurons)
    flops = 2 * pairs * int((weights > 0).sum()) / found["seconds"]
    dense = max(bench.rate("float16_flops"), bench.rate("bfloat16_flops"))
    yield {
        "flops": flops,
        "share_of_matmul_rate": flops / dense,
        "multiplied_share_of_all_pairs": pairs / bits.n_neurons**2,
    }
    whole = np.empty((bits.n_neurons, bits.n_neurons), dtype=np.float32)
    layer.project(sizes, weights, K_MAX, dense=whole)
    rows = np.random.default_rng(1).choice(bits.n_neurons, 64, replace=False)
    exact = bits.exact_rows(rows, weights, bench.device)
    positive = exact > 0
    error = np.abs(whole[rows] - exact)[positive] / exact[positive]
    shared = 0
    for row, neuron in enumerate(rows):
        nearest = np.argsort(-exact[row], kind="stable")[:NEIGHBOURS]
        first = graph.indptr[neuron]
        shared += len(np.intersect1d(nearest, graph.indices[first : first + NEIGHBOURS]))
    yield {
        "mean_relative_error": float(error.mean()),
        "largest_relative_error": float(error.max()),
        "knn_recall": shared / (len(rows) * NEIGHBOURS),
        "symmetric": bool((whole == whole.T).all()),
    }


class RandomBits:
    """A layer's bits in memory, in blocks of a dump's length, a quarter of them set."""

    def __init__(self, bench: Bench) -> None:
        import numpy as np
        import torch

        from fnsft.artifacts.activations import DumpShape

        self.n_neurons, self.n_tokens = bench.sizes.neurons, bench.sizes.tokens
        shape = DumpShape(bench.sizes.layers, self.n_neurons, self.n_tokens)
        self.blocks, first = [], 0
        for n_words in shape.block_words:
            octets = (self.n_neurons, 8 * n_words)
            drawn = torch.randint(256, (2, *octets), dtype=torch.uint8, device=bench.device)
            drawn = drawn[0] & drawn[1]
            drawn[:, -(-(self.n_tokens - first) // 8) :] = 0
            self.blocks.append(drawn.cpu().numpy().view(np.uint64))
            first += 64 * n_words

    def rows(self, start: int, stop: int) -> Iterator[Any]:
        """Yield neurons of block after block, [stop − start, W] uint64."""
        for block in self.blocks:
            yield block[start:stop]

    def exact_rows(self, rows: Any, weights: Any, device: Any) -> Any:
        """Return some rows of G in float64, the diagonal 0, by torch's own operations."""
        import torch

        exact = torch.zeros(len(rows), self.n_neurons, dtype=torch.float64, device=device)
        shifts, first = torch.arange(8, dtype=torch.uint8, device=device), 0
        for block in self.blocks:
            octets = torch.from_numpy(block.view("uint8")).to(device)
            bits = ((octets[:, :, None] >> shifts) & 1).flatten(1).double()
            of_block = torch.zeros(bits.shape[1], dtype=torch.float64)
            some = torch.from_numpy(weights[first : first + bits.shape[1]])
            of_block[: len(some)] = some
            exact += (bits[rows] * of_block.to(device)) @ bits.T
            first += bits.shape[1]
        found = exact.cpu().numpy()
        found[range(len(rows)), rows] = 0
        return found


def zipf_weights(n_tokens: int) -> Any:
    """Return TR of random tokens, [T]: rank^β, the most frequent kinds 0; no ties are shared."""
    import numpy as np

    shares = 1 / np.arange(1, KINDS + 1)
    ids = np.random.default_rng(0).choice(KINDS, size=n_tokens, p=shares / shares.sum())
    ranks = np.empty(KINDS)
    ranks[np.argsort(-np.bincount(ids, minlength=KINDS), kind="stable")] = np.arange(1, KINDS + 1)
    weights = ranks**BETA
    weights[ranks <= DROPPED] = 0
    return weights[ids]


def multiplied_pairs(n_neurons: int) -> int:
    """Count the entries of G that the projection's products make."""
    from fnsft.neurons.projection_torch import BLOCK_ROWS, PANEL_BYTES

    n_rows, pairs = max(PANEL_BYTES // (4 * n_neurons), min(BLOCK_ROWS, n_neurons)), 0
    for first in range(0, n_neurons, n_rows):
        stop = min(first + n_rows, n_neurons)
        for start in range(first, stop, BLOCK_ROWS):
            pairs += (min(start + BLOCK_ROWS, stop) - start) * (n_neurons - start)
    return pairs


def selection(bench: Bench) -> Iterator[dict[str, Any]]:
    """Score one matrix and select its largest entries."""
    import torch

    import_masks()
    from fnsft.masks.policies import Collab, MatrixStep
    from fnsft.masks.score import score
    from fnsft.masks.selection import select_top

    n_neurons, d_model = bench.sizes.neurons, bench.sizes.d_model
    affinity = random_affinity(n_neurons, 0).to(bench.device)
    policy, bandwidth = Collab(FRACTION, 0, LAM, [affinity]), bench.rate("copy_bytes_per_second")
    skewed = skewed_gradient((n_neurons, d_model), bench.device)
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        for axis, gradient in ((0, skewed.to(dtype)), (1, skewed.t().contiguous().to(dtype))):
            at = MatrixStep(0, axis, 0, 0)
            found = bench.timed("both", lambda g=gradient, a=at: policy.select(g, a))
            part = {f"{name}_axis_{axis}_{key}": value for key, value in found.items()}
            passes = found["both"] * bandwidth / gradient.nbytes
            yield part | {f"{name}_axis_{axis}_both_passes_of_gradient": passes}
        gradient = skewed.to(dtype)
        scores = score(gradient, affinity, LAM, 0)
        found = bench.timed("score", lambda g=gradient: score(g, affinity, LAM, 0))
        yield {f"{name}_{key}": value for key, value in found.items()}
        # Of scores in the gradient's dtype, as ``highest`` selects them.
        for what, values in (("selection", gradient.abs()), ("selection_of_scores", scores)):
            found = bench.timed(what, lambda v=values: select_top(v, FRACTION, 0, None))
            yield {f"{name}_{key}": value for key, value in found.items()}
            yield {f"{name}_{what}_passes": found[what] * bandwidth / values.nbytes}


def optimizer(bench: Bench) -> Iterator[dict[str, Any]]:
    """Step the MLPs of an 8B Llama, masked and not."""
    import torch

    import_masks()
    from fnsft.architectures import mlp_matrices
    from fnsft.masks.masker import GradientMasker
    from fnsft.masks.optimizer import MaskedAdamW
    from fnsft.masks.policies import Collab

    n_neurons, d_model = bench.sizes.neurons, bench.sizes.d_model
    # Two optimizers never live at once: weights, gradients, states, and masks of a byte an entry.
    layer_bytes = 3 * n_neurons * d_model * (4 * 2 + 1) + 4 * d_model * d_model * 2
    free = torch.cuda.mem_get_info()[0] if bench.on_cuda else 1 << 33
    layers = int(min(bench.sizes.layers, max(1, 0.85 * free // layer_bytes)))
    heads = max(1, d_model // 128)
    model = random_llama(bench, (d_model, n_neurons, layers, heads, 64))
    matrices = mlp_matrices(model)
    affinity = random_affinity(n_neurons, 0).to(bench.device)
    masker = GradientMasker(matrices, Collab(FRACTION, 0, LAM, [affinity] * layers))
    weights = [matrix.parameter for matrix in matrices]
    yield {"layers": layers, "entries": sum(weight.numel() for weight in weights)}
    for matrix in matrices:
        shape = (n_neurons, d_model)
        gradient = skewed_gradient(shape, bench.device).to(torch.bfloat16)
        matrix.parameter.grad = gradient if matrix.neuron_axis == 0 else gradient.t().contiguous()

    step = iter(range(1_000_000))
    fused = torch.optim.AdamW(weights, lr=1e-5, fused=True)
    found = bench.timed("fused", fused.step)
    yield found

    def over_fused(name: str, run: Callable[[], Any]) -> dict[str, float]:
        seconds = bench.timed(name, run)
        return seconds | {f"{name}_over_fused": seconds[name] / found["fused"]}

    fused.state.clear()
    masked = MaskedAdamW(weights, lr=1e-5)

    def update() -> None:
        masked.masks = masker.masks_at(next(step))
        masked.step()

    yield over_fused("update", update)
    made = masker.masks_at(0)
    masked.masks = {weight: made.get(weight) for weight in weights}
    yield over_fused("given", masked.step)
    masked.masks = {}
    masked.state.clear()

    def gradient() -> None:
        masker.require_finite()
        masker.apply_to_gradients(next(step))
        fused.step()

    yield over_fused("gradient", gradient)


def training(bench: Bench) -> Iterator[dict[str, Any]]:
    """Train a language model for some steps of each kind, in turn."""
    import torch

    import_masks()
    from fnsft.architectures import mlp_matrices
    from fnsft.masks.masker import GradientMasker
    from fnsft.masks.optimizer import MaskedAdamW
    from fnsft.masks.policies import Collab

    model = random_llama(bench, bench.sizes.llama).train()
    matrices = mlp_matrices(model)
    affinities = [
        random_affinity(bench.sizes.llama[1], layer).to(bench.device)
        for layer in range(bench.sizes.llama[2])
    ]
    masker = GradientMasker(matrices, Collab(FRACTION, 0, LAM, affinities))
    plain = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
    masked = MaskedAdamW(model.parameters(), lr=1e-6)
    tokens = torch.randint(bench.sizes.llama[-1], bench.sizes.batch, device=bench.device)
    yield {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "tokens_a_step": tokens.numel(),
        "gradient_checkpointing": False,
    }

    def take(kind: str, step: int) -> None:
        model(input_ids=tokens, labels=tokens).loss.backward()
        if kind == "gradient":
            masker.require_finite()
            masker.apply_to_gradients(step)
        elif kind == "update":
            masker.require_finite()
            masked.masks = masker.masks_at(step)
        (masked if kind == "update" else plain).step()
        model.zero_grad()

    seconds: dict[str, list[float]] = {"plain": [], "gradient": [], "update": []}
    for step in range(-2, bench.sizes.steps):  # two of each kind warm up
        for kind, times in seconds.items():
            _, taken = bench.clocked(lambda k=kind, s=step: take(k, s + 2))
            if step >= 0 and time.monotonic() < bench.end + 30:
                times.append(taken)
    for kind, times in seconds.items():
        yield summary(kind, times)
    middle = {kind: statistics.median(times) for kind, times in seconds.items()}
    yield {f"{kind}_over_plain": middle[kind] / middle["plain"] for kind in ("gradient", "update")}


def capture(bench: Bench) -> Iterator[dict[str, Any]]:
    """Dump a model's neurons as ``fnsft capture`` does, and only pass its tokens."""
    import torch

    from fnsft.artifacts.activations import DumpShape, DumpWriter
    from fnsft.neurons.capture import capture_dump

    model = random_llama(bench, bench.sizes.llama).eval()
    _, d_mlp, layers, _, vocabulary = bench.sizes.llama
    batch, length = bench.sizes.batch
    tokens = torch.randint(vocabulary, (bench.sizes.passes * batch, length))
    samples, batches = tokens.tolist(), tokens.to(bench.device).split(batch)
    shape = DumpShape(layers, d_mlp, tokens.numel())
    memory = Path("/dev/shm")
    fits = memory.is_dir() and shutil.disk_usage(memory).free > 1.2 * shape.n_bytes
    folder = memory if fits else Path(tempfile.gettempdir())

    @torch.inference_mode()
    def bare() -> None:
        for ids in batches:
            model.base_model(input_ids=ids, use_cache=False)

    def dump() -> None:
        with (
            tempfile.TemporaryDirectory(dir=folder) as name,
            DumpWriter(Path(name), shape, "benchmark") as writer,
        ):
            capture_dump(model, samples, batch, writer)

    found = {}
    for name, run in (("bare", bare), ("dump", dump)):
        seconds = summary(name, bench.times(run, 3, by_events=False))
        found[name] = tokens.numel() / seconds[name]
        yield {
            f"{name}_tokens_per_second": found[name],
            f"{name}_spread": seconds[f"{name}_spread"],
        }
    yield {
        "share_of_bare_forward": found["dump"] / found["bare"],
        "dump_bytes": shape.n_bytes,
        "in_memory": fits,
    }


def networks(bench: Bench) -> Iterator[dict[str, Any]]:
    """Find planted sources by PCA and FastICA."""
    import numpy as np
    import torch

    from fnsft.neurons.decomposition import Activations
    from fnsft.neurons.decomposition.independent import FastIca, whitened
    from fnsft.neurons.decomposition.principal import principal_components

    n_tokens, n_channels, k = bench.sizes.activations
    uniform = torch.rand(n_tokens, k, device=bench.device) - 0.5
    sources = -uniform.sign() * torch.log1p(-2 * uniform.abs().clamp(max=0.4999999))  # Laplace's
    planted = torch.randn(k, n_channels, device=bench.device)
    planted *= torch.rand(k, n_channels, device=bench.device) < 0.1
    values = torch.randn(n_tokens, n_channels, device=bench.device).addmm_(sources, planted)
    block = values.half().cpu().numpy()
    del values

    def components(data: Activations) -> Any:
        return principal_components(data, k, True, 0, bench.device)

    components(Activations([block[: n_tokens // 2]]))  # loads the libraries
    data = Activations([block])
    found, seconds = bench.clocked(lambda: components(data))
    yield {"seconds": seconds, "passes": found.passes, "residual": found.residual}
    yield bench.timed("seconds_again", lambda: components(data), by_events=False)
    white = whitened(found.scores.astype(np.float64))
    start = np.random.default_rng(0).standard_normal((k, k))
    ica = FastIca(400, 1e-4, bench.device)
    run = ica.with_torch(white.values, start)  # on the CPU too, where a stage takes scikit-learn
    yield bench.timed("ica_seconds", lambda: ica.with_torch(white.values, start), by_events=False)
    activity = white.values @ run.unmixing.T
    table = np.abs(np.corrcoef(activity.T, sources.cpu().numpy().T)[:k, k:])
    yield {
        "ica_iterations": run.iterations,
        "ica_converged": run.converged,
        "recovery": float(table.max(axis=0).min()),
    }


SECTIONS: dict[str, Callable[[Bench], Iterator[dict[str, Any]]]] = {
    "machine": machine,
    "projection": projection,
    "selection": selection,
    "optimizer": optimizer,
    "training": training,
    "capture": capture,
    "networks": networks,
}


def import_masks() -> None:
    """Import the masks where there is no SciPy, too, which only reading a graph needs."""
    # First those that look for SciPy themselves, and must not find the stand-in.
    import numba  # noqa: F401

    import fnsft.architectures  # noqa: F401

    try:
        import scipy.sparse  # noqa: F401
    except ModuleNotFoundError:
        stand_in = types.ModuleType("scipy.sparse")
        stand_in.csr_array = object  # type: ignore[attr-defined]
        names = {"scipy": types.ModuleType("scipy"), "scipy.sparse": stand_in}
        sys.modules.update(names)
        try:
            import fnsft.masks.affinity  # noqa: F401
        finally:
            for name in names:
                del sys.modules[name]


def random_affinity(n_neurons: int, seed: int) -> Any:
    """Return the affinity of a graph in which every neuron has 20 random neighbours."""
    import numpy as np
    import torch

    from fnsft.masks.affinity import MatrixAffinity

    rng = np.random.default_rng(seed)
    # One of each stretch of neurons, so that they ascend, as rows of CSR do.
    stretch = (n_neurons - 1) // NEIGHBOURS
    others = rng.integers(0, stretch, (n_neurons, NEIGHBOURS)) + stretch * np.arange(NEIGHBOURS)
    others += others >= np.arange(n_neurons)[:, None]
    weights = rng.lognormal(size=others.shape)
    weights /= weights.sum(axis=1, keepdims=True)
    places = np.arange(0, others.size + 1, NEIGHBOURS)
    arrays = (places.astype(np.int32), others.ravel().astype(np.int32))
    parts = [torch.from_numpy(array) for array in (*arrays, weights.ravel().astype(np.float32))]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")
        size = (n_neurons, n_neurons)
        return MatrixAffinity(torch.sparse_csr_tensor(*parts, size, check_invariants=True), 0)


def skewed_gradient(shape: tuple[int, int], device: Any) -> Any:
    """Return a gradient of heavy tails; neurons and inputs differ in scale."""
    import torch

    scale = torch.randn(shape[0], 1, device=device).mul_(2).exp_()
    scale = scale * torch.randn(1, shape[1], device=device).exp_() * 1e-5
    return torch.randn(shape, device=device).mul_(scale)


def random_llama(bench: Bench, shape: tuple[int, int, int, int, int]) -> Any:
    """Return a Llama with random weights in bfloat16: d_model, d_mlp, layers, heads, vocabulary."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    d_model, d_mlp, layers, heads, vocabulary = shape
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=d_model,
        intermediate_size=d_mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        use_cache=False,
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with bench.device:
            return LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)


def surroundings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Say when, on what and with what it ran."""
    import torch

    on_cuda = torch.device(arguments.device).type == "cuda" and torch.cuda.is_available()
    found: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name() if on_cuda else platform.processor() or "cpu",
        "quick": arguments.quick,
        "python": platform.python_version(),
        "float32_products": "without TF32, but for tf32_flops",
    }
    if on_cuda:
        properties = torch.cuda.get_device_properties()
        found["capability"] = f"{properties.major}.{properties.minor}"
        found["memory_gb"] = round(properties.total_memory / 1e9, 1)
        found["cuda"] = torch.version.cuda
    for name in ("torch", "triton", "transformers", "numpy", "numba"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def aims(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Set what was measured beside what was aimed at; None where it was not measured."""
    compared = {}
    for name, aim in AIMS.items():
        section, _, key = name.partition(".")
        value = found.get(section, {}).get(key)
        met = None if value is None else value >= aim if aim > 0 else value <= -aim
        compared[name] = {
            "value": value,
            "aim": f"{'>=' if aim > 0 else '<='} {abs(aim)}",
            "met": met,
        }
    return compared


def summary(name: str, times: list[float]) -> dict[str, float]:
    """Return the median of some times, and how far they spread."""
    middle = statistics.median(times)
    return {name: middle, f"{name}_spread": (max(times) - min(times)) / middle}


def rounded(value: Any) -> Any:
    """Return a number with five digits, None for one that JSON does not have, all else as it is."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.5g}") if abs(value) < float("inf") else None


if __name__ == "__main__":
    main()
