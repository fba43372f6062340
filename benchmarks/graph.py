"""What projecting one layer costs, against a dense float32 product on the same threads.

    python benchmarks/graph.py [--neurons 14336] [--tokens 131072] [--threads 2]

Bits are synthetic: Zipf-distributed tokens (exponent 1, 50,000 kinds), neurons that fire by a
low-rank affinity to the token's kind and by chance, about a quarter of them at a time. α = 2.5,
β = 1.3, the three most frequent tokens dropped. The last line is one JSON object:

``speedup_vs_blas``
    Seconds of ``(A * w) @ A.T`` and its 64 largest a row, A float32 [N, U] of the U tokens that
    weigh something, over seconds of the projection from the dump on disk (sizes, sorting and the
    64 largest included). The product is timed on ``blas_rows`` rows of G and scaled by N / rows,
    by NumPy's and by PyTorch's BLAS, whichever is faster.
``mean_relative_error``, ``knn_recall``
    Against float64 sums on ``checked_rows`` rows: the mean of |G − exact| / exact over all pairs
    that fire together, and the share of the exact 20 nearest neighbours that are found.
``peak_rss_mb``
    Largest private (anonymous) memory while the layer is projected, in MB of 10^6 bytes, and
    ``packed_mb``, the packed bits of the layer.
``seconds_per_layer_at_paper_scale``
    seconds · (14,336 / N)² · (800,000 / T), every part being at most of that order.
``fraction_of_popcount_limit``
    Pairs of bits a second over those of a loop that only ANDs, counts and adds words that lie
    in the first-level cache, on the same threads; the upper triangle alone is counted.
``clustering_seconds``
    A spectral clustering of the graph, k = 20, on one thread.
``same_with_one_thread``
    Whether one thread gives the same bytes (at most 16,384 tokens are projected for this).
"""

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PAPER_NEURONS, PAPER_TOKENS = 14_336, 800_000
RANK, KINDS, BLOCK = 8, 50_000, 2_048


def main() -> None:
    """Parse, limit the threads before NumPy is imported, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--neurons", type=int, default=PAPER_NEURONS)
    parser.add_argument("--tokens", type=int, default=131_072)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--blas-rows", type=int, default=1_024)
    parser.add_argument("--checked-rows", type=int, default=128)
    arguments = parser.parse_args()
    for name in ("OMP", "OPENBLAS", "MKL", "NUMBA"):
        os.environ[f"{name}_NUM_THREADS"] = str(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(arguments, Path(folder))))


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Return what the last line holds."""
    import numba
    import numpy as np

    from fnsft.neurons.bits import hyperedge_sizes
    from fnsft.neurons.clustering import cluster_layer
    from fnsft.neurons.frequencies import frequency_ranks, token_weights
    from fnsft.neurons.hyperedges import hyperedge_weights

    dump, token_ids = write_dump(folder, arguments.neurons, arguments.tokens)
    bits = dump.layer(0)
    weights = token_weights(token_ids, frequency_ranks(np.bincount(token_ids)), 1.3, 3)
    project(bits, weights, limit=64)  # compile
    with PeakMemory() as memory:
        graph, seconds = timed(lambda: project(bits, weights))
    say(f"projected in {seconds:.1f} s, {memory.peak_mb:.0f} MB")
    sizes = hyperedge_sizes(bits)
    hyperedges = hyperedge_weights(sizes, weights, 2.5)
    n_used = int((hyperedges > 0).sum())
    blas = blas_seconds(bits, hyperedges, arguments.blas_rows)
    error, recall = accuracy(bits, sizes, hyperedges, arguments.checked_rows)
    limit = popcount_limit(arguments.threads)
    pairs = arguments.neurons * (arguments.neurons + 1) / 2 * n_used
    settings = {"n_eigenvectors": 32, "n_clusters": 32, "min_entropy_bits": 4.0, "seed": 0}
    _, clustering = timed(lambda: cluster_layer(graph, 64, k=20, **settings))
    say(f"clustered in {clustering:.1f} s")
    ours = {}
    for threads in (1, arguments.threads):
        numba.set_num_threads(threads)
        small = project(bits, weights, limit=16_384)
        ours[threads] = b"".join(a.tobytes() for a in (small.indptr, small.indices, small.weights))
    packed = bits.n_neurons * bits.n_tokens / 8e6
    scale = (PAPER_NEURONS / arguments.neurons) ** 2 * PAPER_TOKENS / arguments.tokens
    return {
        "neurons": arguments.neurons,
        "tokens": arguments.tokens,
        "tokens_with_weight": n_used,
        "threads": arguments.threads,
        "mean_hyperedge_share": round(float(sizes.mean()) / arguments.neurons, 3),
        "seconds": round(seconds, 2),
        "blas_seconds": round(blas, 1),
        "speedup_vs_blas": round(blas / seconds, 1),
        "mean_relative_error": float(f"{error:.2e}"),
        "knn_recall": round(recall, 4),
        "peak_rss_mb": round(memory.peak_mb),
        "packed_mb": round(packed),
        "seconds_per_layer_at_paper_scale": round(seconds * scale, 1),
        "fraction_of_popcount_limit": round(pairs / seconds / limit, 3),
        "popcount_limit_gmac_per_second": round(limit / 1e9),
        "clustering_seconds": round(clustering, 1),
        "same_with_one_thread": ours[1] == ours[arguments.threads],
    }


