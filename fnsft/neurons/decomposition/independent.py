"""FastICA from several starts: scikit-learn on the CPU, the same iteration in torch elsewhere.

On white samples z [n, K] (mean 0, covariance 1) the rows w of an orthogonal W [K, K] are sought
that make wᵀz least Gaussian:

    W ← decorrelated(E[g(Wz) zᵀ] − diag(E[g'(Wz)]) W),    g = tanh,

decorrelated(W) = (W Wᵀ)^−1/2 W, until no row turns by more than the tolerance: |1 − |w·w'||.

Source: Hyvärinen 1999, "Fast and robust fixed-point algorithms for independent component
analysis" (parallel, log cosh).
"""

import warnings
from dataclasses import dataclass, replace

import numpy as np
import torch

NO_VARIANCE = 1e-12  # of the largest deviation; a resample may lack a direction


@dataclass(frozen=True, eq=False)
class White:
    """Samples [n, K] as ``values`` · ``colouring`` + their mean; values [n, K] are white."""

    values: np.ndarray
    colouring: np.ndarray


@dataclass(frozen=True, eq=False)
class Run:
    """One run: W float64 [K, K], sources are white Wᵀ."""

    unmixing: np.ndarray
    converged: bool
    iterations: int


@dataclass(frozen=True)
class FastIca:
    """How FastICA is run; on the CPU by scikit-learn."""

    max_iterations: int
    tolerance: float
    device: torch.device

    def run(self, white: np.ndarray, start: np.ndarray) -> Run:
        """Iterate on white samples [n, K] from ``start`` [K, K], which is decorrelated first."""
        if self.device.type == "cpu":
            return self.with_scikit_learn(white, start)
        return self.with_torch(white, start)

    def with_scikit_learn(self, white: np.ndarray, start: np.ndarray) -> Run:
        """Let scikit-learn iterate; its warning becomes ``converged``."""
        from sklearn.decomposition import FastICA
        from sklearn.exceptions import ConvergenceWarning

        model = FastICA(
            whiten=False, w_init=start, max_iter=self.max_iterations, tol=self.tolerance
        )
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            model.fit(white)
        failed = any(issubclass(one.category, ConvergenceWarning) for one in caught)
        return Run(model.components_, not failed, model.n_iter_)

    def with_torch(self, white: np.ndarray, start: np.ndarray) -> Run:
        """Iterate on the device; what is [K, K] stays on the CPU in float64."""
        # Apple's devices have no float64.
        dtype = torch.float32 if self.device.type == "mps" else torch.float64
        samples = torch.from_numpy(white).to(self.device, dtype)
        unmixing = _decorrelated(torch.from_numpy(start))
        for iteration in range(1, self.max_iterations + 1):
            squashed = torch.tanh(samples @ unmixing.T.to(samples))
            slopes = 1 - squashed.square().mean(dim=0).cpu().double()
            pulled = (squashed.T @ samples).cpu().double() / len(samples)
            before, unmixing = unmixing, _decorrelated(pulled - slopes[:, None] * unmixing)
            turned = (1 - (before * unmixing).sum(dim=1).abs()).abs()
            if float(turned.max()) < self.tolerance:
                return Run(unmixing.numpy(), True, iteration)
        return Run(unmixing.numpy(), False, self.max_iterations)


def whitened(samples: np.ndarray) -> White:
    """Whiten samples [n, K], n > K, in float64."""
    left, values, right = np.linalg.svd(samples - samples.mean(axis=0), full_matrices=False)
    values = np.maximum(values, NO_VARIANCE * values[0])
    root = np.sqrt(len(samples))
    return White(left * root, values[:, None] * right / root)


def resampled_runs(ica: FastIca, white: np.ndarray, restarts: int, seed: int) -> list[Run]:
    """Run FastICA on resamples of white samples [n, K], drawn with replacement.

    Each has a random start. The rows of its W, in the coordinates of all samples, are of length 1.
    """
    runs = []
    for restart in range(restarts):
        rng = np.random.default_rng((seed, restart))
        start = rng.standard_normal(2 * white.shape[1:])
        part = whitened(white[rng.integers(len(white), size=len(white))])
        run = ica.run(part.values, start)
        unmixing = run.unmixing @ np.linalg.inv(part.colouring).T
        unmixing /= np.linalg.norm(unmixing, axis=1, keepdims=True)
        runs.append(replace(run, unmixing=unmixing))
    return runs


def _decorrelated(unmixing: torch.Tensor) -> torch.Tensor:
    left, _, right = torch.linalg.svd(unmixing)
    return left @ right
