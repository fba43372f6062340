"""The heaviest neighbours of every neuron, found on a device from panels of a graph.

A weight that is not negative and its neighbour are one integer, the weight's bits before the
index counted down: sorted, the heaviest come first, and of equal weights the lower index.

Shapes: N neurons, R rows and C columns of a panel, k neighbours kept of a row.
"""

import numpy as np
import torch
from torch import Tensor

ROWS = 1_024  # with a tie at the last place, whose 8 C bytes of keys are made together
LAST = 2**31 - 1


class Heaviest:
    """The k heaviest positive weights of every row so far; 8 N · k bytes."""

    def __init__(self, n_neurons: int, k: int, device: torch.device) -> None:
        self._keys = torch.zeros((n_neurons, k), dtype=torch.int64, device=device)

    def offer(self, rows: slice, panel: Tensor, first: int) -> None:
        """Offer the rows' weights to the neurons ``first`` to ``first + C``, float32 [R, C]."""
        k = self._keys.shape[1]
        both = torch.cat([self._keys[rows], _largest_keys(panel, min(k, panel.shape[1]), first)], 1)
        self._keys[rows] = both.sort(dim=1, descending=True).values[:, :k]

    def found(self) -> tuple[np.ndarray, np.ndarray]:
        """Return weights float32 and neighbours int32, [N, k], heaviest first; weight 0 is none."""
        keys = self._keys.cpu().numpy()
        weights = (keys >> 32).astype(np.int32).view(np.float32)
        return weights, (LAST - (keys & LAST)).astype(np.int32)


def _largest_keys(panel: Tensor, k: int, first: int) -> Tensor:
    """Return the keys of the k largest of each row of a panel [R, C], in no order, [R, k]."""
    values, columns = panel.topk(k, dim=1, sorted=False)
    keys = _keys(values, columns + first)
    # Of weights equal to the last that is kept topk takes any; here it must be the first.
    least = values.amin(dim=1)
    tied = ((panel >= least[:, None]).sum(dim=1) > k) & (least > 0)
    all_columns = torch.arange(first, first + panel.shape[1], device=panel.device)
    for rows in tied.nonzero().flatten().split(ROWS):
        keys[rows] = _keys(panel[rows], all_columns).topk(k, dim=1).values
    return keys


def _keys(weights: Tensor, indices: Tensor) -> Tensor:
    bits = weights.contiguous().view(torch.int32).to(torch.int64)
    return (bits << 32) + (LAST - indices)