def write_dump(folder: Path, n_neurons: int, n_tokens: int) -> tuple[Any, Any]:
    """Write a dump of one layer, and return it and its token ids [T]."""
    import numpy as np

    from fnsft.artifacts.activations import DumpShape, DumpWriter, open_dump, write_dump_tokens

    rng = np.random.default_rng(0)
    shares = 1 / np.arange(1, KINDS + 1)
    token_ids = rng.choice(KINDS, size=n_tokens, p=shares / shares.sum())
    kinds = rng.standard_normal((KINDS, RANK), dtype=np.float32)
    loadings = rng.standard_normal((RANK, n_neurons), dtype=np.float32) / 3
    bias = rng.normal(-1.3, 1.0, n_neurons).astype(np.float32)
    shape = DumpShape(1, n_neurons, n_tokens)
    with DumpWriter(folder, shape, "benchmark") as writer:
        for start in range(0, n_tokens, BLOCK):
            ids = token_ids[start : start + BLOCK]
            drive = kinds[ids] @ loadings + bias + rng.normal(0, 0.7, (len(ids), 1))
            noise = rng.random(drive.shape, dtype=np.float32)
            writer.append(0, noise < 1 / (1 + np.exp(-drive, dtype=np.float32)))
    write_dump_tokens(folder, shape, token_ids, np.array([0, n_tokens]), "benchmark")
    say(f"wrote {shape.n_bytes / 1e6:.0f} MB of bits")
    return open_dump(folder), token_ids


def project(bits: Any, weights: Any, limit: int | None = None) -> Any:
    """Project as ``fnsft project`` does; ``limit`` leaves the later tokens without weight."""
    from fnsft.neurons.bits import hyperedge_sizes
    from fnsft.neurons.hyperedges import hyperedge_weights
    from fnsft.neurons.projection import project_layer

    sizes = hyperedge_sizes(bits)
    hyperedges = hyperedge_weights(sizes, weights, 2.5)
    if limit is not None:
        hyperedges[limit:] = 0
    return project_layer(bits, sizes, hyperedges, 64)


