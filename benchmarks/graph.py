"""What projecting one layer costs, against a dense float32 product on the same threads.

    python benchmarks/graph.py [--neurons 14336] [--tokens 131072] [--threads 2]

Bits are synthetic: Zipf-distributed tokens (exponent 1, 50,000 kinds), neurons that fire by a
low-rank affinity to the token's kind and by chance, about a quarter of them at a time. α = 2.5,
β = 1.3, the three most frequent tokens dropped. The last line is one JSON object:

``speedup_vs_blas``
    Seconds of ``A.T @ (w * A)`` and its 64 largest a row, A float32 [U, N] of the U tokens that
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
from collections.abc import Callable
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

    from fnsft.neurons.frequencies import frequency_ranks, token_weights
    from fnsft.neurons.hyperedges import hyperedge_weights

    dump, token_ids = write_dump(folder, arguments.neurons, arguments.tokens)
    bits = dump.layer(0)
    weights = token_weights(token_ids, frequency_ranks(np.bincount(token_ids)), 1.3, 3)
    project(bits, weights, limit=64)  # compile
    with PeakMemory() as memory:
        graph, seconds = timed(lambda: project(bits, weights))
    say(f"projected in {seconds:.1f} s, {memory.peak_mb:.0f} MB")
    sizes = sizes_of(bits)
    hyperedges = hyperedge_weights(sizes, weights, 2.5)
    used = np.flatnonzero(hyperedges)
    blas = blas_seconds(bits, hyperedges, used, arguments.blas_rows)
    error, recall = accuracy(bits, hyperedges, used, arguments.checked_rows)
    limit = popcount_limit(arguments.threads)
    pairs = arguments.neurons * (arguments.neurons + 1) / 2 * len(used)
    clustering = 0.0
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
        "tokens_with_weight": len(used),
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


def write_dump(folder: Path, n_neurons: int, n_tokens: int):  # type: ignore[no-untyped-def]
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


def sizes_of(bits):  # type: ignore[no-untyped-def]
    from fnsft.neurons.bits import hyperedge_sizes

    return hyperedge_sizes(bits)


def project(bits, weights, limit: int | None = None):  # type: ignore[no-untyped-def]
    """Project as ``fnsft project`` does; ``limit`` leaves the later tokens without weight."""
    from fnsft.neurons.hyperedges import hyperedge_weights
    from fnsft.neurons.projection import project_layer

    sizes = sizes_of(bits)
    hyperedges = hyperedge_weights(sizes, weights, 2.5)
    if limit is not None:
        hyperedges[limit:] = 0
    return project_layer(bits, sizes, hyperedges, 64)


def cluster(graph) -> None:  # type: ignore[no-untyped-def]
    from fnsft.neurons.clustering import cluster_layer

    cluster_layer(graph)


def dense_bits(bits, used):  # type: ignore[no-untyped-def]
    """Return the bits of the tokens that weigh something, [U, N] float32."""
    import numpy as np

    from fnsft.artifacts.activations import unpack_bits

    dense = np.empty((len(used), bits.n_neurons), dtype=np.float32)
    first = row = 0
    for block in bits.rows(0, bits.n_neurons):
        inside = used[(used >= first) & (used < first + 64 * block.shape[1])]
        dense[row : row + len(inside)] = unpack_bits(block)[:, inside - first].T
        first, row = first + 64 * block.shape[1], row + len(inside)
    return dense


def blas_seconds(bits, hyperedges, used, n_rows: int) -> float:  # type: ignore[no-untyped-def]
    """Time the dense product and its top 64 on ``n_rows`` rows, scaled to all rows."""
    import numpy as np
    import torch

    dense = dense_bits(bits, used)
    weighted = dense[:, :n_rows] * hyperedges[used, None].astype(np.float32)

    def with_numpy() -> None:
        np.argpartition(weighted.T @ dense, -64, axis=1)

    def with_torch() -> None:
        (torch.from_numpy(weighted).T @ torch.from_numpy(dense)).topk(64)

    seconds = [timed(product)[1] for product in (with_numpy, with_torch)]
    say(f"dense product of {n_rows} rows: NumPy {seconds[0]:.1f} s, PyTorch {seconds[1]:.1f} s")
    return min(seconds) * bits.n_neurons / n_rows


def accuracy(bits, hyperedges, used, n_rows: int) -> tuple[float, float]:  # type: ignore[no-untyped-def]
    """Return the mean relative error and the recall of the 20 nearest neighbours."""
    import numpy as np

    from fnsft.neurons.projection import project_layer

    n_neurons = bits.n_neurons
    rows = np.random.default_rng(1).choice(n_neurons, n_rows, replace=False)
    exact = np.zeros((n_rows, n_neurons))
    dense = dense_bits(bits, used)
    for start in range(0, len(used), 4 * BLOCK):
        block = dense[start : start + 4 * BLOCK].astype(np.float64)
        exact += (block[:, rows] * hyperedges[used[start : start + 4 * BLOCK], None]).T @ block
    del dense
    exact[np.arange(n_rows), rows] = 0
    found = np.empty((n_neurons, n_neurons), dtype=np.float32)
    graph = project_layer(bits, sizes_of(bits), hyperedges, 64, dense=found)
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
