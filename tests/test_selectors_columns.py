"""SSU: scores of columns written out slowly, and what they keep still."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import model_of
from runs import first_samples, train, weights
from transformers import AutoModelForCausalLM

from fnsft.architectures import mlp_matrices
from fnsft.config.stages import TrainSettings
from fnsft.data.tokens import load_split, load_tokenizer
from fnsft.errors import InputError
from fnsft.neurons.strength import input_norms
from fnsft.training.drawn_sets import column_scores

FRACTION = 0.3
ROLES = ("gate", "up", "down")


@pytest.fixture
def loaded(tiny_model_dir: Path, data: Path) -> tuple[Any, list[list[int]]]:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    samples = load_split(data / "train.jsonl", load_tokenizer(tiny_model_dir), 1024).samples
    return model, [list(sample.ids) for sample in samples]


def slow_norms(model: Any, samples: list[list[int]]) -> list[dict[str, np.ndarray]]:
    """‖x_j‖₂ over all tokens, of what each projection reads."""
    seen: list[dict[str, list[Any]]] = [{role: [] for role in ROLES} for _ in model.model.layers]
    for layer, kept in zip(model.model.layers, seen, strict=True):
        for role in ROLES:
            getattr(layer.mlp, f"{role}_proj").register_forward_pre_hook(
                lambda _, args, kept=kept[role]: kept.extend(args[0][0].detach().double().numpy())
            )
    for sample in samples:
        model(torch.tensor([sample]))
    return [{r: np.sqrt(sum(x**2 for x in kept[r])) for r in ROLES} for kept in seen]


def protected_by(scores: np.ndarray, fraction: float) -> set[int]:
    n = scores.size
    return set(np.argsort(scores)[round(fraction * n) :].tolist())


def test_norms_are_of_what_every_projection_reads(loaded) -> None:
    model, samples = loaded
    expected, matrices = slow_norms(model, samples), mlp_matrices(model)
    for matrix, norms in zip(matrices, input_norms(model, samples, matrices), strict=True):
        np.testing.assert_allclose(norms, expected[matrix.layer][matrix.role], rtol=1e-4)


def test_a_column_s_score_sums_wanda_s_of_its_entries(loaded) -> None:
    model, samples = loaded
    norms = input_norms(model, samples, mlp_matrices(model))
    for matrix in mlp_matrices(model):
        found = column_scores(matrix, norms, TrainSettings("ssu"))
        weight = matrix.parameter.detach().double().abs()  # [out, in]
        x = norms[matrix.index]
        expected = [sum(float(w) for w in weight[:, j]) * x[j] for j in range(weight.shape[1])]
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        plain = column_scores(matrix, None, TrainSettings("ssu", column_score="magnitude"))
        np.testing.assert_allclose(plain * x, expected, rtol=1e-6)


@pytest.mark.parametrize("family", ["GPT2", "Phi3"])
def test_columns_are_inputs_in_transposed_and_fused_matrices_too(family) -> None:
    model = model_of(family)
    norms = input_norms(model, [[3, 4, 5, 6], [7, 8]], mlp_matrices(model))
    for matrix in mlp_matrices(model):
        x = norms[matrix.index]
        assert matrix.n_inputs == x.size
        weight = matrix.view(matrix.parameter.detach()).double().abs()
        weight = weight.T if family == "GPT2" else weight
        found = column_scores(matrix, norms, TrainSettings("ssu"))
        np.testing.assert_allclose(found, weight.sum(0).numpy() * x, rtol=1e-6)


@pytest.mark.parametrize("polarity", ["protect", "train"])
def test_the_columns_that_matter_most_to_the_calibration_samples_stay_or_alone_train(
    tiny_model_dir: Path, data: Path, tmp_path: Path, loaded, polarity: str
) -> None:
    kept = first_samples(data, 4, tmp_path / "kept")
    settings: dict[str, Any] = {"method": "ssu", "fraction": FRACTION, "calibration": kept}
    settings |= {"epochs": 2, "weight_decay": 0.1, "polarity": polarity}
    assert train(tiny_model_dir, data, tmp_path / "run", **settings) == 0
    before, after = weights(tiny_model_dir), weights(tmp_path / "run")
    model, samples = loaded
    norms = slow_norms(model, samples[:4])
    for matrix in mlp_matrices(model):
        sums = before[matrix.name].double().abs().sum(0).numpy()
        scores = sums * norms[matrix.layer][matrix.role]
        moved = (before[matrix.name] != after[matrix.name]).any(0).numpy()
        assert moved.sum() == round(FRACTION * moved.size)
        if polarity == "protect":
            assert set(np.flatnonzero(~moved)) == protected_by(scores, FRACTION), matrix.name
        else:
            top = protected_by(scores, 1 - round(FRACTION * moved.size) / moved.size)
            assert set(np.flatnonzero(moved)) == top, matrix.name
    other = "model.norm.weight"
    assert torch.equal(before[other], after[other]) == (polarity == "train")
    inputs = json.loads((tmp_path / "run.manifest.json").read_text())["inputs"]
    assert "calibration" in inputs


def test_ssu_s_controls_choose_other_columns_and_need_no_samples(
    tiny_model_dir: Path, data: Path, tmp_path: Path
) -> None:
    moved = {}
    for score in ("wanda", "magnitude", "random"):
        output = tmp_path / score
        given = {"method": "ssu", "column_score": score, "fraction": 0.5}
        assert train(tiny_model_dir, data, output, **given) == 0
        before, after = weights(tiny_model_dir), weights(output)
        names = [name for name in before if ".mlp." in name and "weight" in name]
        moved[score] = [(before[n] != after[n]).any(0) for n in names]
    shares = [
        float((one == other).float().mean())
        for a, b in (("wanda", "magnitude"), ("wanda", "random"), ("magnitude", "random"))
        for one, other in zip(moved[a], moved[b], strict=True)
    ]
    assert max(shares) < 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "random", "column_score": "random"}, "column_score: is about ssu, found"),
        ({"method": "ssu", "applies_to": "gradient"}, "'ssu' leaves entries"),
    ],
)
def test_a_selector_of_columns_refuses_what_it_cannot_be(given, message) -> None:
    with pytest.raises(InputError, match=message):
        TrainSettings(**given)


def test_calibration_samples_that_nobody_looks_at_are_refused(
    tiny_model_dir: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for given in ({"method": "sft"}, {"method": "ssu", "column_score": "random"}):
        assert train(tiny_model_dir, data, tmp_path / "run", calibration=data, **given) == 2
        said = capsys.readouterr().err
        assert "--calibration: is about ssu" in said and said.count("\n") == 1
