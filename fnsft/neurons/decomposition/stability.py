"""How far a network depends on where FastICA began, and on which samples it saw.

The |correlation| of a component of run r and one of run s is |w_r · w_s|, since the samples are
white and the rows of W of length 1. One run is the reference; the others' components are assigned
to its own one to one, and a cluster holds one component of each run. Its index (Himberg, Hyvärinen
& Esposito 2004, "Validating the independent components of neuroimaging time series via clustering
and visualization", ICASSO) is

    I = mean |corr| of different members − mean |corr| of members with non-members:

1 when every run finds it, near 0 when it is chance. A component with itself is left out, which
would flatter few runs. Runs that differ in their start alone are not enough: in 3,000 tokens of
Gaussian noise, five starts found the same eight components (I = 1.00), the directions in which
this sample happens to be least Gaussian.
"""

from dataclasses import dataclass

import numpy as np

EQUAL = 1e-9  # relative: so much of a sum is its order, which differs between processors


@dataclass(frozen=True, eq=False)
class Stability:
    """The run most like the others, and the index [K] of its components; NaN for one run."""

    reference: int
    index: np.ndarray


def stability(unmixing: np.ndarray, converged: np.ndarray) -> Stability:
    """Compare the runs' W [R, K, K].

    The reference is the run whose components' partners in all others are most like them, among
    those that converged, or among all when none did; of equals (to 1e-9) the first. Runs that did
    not converge count in the index: they show that there may be nothing to converge to.
    """
    from scipy.optimize import linear_sum_assignment

    n_runs, n_components, _ = unmixing.shape
    if n_runs == 1:
        return Stability(0, np.full(n_components, np.nan))
    stacked = unmixing.reshape(-1, n_components)
    similar = np.abs(stacked @ stacked.T)
    by_runs = similar.reshape(n_runs, n_components, n_runs, n_components)
    partners = np.empty((n_runs, n_runs, n_components), dtype=np.int64)
    likeness = np.zeros((n_runs, n_runs))
    for first in range(n_runs):
        for second in range(n_runs):
            table = by_runs[first, :, second]
            rows, partners[first, second] = linear_sum_assignment(table, maximize=True)
            likeness[first, second] = table[rows, partners[first, second]].sum()
    candidates = np.flatnonzero(converged) if converged.any() else np.arange(n_runs)
    totals = likeness[candidates].sum(axis=1)
    reference = int(candidates[(totals >= totals.max() * (1 - EQUAL)).argmax()])
    return Stability(reference, _index(similar, partners[reference]))


def _index(similar: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Return I [K] of clusters that hold component ``members[r, k]`` of each run r [R, K]."""
    n_runs, n_components = members.shape
    order = (members + n_components * np.arange(n_runs)[:, None]).T.ravel()
    blocks = similar[np.ix_(order, order)].reshape(n_components, n_runs, n_components, n_runs)
    between = blocks.sum(axis=(1, 3))
    within = np.diagonal(between)
    inside = (within - np.einsum("krkr->k", blocks)) / (n_runs * (n_runs - 1))
    outside = (between.sum(axis=1) - within) / max(n_runs**2 * (n_components - 1), 1)
    return inside - outside
