"""The tokens at which neurons are most active, and how well they tell where else they are.

With a an activation of a neuron (site ``intermediate``: what down reads) and

    x = max(a, 0) for the sign +,    x = max(−a, 0) for the sign −

a neuron's top tokens are those of its K largest x > 0. How well they tell its activity is

    score = max(0, r),    r = Pearson's correlation of x and y over all tokens,

y being 1 at its top tokens and 0 at all others. After the token lookup table of Bills et al. 2023
("Language models can explain neurons in language models"), which predicts the activation at a
token by its mean over that token's occurrences; theirs knows every token of the vocabulary and its
strength, ours K tokens and no strength, since it shall be read as words.

Shapes: T tokens of all samples, n of one batch, L layers, N neurons of a layer, K top tokens.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

LARGEST = 2**32 - 1  # positions and float32 share 64 bits
NO_VARIANCE = 1e-12  # of the mean square: less is rounding
NO_TOKEN = -1


class TopActivations:
    """The K largest x of both signs of every neuron, one batch after the other.

    Memory, in bytes: 16·K a neuron, and 16·n·N while a batch is seen. Of equal values, as
    float32, the earlier token counts, so that batches of other sizes find the same.

    Parameters
    ----------
    n_layers, n_top
        L and K.
    candidates
        Tokens that may be found, [T] bool.
    """

    def __init__(self, n_layers: int, n_top: int, candidates: np.ndarray) -> None:
        self.n_top, self.candidates = n_top, torch.from_numpy(candidates)
        self._best: list[Tensor | None] = [None] * n_layers

    def see(self, layer: int, tokens: slice, values: Tensor) -> None:
        """Take in a layer's activations at a batch's tokens, [n, N]."""
        values = computable(values)
        wanted = self.candidates[tokens].to(values.device)
        places = torch.arange(tokens.start, tokens.stop, device=values.device)[wanted]
        some = values[wanted].float()
        best = self._best[layer]
        if best is None:
            best = places.new_zeros((2, self.n_top, values.shape[1]))
        found = [
            torch.cat([kept, _packed(x, places)]).topk(self.n_top, dim=0).values
            for kept, x in zip(best, (some, -some), strict=True)
        ]
        self._best[layer] = torch.stack(found)

    def places(self, layer: int) -> np.ndarray:
        """Return where a layer's largest are, [2, K, N] int64; ``NO_TOKEN`` beyond the last x > 0.

        The signs are + and −; larger ones come first.
        """
        best = self._best[layer]
        assert best is not None
        found = best.sort(dim=1, descending=True).values.cpu().numpy()
        return np.where(found > 0, LARGEST - (found & LARGEST), NO_TOKEN)


class TokenScores:
    """How well top tokens tell a neuron's activity, one batch after the other, in float64.

    Memory, in bytes: 64 a neuron, and about 20·n·N while a batch is seen.

    Parameters
    ----------
    ids
        All tokens in order, [T].
    top_ids
        Every layer's top tokens, [2, K, N]; ``NO_TOKEN`` where there is none.
    """

    def __init__(self, ids: np.ndarray, top_ids: Sequence[np.ndarray]) -> None:
        self.ids = torch.from_numpy(ids)
        self.top_ids = [torch.from_numpy(top) for top in top_ids]
        self._sums = [np.zeros((2, 4, top.shape[2])) for top in top_ids]  # of x, x², y, x·y

    def see(self, layer: int, tokens: slice, values: Tensor) -> None:
        """Take in a layer's activations at a batch's tokens, [n, N]."""
        values = computable(values).double()
        seen, place = torch.unique(self.ids[tokens].to(values.device), return_inverse=True)
        for sign, x in enumerate((values, -values)):
            x = x.clamp(min=0)
            y = _is_top(self.top_ids[layer][sign].to(values.device), seen)[place]
            sums = (x.sum(0), (x * x).sum(0), y.sum(0).double(), (x * y).sum(0))
            self._sums[layer][sign] += torch.stack(sums).cpu().numpy()

    def scores(self, layer: int) -> np.ndarray:
        """Return a layer's scores, [2, N] in [0, 1]; NaN where x or y is the same everywhere."""
        n = len(self.ids)
        x, xx, y, xy = np.moveaxis(self._sums[layer], 1, 0)  # each [2, N]
        of_x, of_y = n * xx - x * x, n * y - y * y
        defined = (of_x > NO_VARIANCE * n * xx) & (of_y > 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            correlation = (n * xy - x * y) / np.sqrt(of_x * of_y)
        return np.where(defined, np.clip(correlation, 0, 1), np.nan)


def first_windows(samples: Sequence[Sequence[int]], width: int) -> np.ndarray:
    """Say of every token whether it and ``width`` tokens on both sides come for the first time.

    Returns
    -------
    numpy.ndarray
        [T] bool. Windows are cut at a sample's ends. Memory: 4·(2·width + 1) bytes a token.
    """
    padding = (NO_TOKEN,) * width
    windows = [
        np.lib.stride_tricks.sliding_window_view(
            np.array([*padding, *ids, *padding], dtype=np.int32), 2 * width + 1
        )
        for ids in samples
    ]
    _, first = np.unique(np.concatenate(windows), axis=0, return_index=True)
    found = np.zeros(sum(map(len, samples)), dtype=bool)
    found[first] = True
    return found


def computable(values: Tensor) -> Tensor:
    """Return values where sorts of int64 and sums in float64 work: MPS has neither."""
    return values.cpu() if values.device.type == "mps" else values


def _packed(x: Tensor, places: Tensor) -> Tensor:
    """Return integers in the order of x, then of earlier places; 0 where x is not positive.

    The bits of a positive float32, read as an integer, are in the order of the floats.
    """
    bits = x.contiguous().view(torch.int32).long()
    return torch.where(x > 0, (bits << 32) | (LARGEST - places)[:, None], 0)


def _is_top(top: Tensor, seen: Tensor) -> Tensor:
    """Say which of the sorted tokens ``seen`` [U] are among the top [K, N], as [U, N] bool."""
    place = torch.searchsorted(seen, top.contiguous()).clamp(max=len(seen) - 1)
    place = torch.where(seen[place] == top, place, len(seen))
    found = torch.zeros(len(seen) + 1, top.shape[1], dtype=torch.bool, device=top.device)
    return found.scatter_(0, place, True)[:-1]
