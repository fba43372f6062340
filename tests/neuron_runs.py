"""The way from a split to a masked run, step by step, and a look at every step of a run."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fnsft.architectures import MLPMatrix
from fnsft.artifacts.activations import open_dump, unpack_bits
from fnsft.cli.main import main
from fnsft.data.tokens import load_split, load_tokenizer
from fnsft.masks.affinity import Affinity, dense_affinity
from fnsft.masks.masker import GradientMasker
from fnsft.masks.optimizer import MaskedAdamW
from fnsft.masks.policies import Collab


def made(model: Path, data: Path, folder: Path, *flags: str) -> dict[str, Path]:
    """Return the dump and the graph of a model, made by the commands."""
    names = ("tokens.safetensors", "dump", "graph.safetensors")
    tokens, dump, graph = (folder / name for name in names)
    of_data = ["--model", str(model), "--data", str(data / "train.jsonl")]
    commands: list[list[str | Path]] = [
        ["statistics", *of_data, "--output", tokens],
        ["capture", *of_data, "--output", dump, *flags],
        ["project", "--statistics", tokens, "--activations", dump, "--output", graph],
    ]
    for words in commands:
        assert main([str(word) for word in words]) == 0
    return {"dump": dump, "graph": graph}


def token_ids(model: Path, data: Path) -> list[tuple[int, ...]]:
    """Return the training samples."""
    split = load_split(data / "train.jsonl", load_tokenizer(model), 1024)
    return [sample.ids for sample in split.samples]


def layers_of(folder: Path) -> list[np.ndarray]:
    """Return the bits of a dump, bool [tokens, neurons] a layer."""
    dump = open_dump(folder)
    found = []
    for number in range(dump.shape.n_layers):
        bits = np.concatenate([unpack_bits(block) for block in dump.layer(number)], axis=1)
        found.append(bits[:, : dump.shape.n_tokens].T.astype(bool))
    return found


def assert_same_bits(found: np.ndarray, values: Tensor) -> None:
    """Where a value is not within rounding of 0 its sign is the bit."""
    unclear = (values.abs() < 1e-4).numpy() & (values != 0).numpy()
    assert unclear.mean() < 1e-2
    assert np.array_equal(found | unclear, (values > 0).numpy() | unclear)


def random_affinities(n_layers: int, width: int) -> tuple[list[Affinity], list[np.ndarray]]:
    """Return affinities, and the same as matrices whose rows sum to 1, of random dense graphs."""
    rng = np.random.default_rng(0)
    weights = rng.random((n_layers, width, width)).astype(np.float32)
    for layer in weights:
        np.fill_diagonal(layer, 0)
    rows = [layer / layer.sum(1, keepdims=True, dtype=np.float64) for layer in weights]
    return [dense_affinity(layer) for layer in weights], rows


def assert_masks_are_the_reference(
    matrices: Sequence[MLPMatrix], width: int, fraction: float = 0.3, lam: float = 0.4
) -> None:
    """Every mask is the top p of S = (1 − λ)|g| + λ Σ_j a_ij |g_j|, matrix by matrix."""
    affinities, rows = random_affinities(1 + matrices[-1].layer, width)
    masker = GradientMasker(matrices, Collab(fraction, 1, lam, affinities))
    gradients = [matrix.view(matrix.parameter.grad).clone() for matrix in matrices]
    masks = masker.masks_at(3)
    of_updates = [matrix.view(masks.get(matrix.parameter)) for matrix in matrices]
    masker.apply_to_gradients(3)
    for matrix, gradient, mask in zip(matrices, gradients, of_updates, strict=True):
        g = abs(gradient.double().numpy())
        a = rows[matrix.layer]
        score = (1 - lam) * g + lam * (a @ g if matrix.neuron_axis == 0 else g @ a.T)
        count = round(fraction * g.size)
        assert int(mask.sum()) == count
        # Within rounding of the smallest score that is in, either may be.
        smallest = np.sort(score, axis=None)[-count]
        clear = abs(score - smallest) > 1e-5 * smallest
        assert clear.mean() > 0.9 or not g.any()
        assert np.array_equal(mask.numpy()[clear], (score > smallest)[clear])
        assert torch.equal(matrix.view(matrix.parameter.grad), gradient * mask)


@contextmanager
def watched_steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Tensor]]:
    """Check in every masked step that what the mask leaves out keeps its bits; yield the masks."""
    masks: list[Tensor] = []
    step = MaskedAdamW._step_parameter

    def checked(self: Any, parameter: Any, group: Any) -> None:
        before, source, seen = parameter.detach().clone(), self.masks, []

        class Spy:
            def get(self, asked: Any) -> Tensor | None:
                seen.append(source.get(asked))
                return seen[-1]

        self.masks = Spy()
        step(self, parameter, group)
        self.masks = source
        if seen[0] is not None:
            masks.append(seen[0])
            assert torch.equal(parameter[~seen[0]], before[~seen[0]])
            assert not torch.equal(parameter, before)
            assert parameter.isfinite().all()

    with monkeypatch.context() as patch:
        patch.setattr(MaskedAdamW, "_step_parameter", checked)
        yield masks


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("fnsft ")]
    return line
