"""Principal components of activations that are never in memory.

A randomised block Krylov method: from a random sketch of the data's row space, the block
Lanczos recurrence on C = XᵀX, orthogonalised in full. One pass over the data multiplies a whole
block by C, and all blocks so far are used, so that few passes suffice where the spectrum decays
slowly, as that of activations does.

Sources: Halko, Martinsson & Tropp 2011, "Finding structure with randomness" (the sketch); Musco &
Musco 2015, "Randomized block Krylov methods for stronger and faster approximate singular value
decomposition" (the Krylov space, and the best approximation within it).

Shapes: X [T, F] (T tokens, F channels) centred and scaled, K components, b columns of a block,
q passes.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fnsft.errors import InputError
from fnsft.neurons.decomposition.activations import Activations
from fnsft.neurons.decomposition.standardised import Standardised, standardised

TOLERANCE = 5e-3  # ours: |Cv − θv| / θ, near the sine of the angle to the exact subspace
MAX_PASSES = 32  # activations take 4 to 8, noise without structure about 24
OVERSAMPLE, MULTIPLE = 8, 16  # columns beyond K; BLAS is fastest with whole vector registers
NO_VARIANCE = 1e-10  # of the largest eigenvalue: below it is float32's rounding


@dataclass(frozen=True, eq=False)
class Principal:
    """The K leading components of X.

    ``components`` [F, K] are orthonormal; ``scores`` [T, K] are X times these, of squared lengths
    ``eigenvalues`` float64 [K], descending; ``passes`` q over the data beside that of the moments;
    ``residual`` the largest |Cv − θv| / θ of the K. Float32 where nothing is said.
    """

    data: Standardised
    components: np.ndarray
    eigenvalues: np.ndarray
    scores: np.ndarray
    passes: int
    residual: float

    @property
    def converged(self) -> bool:
        """Whether the residual is small enough."""
        return self.residual <= TOLERANCE


def principal_components(
    data: Activations, n_components: int, standardise: bool, seed: int, device: torch.device
) -> Principal:
    """Return the leading principal components of activations.

    Parameters
    ----------
    data
        [T, F].
    n_components
        K.
    standardise
        Give every channel unit variance; constant ones are 0 either way.
    seed
        Of the sketch.
    device
        That multiplies. Bases lie there too on CUDA, elsewhere on the CPU; what has neither
        tokens nor channels is decomposed on the CPU.

    Raises
    ------
    InputError
        When there are fewer than K directions of variance, or a value is not finite.

    Notes
    -----
    Memory: 4 b (q (F + T) + 4 F) bytes of bases, b = K + 8 to K + 23, and for every thread 4 b F
    and a chunk of 24 MiB, or of 64 tokens where these are more.
    """
    largest = min(data.n_tokens - 1, data.n_channels)
    _require_directions(n_components, largest, data)
    width = -(-(n_components + OVERSAMPLE) // MULTIPLE) * MULTIPLE
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn((data.n_tokens, min(width, largest)), generator=generator)
    directions -= directions.mean(dim=0)
    centred, sketch = standardised(data, standardise, directions, device)
    dimensions = min(largest, int((centred.scale > 0).sum()))
    _require_directions(n_components, dimensions, data)
    return _krylov(centred, sketch[:, :dimensions], n_components, dimensions)


def _krylov(data: Standardised, sketch: Tensor, n_components: int, dimensions: int) -> Principal:
    """Widen the basis by a block a pass until the Ritz vectors of the K largest values stand."""
    bases: list[Tensor] = []
    scores: list[Tensor] = []
    gram = torch.zeros((0, 0), dtype=torch.float64)
    block = torch.linalg.qr(sketch.to(data.home))[0]
    while True:
        products, images = data.normal(block)
        bases.append(block)
        scores.append(products)
        gram = _bordered(gram, scores)
        values, vectors = torch.linalg.eigh(gram)
        values, vectors = values[-n_components:].flip(0), vectors[:, -n_components:].flip(1)
        remaining = dimensions - len(gram)
        if remaining == 0:
            residual = 0.0
            break
        following, overlap = _orthonormal(images, bases)
        outside = overlap.cpu().double() @ vectors[-block.shape[1] :]
        errors = torch.linalg.vector_norm(outside, dim=0)
        residual = float((errors / values).max())
        if residual <= TOLERANCE or len(bases) == MAX_PASSES:
            break
        block = following[:, :remaining]
    _require_directions(n_components, int((values > NO_VARIANCE * values[0]).sum()), data.data)
    parts = vectors.float().to(data.home).split([basis.shape[1] for basis in bases])
    return Principal(
        data=data,
        components=_product(bases, parts).cpu().numpy(),
        eigenvalues=values.numpy(),
        scores=_product(scores, parts).cpu().numpy(),
        passes=len(bases),
        residual=residual,
    )


def _bordered(gram: Tensor, scores: list[Tensor]) -> Tensor:
    """Return YᵀY [m, m] of all blocks Y from that of all but the last, in float64."""
    last = scores[-1].double()
    border = torch.cat([block.double().T @ last for block in scores]).cpu()
    upper = torch.cat([gram, border[: len(gram)]], dim=1)
    return torch.cat([upper, border.T])


def _orthonormal(images: Tensor, bases: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Return Q and B: Q B is the part of ``images`` [F, b] outside of the bases, QᵀQ = 1.

    Twice, since what is left of an image may be rounding, which the second time takes out. The
    images are overwritten.
    """
    block, overlap = _outside(images, bases)
    return _outside(block, bases)[0], overlap


def _outside(images: Tensor, bases: list[Tensor]) -> tuple[Tensor, Tensor]:
    for basis in bases + bases:
        images.addmm_(basis, basis.T @ images, alpha=-1)
    block, overlap = torch.linalg.qr(images)
    return block, overlap


def _product(blocks: list[Tensor], parts: tuple[Tensor, ...]) -> Tensor:
    total = blocks[0] @ parts[0]
    for block, part in zip(blocks[1:], parts[1:], strict=True):
        total.addmm_(block, part)
    return total


def _require_directions(n_components: int, found: int, data: Activations) -> None:
    if n_components > found:
        raise InputError(
            f"n_components: expected at most {found}, the dimensions of {data.n_tokens} tokens "
            f"of {data.n_channels} channels, found {n_components}; lower it, or give more data"
        )
