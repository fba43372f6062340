"""The token-shuffled null: neurons that fire as often as they do, and independently."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fnsft.artifacts.activations import pack_bits, unpack_bits
from fnsft.neurons.bits import Bits


@dataclass(frozen=True, eq=False)
class ShuffledBits:
    """A layer whose neurons' bits are each permuted over the tokens, seeded by neuron.

    Every neuron keeps its firing rate; which neurons fire together is left to chance. Rows
    come as one block; a row costs T steps each time it is read.
    """

    bits: Bits
    seed: int

    @property
    def n_neurons(self) -> int:
        """Neurons of the layer."""
        return self.bits.n_neurons

    @property
    def n_tokens(self) -> int:
        """Tokens of the dump."""
        return self.bits.n_tokens

    def rows(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """Yield neurons ``start`` to ``stop``, [stop − start, ceil(T / 64)] uint64."""
        words = np.concatenate(list(self.bits.rows(start, stop)), axis=1)
        for row, neuron in enumerate(range(start, stop)):
            fired = unpack_bits(words[row : row + 1])[0, : self.n_tokens]
            np.random.default_rng((self.seed, neuron)).shuffle(fired)
            words[row] = pack_bits(fired[None].astype(bool))[0]
        yield words