def dense_blocks(bits: Any, hyperedges: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the bits, [N, u] float32, and the weights [u] of the tokens that weigh something."""
    import numpy as np

    from fnsft.artifacts.activations import unpack_bits

    first = 0
    for block in bits.rows(0, bits.n_neurons):
        weights = hyperedges[first : first + 64 * block.shape[1]]
        used = np.flatnonzero(weights)
        yield unpack_bits(block)[:, used].astype(np.float32), weights[used]
        first += 64 * block.shape[1]


def blas_seconds(bits: Any, hyperedges: Any, n_rows: int) -> float:
    """Time the dense product and its top 64 on ``n_rows`` rows, scaled to all rows and tokens."""
    import numpy as np
    import torch

    products = {"NumPy": np.zeros((n_rows, bits.n_neurons), np.float32)}
    products["PyTorch"] = products["NumPy"].copy()
    seconds, n_timed, n_used = dict.fromkeys(products, 0.0), 0, int((hyperedges > 0).sum())

    def with_numpy() -> None:
        products["NumPy"] += weighted @ dense.T

    def with_torch() -> None:
        torch.from_numpy(products["PyTorch"]).addmm_(
            torch.from_numpy(weighted), torch.from_numpy(dense).T
        )

    for dense, weights in dense_blocks(bits, hyperedges):
        weighted = dense[:n_rows] * weights.astype(np.float32)
        if n_timed == 0:
            with_numpy(), with_torch()  # warm up
        seconds["NumPy"] += timed(with_numpy)[1]
        seconds["PyTorch"] += timed(with_torch)[1]
        n_timed += len(weights)
        if n_timed > 65_536:
            break
    scaled = {name: value * n_used / n_timed for name, value in seconds.items()}
    scaled["NumPy"] += timed(lambda: np.argpartition(products["NumPy"], -64, axis=1))[1]
    scaled["PyTorch"] += timed(lambda: torch.from_numpy(products["PyTorch"]).topk(64))[1]
    say(
        f"dense product of {n_rows} rows: " + ", ".join(f"{n} {s:.1f} s" for n, s in scaled.items())
    )
    return min(scaled.values()) * bits.n_neurons / n_rows


def accuracy(bits: Any, sizes: Any, hyperedges: Any, n_rows: int) -> tuple[float, float]:
    """Return the mean relative error and the recall of the 20 nearest neighbours."""
    import numpy as np

    from fnsft.neurons.projection import project_layer

    n_neurons = bits.n_neurons
    rows = np.random.default_rng(1).choice(n_neurons, n_rows, replace=False)
    exact = np.zeros((n_rows, n_neurons))
    for dense, weights in dense_blocks(bits, hyperedges):
        exact += (dense[rows] * weights) @ dense.astype(np.float64).T
    exact[np.arange(n_rows), rows] = 0
    found = np.empty((n_neurons, n_neurons), dtype=np.float32)
    graph = project_layer(bits, sizes, hyperedges, 64, dense=found)
    positive = exact > 0
    error = np.abs(found[rows] - exact)[positive] / exact[positive]
    shared = 0
    for row, neuron in enumerate(rows):
        nearest = np.argsort(-exact[row], kind="stable")[:20]
        start = graph.indptr[neuron]
        shared += len(np.intersect1d(nearest, graph.indices[start : start + 20]))
    say(f"relative error: mean {error.mean():.2e}, largest {error.max():.2e}")
    return float(error.mean()), shared / (20 * n_rows)


def popcount_limit(threads: int) -> float:
    """Return bits a second that are ANDed, counted and added, from the first-level cache."""
    import numba
    import numpy as np

    from fnsft.neurons.gram_numba import _popcount

    @numba.njit(parallel=True)
    def count(rows: np.ndarray, repeats: int, out: np.ndarray) -> None:
        for thread in numba.prange(out.size):
            total = np.uint64(0)
            for repeat in range(repeats):
                # Other rows at every turn, so that nothing can be moved out of the loop.
                a0, a1 = rows[thread, repeat & 3], rows[thread, (repeat + 1) & 3]
                b0, b1 = rows[thread, 4 + (repeat & 3)], rows[thread, 4 + ((repeat + 1) & 3)]
                s00 = s01 = s10 = s11 = np.uint64(0)
                for q in range(a0.size):
                    x0, x1, y0, y1 = a0[q], a1[q], b0[q], b1[q]
                    s00 += _popcount(x0 & y0)
                    s01 += _popcount(x0 & y1)
                    s10 += _popcount(x1 & y0)
                    s11 += _popcount(x1 & y1)
                total += s00 ^ s01 ^ s10 ^ s11
            out[thread] = total

    rows = np.random.default_rng(0).integers(0, 2**63, (threads, 8, 512), dtype=np.uint64)
    repeats, out = 200_000, np.zeros(threads, dtype=np.uint64)
    count(rows, 8, out)
    return threads * repeats * 4 * 512 * 64 / timed(lambda: count(rows, repeats, out))[1]


class PeakMemory:
    """Samples the private memory of this process; MB of 10^6 bytes."""

    def __enter__(self) -> "PeakMemory":
        self.peak_mb, self._done = 0.0, threading.Event()
        self._sampler = threading.Thread(target=self._sample)
        self._sampler.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._sampler.join()

    def _sample(self) -> None:
        while not self._done.wait(0.02):
            lines = Path("/proc/self/status").read_text().splitlines()
            private = next(line for line in lines if line.startswith("RssAnon"))
            self.peak_mb = max(self.peak_mb, int(private.split()[1]) * 1024 / 1e6)


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    """Return a result and the seconds that it took."""
    start = time.perf_counter()
    result = run()
    return result, time.perf_counter() - start


def say(text: str) -> None:
    """Tell how far it is."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
