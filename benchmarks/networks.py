"""What finding networks costs, against scikit-learn's PCA and FastICA in memory.

    python benchmarks/networks.py [--tokens 8000] [--layers 30] [--width 1536] [--threads 2]

Float16 activations on disk, one file a layer. The variance of direction i falls as i^−0.65, as
that of a 135M model's standardised activations on school mathematics does: the first K are planted
networks, Laplace-distributed over tokens and each of 2 % of the channels, the others are Gaussian
and of all channels, and what is left is white. There is no gap behind the networks. Both sides
start from the files, in a fresh process each, in turn; threads are limited alike. The last line is
one JSON object:

``speedup_vs_sklearn``
    Seconds of ``PCA(K, svd_solver="randomized", random_state=0)`` and ``FastICA`` on the float32
    matrix, reading included, over ours: moments, components, two runs of FastICA, thresholds and
    time courses. Imports are not counted; of each side the fastest of ``--repeats``.
``memory_ratio_vs_sklearn``
    Largest private memory (RssAnon of the process, seen by its parent every 5 ms, so that mapped
    pages of the files do not count) of scikit-learn's process over that of ours, imports
    included; ``memory_ratio_beyond_imports`` is of what is above the imports of each.
``component_agreement``
    Smallest |corr| of the loadings of a network of ours and its partner of scikit-learn's.
``sine_to_exact``, ``sine_to_exact_sklearn``
    Of the largest angle between the K components and the exact ones, from all inner products
    of tokens.
``recovery``, ``recovery_sklearn``
    Smallest |corr| of a planted network's loadings with its partner's; less than 1 for the
    exact components too, since the weakest networks are mixed with what is next to them.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RANK, DECAY, SHARE, FIRST = 1_000, 0.65, 0.02, 0.035
SIDES = ("ours", "sklearn")


def main() -> None:
    """Parse, limit the threads before NumPy is imported, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=8_000)
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--width", type=int, default=1_536)
    parser.add_argument("--components", type=int, default=20)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    for name in ("OMP", "OPENBLAS", "MKL"):
        os.environ[f"{name}_NUM_THREADS"] = str(arguments.threads)
    if arguments.side:
        found = find_ours if arguments.side == "ours" else find_with_sklearn
        print(json.dumps(found(arguments.folder, arguments.components)))
        return
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(arguments, Path(folder))))


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Return what the last line holds."""
    import numpy as np

    planted = write_activations(folder, arguments)
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for _ in range(arguments.repeats):
        for side in SIDES:
            runs[side].append(run_side(side, folder, arguments.components))
            last = runs[side][-1]
            say(f"{side}: {last['seconds']:.1f} s, {last['peak_mib']:.0f} MiB")
    ours, theirs = (np.load(folder / f"{side}.npy") for side in SIDES)
    exact = exact_components(folder, arguments.components)
    seconds = {side: [run["seconds"] for run in runs[side]] for side in SIDES}
    peak = {side: max(run["peak_mib"] for run in runs[side]) for side in SIDES}
    imports = {side: runs[side][0]["imports_mib"] for side in SIDES}
    beyond = {side: peak[side] - imports[side] for side in SIDES}
    last_run = runs["ours"][-1]
    return {
        "tokens": arguments.tokens,
        "channels": arguments.layers * arguments.width,
        "threads": arguments.threads,
        "speedup_vs_sklearn": min(seconds["sklearn"]) / min(seconds["ours"]),
        "memory_ratio_vs_sklearn": peak["sklearn"] / peak["ours"],
        "memory_ratio_beyond_imports": beyond["sklearn"] / beyond["ours"],
        "component_agreement": agreement(ours, theirs),
        "sine_to_exact": sine(ours, exact),
        "sine_to_exact_sklearn": sine(theirs, exact),
        "recovery": agreement(ours, planted),
        "recovery_sklearn": agreement(theirs, planted),
        "seconds": seconds,
        "peak_mib": peak,
        "imports_mib": imports,
        **{name: last_run[name] for name in ("passes", "residual", "converged", "iterations")},
        "converged_sklearn": runs["sklearn"][-1]["converged"],
    }


def write_activations(folder: Path, arguments: argparse.Namespace) -> Any:
    """Write every layer, and return the planted loadings [K, F]."""
    import numpy as np

    rng = np.random.default_rng(0)
    n_tokens, k = arguments.tokens, arguments.components
    n_channels = arguments.layers * arguments.width
    variances = FIRST * np.arange(1, RANK + 1) ** -DECAY
    spread = np.sqrt(variances * n_channels).astype(np.float32)
    activity = rng.laplace(size=(n_tokens, k)).astype(np.float32) / np.sqrt(2)
    factors = rng.standard_normal((n_tokens, RANK - k), dtype=np.float32)
    inside = rng.random((k, n_channels), dtype=np.float32) < SHARE
    loadings = inside * rng.standard_normal((k, n_channels), dtype=np.float32)
    loadings *= spread[:k, None] / np.linalg.norm(loadings, axis=1, keepdims=True)
    rest = np.sqrt(max(1 - variances.sum(), 0.05)).astype(np.float32)
    for layer in range(arguments.layers):
        channels = slice(layer * arguments.width, (layer + 1) * arguments.width)
        weights = rng.standard_normal((RANK - k, arguments.width), dtype=np.float32)
        values = activity @ loadings[:, channels]
        values += (factors * (spread[k:] / np.sqrt(n_channels))) @ weights
        values += rest * rng.standard_normal(values.shape, dtype=np.float32)
        values += rng.uniform(-1, 1, arguments.width).astype(np.float32)
        np.save(folder / f"{layer:03d}.npy", values.astype(np.float16))
    say(f"wrote {n_tokens * n_channels * 2 / 2**20:.0f} MiB of activations")
    return loadings


def run_side(side: str, folder: Path, n_components: int) -> dict[str, Any]:
    """Run one side in a fresh process, and watch its private memory."""
    own = [sys.executable, __file__, "--side", side, "--folder", str(folder)]
    own += ["--components", str(n_components), "--threads", os.environ["OMP_NUM_THREADS"]]
    process = subprocess.Popen(own, stdout=subprocess.PIPE, text=True)
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, private_mib(process.pid))
        time.sleep(0.005)
    assert process.stdout is not None
    output = process.stdout.read()
    if process.returncode:
        raise RuntimeError(f"{side} ended with {process.returncode}")
    return json.loads(output) | {"peak_mib": peak}


def private_mib(process: int | str) -> float:
    """Return anonymous resident memory, without mapped files; 0 of a process that has ended."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    private = [line for line in lines if line.startswith("RssAnon")]
    return int(private[0].split()[1]) / 1024 if private else 0.0


