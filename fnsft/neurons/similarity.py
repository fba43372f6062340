"""Whether connected neurons are described alike: their rank among random neurons (2026).

With scores s and texts of unit vectors e, over the ± descriptions of neurons i and j,

    similarity(i, j) = Σ s·s'·cos(e, e') / Σ s·s' = v_i · v_j,    v_i = Σ s·e / Σ s

which is undefined where a neuron has no description that scores above 0. A connection's rank r is
how many of n random neurons of the layer are at least as similar to i as its neighbour j is. They
are drawn without replacement from all but i and its neighbours, and are the same for all neighbours
of i. A tie counts against the neighbour: it is no evidence of being nearer. The connection is in
the top q % when the one-sided upper bound of Clopper & Pearson (1934) on r / n,

    B⁻¹(confidence; r + 1, n − r), the quantile of a beta distribution; 1 where r = n,

is at most q / 100. A neighbour that is as good as drawn at random has any rank from 0 to n with
the same probability, so that (r_q + 1) / (n + 1) of such connections are expected in the top q %,
r_q being the largest rank there; ties make them fewer.

Shapes: N neurons of a layer, M of them with a vector, d dimensions, C connections.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import beta

CHUNK = 256  # neurons whose similarities to all others are in memory together
TIE = 1e-6  # similarities that differ by less are equal: the rest is rounding in float32


@dataclass(frozen=True, eq=False)
class Connections:
    """Connections of a layer whose two neurons have vectors, sorted by the first.

    ``rows`` and ``columns`` [C] are neurons, ``ranks`` [C] lie in 0 … ``n_random`` [C];
    ``similarity`` [C] is that of the two, ``random_similarity`` [C] the mean to the random ones.
    """

    rows: np.ndarray
    columns: np.ndarray
    ranks: np.ndarray
    n_random: np.ndarray
    similarity: np.ndarray
    random_similarity: np.ndarray


@dataclass(frozen=True)
class Share:
    """Connections in the top q %: ``n`` of them, and how many are expected without relation.

    ``stderr`` is of their share in all. Connections that begin or end in one neuron are not
    independent, and of a graph with hubs most end in a few; None where all end in one.
    """

    n: int
    share: float
    stderr: float | None
    expected: float


def neuron_vectors(
    vectors: np.ndarray, scores: np.ndarray, neurons: np.ndarray, n_neurons: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return v of every neuron, [N, d] float32, and whether it is defined, [N] bool.

    Parameters
    ----------
    vectors, scores, neurons
        Of each description: its text's unit vector [m, d], its score [m] and its neuron [m].
    """
    total = np.bincount(neurons, scores, n_neurons)
    summed = np.zeros((n_neurons, vectors.shape[1]), dtype=np.float64)
    np.add.at(summed, neurons, scores[:, None] * vectors)
    defined = total > 0
    summed[defined] /= total[defined, None]
    return summed.astype(np.float32), defined


def rank_connections(
    vectors: np.ndarray,
    defined: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
    n_random: int,
    rng: np.random.Generator,
) -> Connections:
    """Rank connections among random neurons; those of an undefined neuron are left out.

    Parameters
    ----------
    vectors, defined
        Of all neurons, [N, d] and [N].
    rows, columns
        Neurons that are connected, no pair twice, sorted by rows.
    n_random
        Random neurons; where a layer has fewer, all of them. A connection that no random neuron
        is left for is left out too.

    Notes
    -----
    Memory: 20·M bytes for each of ``CHUNK`` neurons, and 1 kB a connection of theirs.
    """
    kept = defined[rows] & defined[columns]
    rows, columns = rows[kept], columns[kept]
    known = np.flatnonzero(defined)
    place = np.cumsum(defined) - 1
    some = np.ascontiguousarray(vectors[known])
    firsts = np.unique(rows)
    parts = []
    for start in range(0, len(firsts), CHUNK):
        chunk = firsts[start : start + CHUNK]
        begin, end = np.searchsorted(rows, (chunk[0], chunk[-1] + 1))
        of = np.searchsorted(chunk, rows[begin:end])  # which of the chunk a connection is of
        to = place[columns[begin:end]]
        similarities = some[place[chunk]] @ some.T  # [chunk, M]
        drawn = rng.random(similarities.shape, dtype=np.float32)
        drawn[np.arange(len(chunk)), place[chunk]] = drawn[of, to] = 2
        among = _lowest(drawn, n_random)
        valid = np.take_along_axis(drawn, among, axis=1) < 2
        random = np.where(valid, np.take_along_axis(similarities, among, axis=1), np.nan)
        own, n_valid = similarities[of, to], valid.sum(axis=1)
        mean = np.nansum(random, axis=1, dtype=np.float64) / np.maximum(n_valid, 1)
        ranks = (random[of] >= own[:, None] - TIE).sum(axis=1)  # NaN is never
        parts.append((rows[begin:end], columns[begin:end], ranks, n_valid[of], own, mean[of]))
    if not parts:
        none = np.zeros(0)
        return Connections(rows, columns, rows, rows, none, none)
    joined = [np.concatenate(part) for part in zip(*parts, strict=True)]
    possible = joined[3] > 0
    return Connections(*(part[possible] for part in joined))


