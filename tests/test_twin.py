"""The random-initialised twin of a model."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from fnsft.artifacts.identity import model_identity
from fnsft.cli.main import main
from fnsft.data.tokens import load_tokenizer


def make_twin(model: Path, output: Path, *flags: str) -> int:
    return main(["twin", "--model", str(model), "--output", str(output), *flags])


def test_a_twin_has_the_shape_and_the_tokenizer_and_other_weights(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    # The fixture is itself drawn with seed 0.
    assert make_twin(tiny_model_dir, tmp_path / "twin", "--seed", "1") == 0
    model, twin = (
        AutoModelForCausalLM.from_pretrained(folder)
        for folder in (tiny_model_dir, tmp_path / "twin")
    )
    weights, drawn = model.state_dict(), twin.state_dict()
    assert {name: w.shape for name, w in weights.items()} == {n: w.shape for n, w in drawn.items()}
    matrices = [name for name, weight in weights.items() if weight.dim() == 2]
    assert len(matrices) > 10
    for name in matrices:
        assert not torch.equal(weights[name], drawn[name])
        # Drawn as the architecture draws them: N(0, initializer_range²).
        assert drawn[name].std() == pytest.approx(model.config.initializer_range, rel=0.1)
    text = "Ada has 3 apples."
    assert load_tokenizer(tiny_model_dir)(text) == load_tokenizer(tmp_path / "twin")(text)


def test_the_seed_decides_the_weights(tiny_model_dir: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert make_twin(tiny_model_dir, tmp_path / name, "--seed", str(seed)) == 0
    a, b, c = (model_identity(tmp_path / name) for name in "abc")
    assert a == b != c
    assert a != model_identity(tiny_model_dir)


def test_a_folder_without_a_model_has_no_twin(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert make_twin(tmp_path, tmp_path / "twin") == 2
    assert "expected a config.json, found none" in capsys.readouterr().err
    assert not (tmp_path / "twin").exists()
