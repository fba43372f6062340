"""Activations centred and scaled on the fly, and the two products that PCA needs of them.

Shapes: X [T, F] (T tokens, F channels), b columns of a basis.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from fnsft.errors import InputError
from fnsft.neurons.decomposition.activations import Activations


@dataclass(frozen=True, eq=False)
class Standardised:
    """Activations as (X − mean) · scale.

    ``mean`` and ``scale`` are float32 [F] on the device that does the products; ``scale`` is 0
    where a channel is constant, elsewhere 1, or 1 over its standard deviation.
    ``sum_of_squares`` is of all entries, T times the sum of the channels' variances.
    """

    data: Activations
    mean: Tensor
    scale: Tensor
    sum_of_squares: float

    @property
    def home(self) -> torch.device:
        """Where bases lie: with the data on CUDA; other devices lack float64 or QR."""
        device = self.mean.device
        return device if device.type == "cuda" else torch.device("cpu")

    def project(self, basis: Tensor) -> Tensor:
        """Return the data [T, F] times ``basis`` [F, b], float32 [T, b], in one pass."""
        scaled = self._scaled(basis)

        def work(tokens: range) -> Tensor:
            chunks = self.data.chunks(self.mean, tokens)
            return torch.cat([chunk @ scaled for _, chunk in chunks])

        return torch.cat(self.data.each_part(work, self.mean.device)).cpu()

    def normal(self, basis: Tensor) -> tuple[Tensor, Tensor]:
        """Return Y = X V [T, b] and XᵀY [F, b] of ``basis`` V [F, b], both in one pass.

        They lie at ``home``.
        """
        scaled = self._scaled(basis)

        def work(tokens: range) -> tuple[Tensor, Tensor]:
            scores, images = [], torch.zeros_like(scaled)
            for _, chunk in self.data.chunks(self.mean, tokens):
                products = chunk @ scaled
                images.addmm_(chunk.T, products)
                scores.append(products)
            return torch.cat(scores), images

        scores, images = zip(*self.data.each_part(work, self.mean.device), strict=True)
        image = _sum(images).mul_(self.scale[:, None])
        return torch.cat(scores).to(self.home), image.to(self.home)

    def _scaled(self, basis: Tensor) -> Tensor:
        """Scale the basis, so that the data need only be centred."""
        return basis.to(self.mean) * self.scale[:, None]


@dataclass(frozen=True, eq=False)
class Moments:
    """Of n tokens: means and sums of squared deviations, float64 [F]."""

    n: int
    mean: Tensor
    squares: Tensor

    def merged(self, other: "Moments") -> "Moments":
        """Return those of both (Chan, Golub & LeVeque 1983)."""
        n = self.n + other.n
        step = other.mean - self.mean
        squares = self.squares + other.squares + step.square() * (self.n * other.n / n)
        return Moments(n, self.mean + step * (other.n / n), squares)


def standardised(
    data: Activations, standardise: bool, directions: Tensor, device: torch.device
) -> tuple[Standardised, Tensor]:
    """Take the moments of the activations, and a sketch of their row space, in one pass.

    Parameters
    ----------
    data
        [T, F].
    standardise
        Divide by the standard deviations, too.
    directions
        float32 [T, b], every column of sum 0, so that its product needs no means.
    device
        That does the products.

    Returns
    -------
    Standardised, Tensor
        The data, and (X − mean)ᵀ directions · scale, float32 [F, b], on the CPU.

    Raises
    ------
    InputError
        When a value is not finite, or all channels are constant.

    Notes
    -----
    Chunks' moments are merged in float64. The first token is subtracted from all, which makes a
    constant channel's variance 0 exactly.
    """
    first = data.first_token()
    shift = first.to(device)

    def work(tokens: range) -> tuple[Moments, Tensor]:
        sketch = torch.zeros((data.n_channels, directions.shape[1]), device=device)
        found = Moments(0, *torch.zeros((2, data.n_channels), dtype=torch.float64))
        for some, chunk in data.chunks(shift, tokens):
            sketch.addmm_(chunk.T, directions[some].to(device))
            mean = chunk.mean(dim=0)
            squares = chunk.sub_(mean).square_().sum(dim=0).cpu().double()
            _require_finite(data, squares)
            found = found.merged(Moments(len(chunk), mean.cpu().double(), squares))
        return found, sketch

    parts, sketches = zip(*data.each_part(work, device), strict=True)
    moments = reduce(Moments.merged, parts)
    varying = moments.squares > 0
    if not varying.any():
        raise InputError(
            f"activations: expected channels that vary, found {data.n_channels} constant ones over "
            f"{data.n_tokens} tokens; give other data"
        )
    deviation = (moments.squares / data.n_tokens).sqrt()
    scale = varying / deviation.where(varying, 1) if standardise else varying.double()
    total = float((moments.squares * scale.square()).sum())
    mean = (moments.mean + first).float().to(device)
    found = Standardised(data, mean, scale.float().to(device), total)
    return found, _sum(sketches).cpu() * scale[:, None].float()


def _sum(terms: Sequence[Tensor]) -> Tensor:
    """Add all to the first, and return it."""
    return reduce(Tensor.add_, terms)


def _require_finite(data: Activations, squares: Tensor) -> None:
    if not squares.isfinite().all():
        channel = int(squares.isfinite().logical_not().nonzero()[0])
        raise InputError(
            f"activations: expected finite values, found NaN or infinity in {data.place(channel)}; "
            "look at the model's weights, or use a precision with a larger range"
        )
