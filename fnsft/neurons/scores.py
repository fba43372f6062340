"""A partition's Score: whether the neurons of one cluster fire together on unseen tokens.

For a token x that activates the neurons E(x), and a partition of n neurons into clusters C_c,

    published   Score(x) = Σ_c n_c² / m²                 Null = Σ_c |C_c|² / n²
    unbiased    Score(x) = Σ_c n_c (n_c − 1) / m (m − 1)   Null = Σ_c |C_c| (|C_c| − 1) / n (n − 1)

with n_c = |E(x) ∩ C_c| and m = Σ_c n_c. Both say how likely two activated neurons share a
cluster, against any two neurons. The published pair (CollabMask 2025) also draws a neuron
with itself, by which small clusters beat their Null by chance; the unbiased one (ours) has the
Null as its expectation over all partitions of these sizes.

Both Nulls draw every neuron alike. Where neurons that fire often share clusters, independent
neurons beat them too; the rate-matched Null (ours) draws neuron i by its rate r_i, the share of
the tokens that activate it:

    Null = (Σ_c R_c² − Σ_i r_i²) / (R² − Σ_i r_i²),   R_c = Σ_{i ∈ C_c} r_i,   R = Σ_c R_c

Neurons in no cluster are in neither n nor m: most never fire, and would lower the Null alone.

Shapes: N = ``d_mlp`` neurons, n of them in a cluster, C clusters, T tokens, t of them scored,
b tokens at a time.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from fnsft.artifacts.activations import WORD_TOKENS, unpack_bits
from fnsft.artifacts.clusters import NO_CLUSTER
from fnsft.artifacts.scores import BINS, HIGHEST, SCORES, Histograms
from fnsft.neurons.bits import Bits

PIECE_WORDS = 16  # words of 64 tokens that are unpacked at a time


@dataclass(frozen=True)
class Mean:
    """The mean of ``n`` items and its standard error, None for one item."""

    value: float
    stderr: float | None
    n: int

    @classmethod
    def of(cls, values: np.ndarray) -> "Mean | None":
        """Return the mean of values [n]; None of none."""
        n = len(values)
        if n == 0:
            return None
        stderr = float(values.std(ddof=1)) / n**0.5 if n > 1 else None
        return cls(float(values.mean()), stderr, n)


@dataclass(frozen=True, eq=False)
class Score:
    """One kind of Score of one partition.

    ``mean`` is over the scored tokens, None without one. ``histogram`` is int64 [BINS + 1] of
    Score / Null as :mod:`fnsft.artifacts.scores` has it; it is 0 where Null is 0.
    """

    mean: Mean | None
    null: float
    histogram: np.ndarray

    @property
    def over_null(self) -> Mean | None:
        """Mean of Score / Null over the tokens; None without a token and where Null is 0."""
        return _over(self.mean, self.null)


@dataclass(frozen=True, eq=False)
class PartitionScores:
    """Both kinds of Score; ``skipped`` tokens activate fewer than two of the n neurons.

    ``rate_null`` stands beside the unbiased Score.
    """

    published: Score
    unbiased: Score
    rate_null: float
    n_neurons: int
    skipped: int

    @property
    def over_rate_null(self) -> Mean | None:
        """Mean of the unbiased Score over the rate-matched Null; None without one."""
        return _over(self.unbiased.mean, self.rate_null)


@dataclass(frozen=True, eq=False)
class LayerScores:
    """Scores of a layer's partitions, and the mean |E(x)| / N over all T tokens."""

    partitions: dict[str, PartitionScores]
    hyperedge_share: Mean | None

    @property
    def histograms(self) -> Histograms:
        """The histograms of every partition, published and unbiased."""
        return {
            (name, kind): score.histogram
            for name, scores in self.partitions.items()
            for kind, score in zip(SCORES, (scores.published, scores.unbiased), strict=True)
        }


def score_layer(bits: Bits, partitions: Mapping[str, np.ndarray]) -> LayerScores:
    """Score partitions of one layer on its tokens; the bits are read once.

    Parameters
    ----------
    bits
        Which neurons the unseen tokens activate.
    partitions
        Labels [N] by name; −1 is in no cluster.

    Notes
    -----
    Standard errors take tokens as independent; those of one text are not, so that they are
    too small. Memory: a block of bits, 1 KiB · N, and 16 bytes a token and partition.
    """
    members = {name: _members(labels) for name, labels in partitions.items()}
    scores: dict[str, list[np.ndarray]] = {name: [] for name in partitions}
    sizes = [np.zeros(0, dtype=np.int64)]
    fired = np.zeros(bits.n_neurons, dtype=np.int64)
    for activated in _pieces(bits):
        sizes.append(activated.sum(axis=0, dtype=np.int64))
        fired += activated.sum(axis=1, dtype=np.int64)
        for name, clusters in members.items():
            scores[name].append(_scores(_counts(activated, clusters)))
    return LayerScores(
        {
            name: _summary(labels, scores[name], fired, bits.n_tokens)
            for name, labels in partitions.items()
        },
        Mean.of(np.concatenate(sizes) / bits.n_neurons),
    )