def find_ours(folder: Path, n_components: int) -> dict[str, Any]:
    """Find the networks as ``fnsft networks`` does, with one start."""
    import numpy as np
    import sklearn.decomposition  # noqa: F401 (counted as an import)

    from fnsft.neurons.decomposition import Activations, decompose

    imports, start = private_mib("self"), time.perf_counter()
    blocks = [np.load(path, mmap_mode="r") for path in layers(folder)]
    found = decompose(
        [Activations(blocks)],
        n_components=n_components,
        independent="tokens",
        standardise=False,
        restarts=1,
        max_iterations=400,
        tolerance=1e-4,
        threshold="percentile",
        percentile=98.0,
        z=1.96,
        seed=0,
    )
    seconds = time.perf_counter() - start
    np.save(folder / "ours.npy", found.loadings)
    return {
        "seconds": seconds,
        "imports_mib": imports,
        "passes": found.passes,
        "residual": found.residual,
        "converged": bool(found.converged.all()),
        "iterations": int(found.iterations.sum()),
    }


def find_with_sklearn(folder: Path, n_components: int) -> dict[str, Any]:
    """Find them as they are found when the matrix fits into memory."""
    import numpy as np
    from sklearn.decomposition import PCA, FastICA

    imports, start = private_mib("self"), time.perf_counter()
    blocks = [np.load(path, mmap_mode="r") for path in layers(folder)]
    matrix = np.empty((len(blocks[0]), sum(block.shape[1] for block in blocks)), np.float32)
    np.concatenate(blocks, axis=1, out=matrix)
    pca = PCA(n_components, svd_solver="randomized", random_state=0)
    scores = pca.fit_transform(matrix)
    ica = FastICA(whiten="unit-variance", max_iter=400, tol=1e-4, random_state=0)
    ica.fit_transform(scores)
    loadings = ica.mixing_.T @ pca.components_
    seconds = time.perf_counter() - start
    np.save(folder / "sklearn.npy", loadings)
    return {"seconds": seconds, "imports_mib": imports, "converged": ica.n_iter_ < 400}


def exact_components(folder: Path, n_components: int) -> Any:
    """Return the exact components, orthonormal [K, F], from the inner products of tokens."""
    import numpy as np
    from scipy.sparse.linalg import eigsh

    def centred(path: Path) -> Any:
        values = np.load(path).astype(np.float32)
        return values - values.mean(axis=0)

    gram = sum((values @ values.T).astype(np.float64) for values in map(centred, layers(folder)))
    values, vectors = eigsh(gram, n_components)
    blocks = [vectors.T.astype(np.float32) @ centred(path) for path in layers(folder)]
    return np.concatenate(blocks, axis=1) / np.sqrt(values)[:, None]


def agreement(first: Any, second: Any) -> float:
    """Return the smallest |corr| of the rows of the two, matched one to one."""
    import numpy as np
    from scipy.optimize import linear_sum_assignment

    table = np.abs(np.corrcoef(first, second)[: len(first), len(first) :])
    return float(table[linear_sum_assignment(table, maximize=True)].min())


def sine(loadings: Any, exact: Any) -> float:
    """Return the sine of the largest angle between the spans of the rows."""
    import numpy as np

    basis = np.linalg.qr(loadings.T.astype(np.float64))[0]
    return float(np.linalg.norm(basis - exact.T @ (exact @ basis), 2))


def layers(folder: Path) -> Sequence[Path]:
    """Return the files of the layers."""
    return sorted(folder.glob("[0-9]*.npy"))


def say(text: str) -> None:
    """Tell how far it is."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
