"""Random channels, as many in every layer as a network has: what a lesion stands beside."""

from collections.abc import Sequence

import numpy as np


def size_matched(chosen: Sequence[np.ndarray], seed: int, draw: int) -> list[np.ndarray]:
    """Return as many random channels of every layer as are chosen there.

    Parameters
    ----------
    chosen
        A bool vector [width] a layer. Its counts matter and nothing else; the draw may well
        take chosen channels, since it is of all of them.
    seed, draw
        What the draw depends on, besides the layer: a larger set of the same draw contains
        the smaller one, so that a curve over sizes adds channels as that of networks does.
    """
    found = []
    for layer, mask in enumerate(chosen):
        order = np.random.default_rng((seed, draw, layer)).permutation(len(mask))
        drawn = np.zeros(len(mask), dtype=bool)
        drawn[order[: np.count_nonzero(mask)]] = True
        found.append(drawn)
    return found
