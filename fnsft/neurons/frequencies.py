"""How often tokens occur, and what a token weighs in the hypergraph.

Shapes: V = tokens of the vocabulary, T = tokens of the data.
"""

import numpy as np
from scipy.stats import rankdata

from fnsft.errors import InputError


def frequency_ranks(counts: np.ndarray) -> np.ndarray:
    """Rank tokens by their counts, [V] → [V] float64.

    The most frequent token has rank 1, tokens of equal counts share their mean rank, and
    tokens that do not occur have rank 0.
    """
    ranks = np.zeros(len(counts))
    seen = counts > 0
    ranks[seen] = rankdata(-counts[seen])
    return ranks


def token_weights(
    token_ids: np.ndarray, ranks: np.ndarray, beta: float, drop_top_tokens: int
) -> np.ndarray:
    """Return the weight TR of every token of the data, [T] float64; 0 makes no hyperedge.

    Notes
    -----
    TR(x) = rank(x)^β (CollabMask 2026). The ``drop_top_tokens`` most frequent tokens weigh 0;
    of tokens that share a rank the one with the smaller id is dropped first.

    Raises
    ------
    InputError
        When a token has no rank, or when no token is left.
    """
    unknown = token_ids[(token_ids >= len(ranks)) | (ranks[token_ids.clip(0, len(ranks) - 1)] == 0)]
    if len(unknown):
        raise InputError(
            f"token {unknown[0]} of the activations is not in the token statistics: "
            "make both from the same training split"
        )
    seen = np.flatnonzero(ranks)
    if drop_top_tokens >= len(seen):
        raise InputError(
            f"drop_top_tokens: expected less than the {len(seen)} tokens that occur, "
            f"found {drop_top_tokens}"
        )
    weights = ranks**beta
    weights[seen[np.argsort(ranks[seen], kind="stable")][:drop_top_tokens]] = 0
    return weights[token_ids]
