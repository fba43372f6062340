"""Networks of channels that are active together: PCA, FastICA, thresholds.

X [T, F] (T tokens of all data sets, F channels; centred, and by default standardised) is taken as

    X ≈ S L,    S [T, K] activity of K networks, L [K, F] their loadings,

``independent="tokens"``: the columns of S are independent over tokens and of unit variance, and L
is the mixing matrix. ``"neurons"``: the rows of L are independent over channels, of unit variance.
Constant channels have loading 0.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from fnsft.neurons.decomposition.activations import Activations, one_thread
from fnsft.neurons.decomposition.groups import Group, group_basis
from fnsft.neurons.decomposition.independent import FastIca, resampled_runs, whitened
from fnsft.neurons.decomposition.principal import Principal, principal_components
from fnsft.neurons.decomposition.stability import stability
from fnsft.neurons.decomposition.standardised import Standardised
from fnsft.neurons.decomposition.thresholds import network_members

SYMMETRIC = 1e-6  # |Σ l³| / Σ |l|³ below which rounding could decide the sign


class NetworksDidNotConverge(UserWarning):
    """FastICA or PCA stopped before its tolerance was reached; the networks may be chance."""


@dataclass(frozen=True, eq=False)
class Decomposition:
    """K networks, by the variance that each explains, descending.

    ``loadings`` float32 [K, F], the sum of their cubes positive; ``members`` bool [K, F], no
    channel for a threshold that none reaches; ``time_courses`` float32 [T, K]: at every token, the
    mean over the network's members of their centred (standardised) activation times the sign of
    their loading, 0 without members; ``variance_share`` float64 [K], of the variance of all
    channels; over neurons the shares overlap. ``stability`` float64 [K], NaN with one start.
    ``converged`` bool and ``iterations`` int64 [R] of the starts, each on a resample of the tokens
    (channels); that most like the others goes on with all of them, which counts with its own.
    ``reproducibility`` float64 [K], of several data sets: the mean share of a network's loadings
    that lies within a data set's own components, 1 when in all; None of one.
    ``constant``: channels that are constant in every data set. ``passes``: over a data set, all
    told. ``residual``: of the principal components, see ``principal.py``.
    """

    loadings: np.ndarray
    members: np.ndarray
    time_courses: np.ndarray
    variance_share: np.ndarray
    stability: np.ndarray
    converged: np.ndarray
    iterations: np.ndarray
    reproducibility: np.ndarray | None
    constant: int
    passes: int
    residual: float


@one_thread()
def decompose(
    datasets: Sequence[Activations],
    *,
    n_components: int,
    independent: Literal["tokens", "neurons"],
    standardise: bool,
    restarts: int,
    max_iterations: int,
    tolerance: float,
    threshold: Literal["percentile", "z"],
    percentile: float,
    z: float,
    seed: int,
    device: torch.device | str = "cpu",
) -> Decomposition:
    """Find the networks of one or several data sets' activations.

    Parameters
    ----------
    datasets
        Of the same channels, [T_d, F] each.
    n_components
        K, below the tokens of every data set, and at most the channels that vary.
    independent, standardise
        See the module.
    restarts, max_iterations, tolerance
        Of FastICA.
    threshold, percentile, z
        See :func:`~fnsft.neurons.decomposition.thresholds.network_members`.
    seed
        Of the sketch and the starts; the same one gives the same bits on the same CPU.
    device
        That multiplies. On the CPU the data sets' ``threads`` share the passes, and all else
        takes one.

    Raises
    ------
    InputError
        When there are fewer than K directions of variance, or a value is not finite.

    Warns
    -----
    NetworksDidNotConverge
        Once, when a start or the principal components did not converge.
    """
    device = torch.device(device)
    parts = [
        principal_components(data, n_components, standardise, seed, device) for data in datasets
    ]
    group = group_basis(parts)
    basis, scores = group.basis.astype(np.float64), group.scores.astype(np.float64)
    varying = torch.stack([part.data.scale for part in parts]).any(dim=0).cpu().numpy()
    basis[~varying] = 0  # up to here it is rounding
    over_tokens = independent == "tokens"
    ica = FastIca(max_iterations, tolerance, device)
    found = _unmix(scores if over_tokens else basis[varying], ica, restarts, seed)
    _warn(found.converged, parts, max_iterations)
    # Rows of loadings in the basis, and the activity, whose product is the scores.
    within = found.mixing if over_tokens else np.linalg.inv(found.mixing).T
    activity = scores @ np.linalg.inv(within)
    loadings = within @ basis.T
    total = sum(part.data.sum_of_squares for part in parts)
    shares = (activity**2).sum(axis=0) * (loadings**2).sum(axis=1) / total
    order = np.argsort(-shares, kind="stable")
    loadings = (loadings * _signs(loadings)[:, None])[order].astype(np.float32)
    members = network_members(loadings, varying, threshold, percentile, z)
    return Decomposition(
        loadings=loadings,
        members=members,
        time_courses=_time_courses([part.data for part in parts], members, loadings),
        variance_share=shares[order],
        stability=found.stability[order],
        converged=found.converged,
        iterations=found.iterations,
        reproducibility=_reproducibility(group, within[order]),
        constant=int((~varying).sum()),
        passes=max(part.passes for part in parts) + (2 if len(parts) == 1 else 3),
        residual=max(part.residual for part in parts),
    )


@dataclass(frozen=True, eq=False)
class _Unmixed:
    """Samples less their mean are independent sources [n, K] times ``mixing`` [K, K]."""

    mixing: np.ndarray
    stability: np.ndarray
    converged: np.ndarray
    iterations: np.ndarray


def _unmix(samples: np.ndarray, ica: FastIca, restarts: int, seed: int) -> _Unmixed:
    """Start on resamples, and go on from the start most like the others with all samples."""
    white = whitened(samples)
    runs = resampled_runs(ica, white.values, restarts, seed)
    converged = np.array([run.converged for run in runs])
    iterations = np.array([run.iterations for run in runs])
    found = stability(np.array([run.unmixing for run in runs]), converged)
    final = ica.run(white.values, runs[found.reference].unmixing)
    converged[found.reference] &= final.converged
    iterations[found.reference] += final.iterations
    return _Unmixed(final.unmixing @ white.colouring, found.index, converged, iterations)


def _signs(loadings: np.ndarray) -> np.ndarray:
    """Return ±1 [K]: the sum of cubes is positive; where that is rounding, the largest entry."""
    cubes = loadings**3
    skewness = cubes.sum(axis=1)
    peaks = loadings[np.arange(len(loadings)), np.abs(loadings).argmax(axis=1)]
    clear = np.abs(skewness) > SYMMETRIC * np.abs(cubes).sum(axis=1)
    return np.where(np.where(clear, skewness, peaks) < 0, -1, 1)


def _time_courses(
    datasets: Sequence[Standardised], members: np.ndarray, loadings: np.ndarray
) -> np.ndarray:
    sizes = np.maximum(members.sum(axis=1, keepdims=True), 1)
    weights = torch.from_numpy((members * np.sign(loadings) / sizes).T.astype(np.float32))
    return torch.cat([data.project(weights) for data in datasets]).numpy()


def _reproducibility(group: Group, within: np.ndarray) -> np.ndarray | None:
    """Weigh the directions' reproducibility by the loadings on them, ``within`` [K, K]."""
    if group.reproducibility is None:
        return None
    squares = within**2
    return squares @ group.reproducibility / squares.sum(axis=1)


def _warn(converged: np.ndarray, parts: Sequence[Principal], max_iterations: int) -> None:
    failed = int((~converged).sum())
    said = []
    if failed:
        said.append(
            f"{failed} of {len(converged)} starts of FastICA did not converge in "
            f"{max_iterations} iterations; raise max_iterations, or lower n_components"
        )
    slow = [part for part in parts if not part.converged]
    if slow:
        residual = max(part.residual for part in slow)
        said.append(
            f"principal components of {len(slow)} of {len(parts)} data sets did not converge in "
            f"{slow[0].passes} passes (residual {residual:.1e}); lower n_components"
        )
    if said:
        warnings.warn("; ".join(said), NetworksDidNotConverge, stacklevel=4)  # the caller
