"""Which channels are in a network.

Shapes: K networks, F channels that are analysed together.
"""

from typing import Literal

import numpy as np


def network_members(
    loadings: np.ndarray,
    varying: np.ndarray,
    threshold: Literal["percentile", "z"],
    percentile: float,
    z: float,
) -> np.ndarray:
    """Return the channels of each network, bool [K, F]; constant ones are in none.

    Parameters
    ----------
    loadings
        [K, F].
    varying
        Channels that are not constant, bool [F].
    threshold
        ``percentile``: the round((100 − percentile) / 100 · F) channels of largest |loading|, of
        equal ones those that come first, so that networks of one analysis are of one size.
        ``z``: those that lie more than ``z`` standard deviations from the mean loading of the
        channels that vary; there may be none.
    percentile, z
        Of these.
    """
    members = np.zeros(loadings.shape, dtype=bool)
    channels = np.flatnonzero(varying)
    candidates = loadings[:, channels].astype(np.float64)
    if threshold == "z":
        centred = candidates - candidates.mean(axis=1, keepdims=True)
        deviations = candidates.std(axis=1, keepdims=True)
        members[:, channels] = np.abs(centred) > z * deviations
        return members
    count = round((100 - percentile) / 100 * loadings.shape[1])
    nearest = np.argsort(-np.abs(candidates), axis=1, kind="stable")[:, :count]
    np.put_along_axis(members, channels[nearest], True, axis=1)
    return members