def nulls(labels: np.ndarray) -> tuple[float, float]:
    """Return the published and the unbiased Null of labels [N]; 0 without a pair of neurons."""
    sizes = np.array([len(cluster) for cluster in _members(labels)], dtype=np.float64)
    n = sizes.sum()
    published = (sizes**2).sum() / n**2 if n else 0.0
    unbiased = (sizes * (sizes - 1)).sum() / (n * (n - 1)) if n > 1 else 0.0
    return float(published), float(unbiased)


def rate_null(labels: np.ndarray, rates: np.ndarray) -> float:
    """Return the rate-matched Null of labels [N] at firing rates [N]; 0 without a pair.

    Rates may be in any unit.
    """
    clusters = _members(labels)
    rates = rates.astype(np.float64)
    sums = np.array([rates[cluster].sum() for cluster in clusters])
    itself = (rates[labels != NO_CLUSTER] ** 2).sum()
    pairs = sums.sum() ** 2 - itself
    return float(((sums**2).sum() - itself) / pairs) if pairs > 0 else 0.0


def parameter_clusters(rows: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    """Cluster the neurons by their parameters, the baseline that needs no activation.

    Parameters
    ----------
    rows
        One row of parameters a neuron, [N, d] float32: of the up projection.
    labels
        The partition [N] to stand beside: the same neurons make as many clusters.

    Returns
    -------
    Labels [N] int64 of k-means on the rows scaled to length 1 (by cosine); −1 as in ``labels``.
    """
    clustered = labels != NO_CLUSTER
    found = np.full(len(labels), NO_CLUSTER, dtype=np.int64)
    if clustered.any():
        lengths = np.linalg.norm(rows[clustered], axis=1, keepdims=True)
        points = rows[clustered] / np.where(lengths > 0, lengths, 1)
        k_means = KMeans(len(_members(labels)), n_init=10, random_state=seed)
        with threadpool_limits(1):  # sums, and so labels, would depend on the threads
            found[clustered] = k_means.fit_predict(points)
    return found


def _members(labels: np.ndarray) -> list[np.ndarray]:
    """Return the neurons of every cluster."""
    return [np.flatnonzero(labels == c) for c in np.unique(labels[labels != NO_CLUSTER])]


def _pieces(bits: Bits) -> Iterator[np.ndarray]:
    """Yield the bits unpacked, [N, b] uint8, without what pads the last word."""
    left = bits.n_tokens
    for block in bits.rows(0, bits.n_neurons):
        for start in range(0, block.shape[1], PIECE_WORDS):
            words = block[:, start : start + PIECE_WORDS]
            yield unpack_bits(words)[:, :left]
            left -= min(left, WORD_TOKENS * words.shape[1])


def _counts(activated: np.ndarray, clusters: list[np.ndarray]) -> np.ndarray:
    """Count each cluster's activated neurons, [N, b] to [C, b] int64."""
    counts = np.zeros((len(clusters), activated.shape[1]), dtype=np.int64)
    for count, neurons in zip(counts, clusters, strict=True):
        activated[neurons].sum(axis=0, out=count)
    return counts


def _scores(counts: np.ndarray) -> np.ndarray:
    """Return the published and the unbiased Score [2, t] of the tokens with m ≥ 2."""
    m = counts.sum(axis=0)
    counts, m = counts[:, m >= 2], m[m >= 2]
    squares = (counts**2).sum(axis=0)
    return np.stack([squares / m**2, (squares - m) / (m * (m - 1))])


def _over(mean: Mean | None, null: float) -> Mean | None:
    if mean is None or null == 0:
        return None
    return Mean(mean.value / null, None if mean.stderr is None else mean.stderr / null, mean.n)


def _summary(
    labels: np.ndarray, scores: list[np.ndarray], fired: np.ndarray, n_tokens: int
) -> PartitionScores:
    whole = np.concatenate([np.zeros((2, 0)), *scores], axis=1)
    kinds = [
        Score(Mean.of(values), null, _histogram(values, null))
        for values, null in zip(whole, nulls(labels), strict=True)
    ]
    return PartitionScores(
        published=kinds[0],
        unbiased=kinds[1],
        rate_null=rate_null(labels, fired),
        n_neurons=int((labels != NO_CLUSTER).sum()),
        skipped=n_tokens - whole.shape[1],
    )


def _histogram(scores: np.ndarray, null: float) -> np.ndarray:
    if null == 0:
        return np.zeros(BINS + 1, dtype=np.int64)
    # Scores are fractions that often meet the edge of a bin; rounding must not move them below.
    bins = np.minimum(scores / null * (BINS / HIGHEST) + 1e-9, BINS).astype(np.int64)
    return np.bincount(bins, minlength=BINS + 1).astype(np.int64)