def random_neighbours(
    rows: np.ndarray, defined: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return as many connections of every neuron to others that are drawn: rows and columns.

    Parameters
    ----------
    rows
        First neurons of the connections, [C], sorted and defined.
    defined
        Neurons that may be drawn, [N] bool.
    """
    known = np.flatnonzero(defined)
    firsts, counts = np.unique(rows, return_counts=True)
    drawn = []
    for start in range(0, len(firsts), CHUNK):
        chunk, wanted = firsts[start : start + CHUNK], counts[start : start + CHUNK]
        keys = rng.random((len(chunk), len(known)), dtype=np.float32)
        keys[known == chunk[:, None]] = 2
        among = _lowest(keys, int(wanted.max()))
        order = np.argsort(np.take_along_axis(keys, among, axis=1), axis=1)
        among = np.take_along_axis(among, order, axis=1)  # the cut below takes the lowest
        drawn += [known[own[:n]] for own, n in zip(among, wanted, strict=True)]
    return rows, np.concatenate(drawn) if drawn else rows


def rank_bounds(n: int, confidence: float) -> np.ndarray:
    """Return the upper bound on r / n for every rank r = 0 … n, [n + 1]."""
    ranks = np.arange(n)
    return np.append(beta.ppf(confidence, ranks + 1, n - ranks), 1.0)


def top_shares(
    found: Connections, q: tuple[float, ...], confidence: float
) -> list[tuple[Share, Share]]:
    """Count the connections in the top of each q %, and in the bin between it and the one before.

    Parameters
    ----------
    found
        At least one connection.
    q
        In percent, ascending; 100 holds every connection, whatever its bound.

    Returns
    -------
    list
        For each q the share that is in its top, and the share that is there and in no smaller top.
    """
    bounds, chances = np.empty(len(found.ranks)), []
    for n in np.unique(found.n_random):
        of_n, table = found.n_random == n, rank_bounds(int(n), confidence)
        bounds[of_n] = table[found.ranks[of_n]]
        within = np.searchsorted(table, np.array(q) / 100 + 1e-12) / (n + 1)
        chances.append(of_n.mean() * within)
    expected = np.sum(chances, axis=0)
    shares, before, expected_before = [], np.zeros(len(bounds), dtype=bool), 0.0
    for percent, chance in zip(q, map(float, expected), strict=True):
        inside = bounds <= percent / 100 + 1e-12
        in_bin = inside & ~before
        shares.append(
            (
                _share(inside, found, chance),
                _share(in_bin, found, chance - expected_before),
            )
        )
        before, expected_before = inside, chance
    return shares


def _share(inside: np.ndarray, found: Connections, expected: float) -> Share:
    """Return a share of connections, with an error clustered by both neurons.

    Cameron, Gelbach & Miller (2011): the squares summed by the first neuron, plus those by the
    second, less those of single connections; never less than one of the two alone.
    """
    share = float(inside.mean())
    off = inside - share
    sums = [
        np.bincount(np.unique(of, return_inverse=True)[1], off)
        for of in (found.rows, found.columns)
    ]
    n = min(map(len, sums))
    first, second = (float(summed @ summed) for summed in sums)
    square = max(first + second - float(off @ off), first, second)
    stderr = float(np.sqrt(n / (n - 1) * square) / len(off)) if n > 1 else None
    return Share(int(inside.sum()), share, stderr, expected)


def _lowest(keys: np.ndarray, n: int) -> np.ndarray:
    """Return where the ``n`` lowest keys of each row are, or all where there are fewer."""
    if n >= keys.shape[1]:
        return np.broadcast_to(np.arange(keys.shape[1]), keys.shape)
    return np.argpartition(keys, n - 1, axis=1)[:, :n]
