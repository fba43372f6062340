"""Tokens and activation dumps: what is stored, and that batching does not change it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from models import tiny_tokenizer
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from fnsft.artifacts.activations import open_dump, unpack_bits
from fnsft.artifacts.storage import write_jsonl
from fnsft.cli.main import main
from fnsft.data.formats import Example
from fnsft.data.tokens import encode, load_split
from fnsft.errors import InputError

ROWS = [
    {"prompt": f"Question: {'how many ' * (i % 5)}{i}?\nAnswer:", "completion": f" {i}\n#### {i}"}
    for i in range(23)
]


@pytest.fixture
def split(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "train.jsonl", ROWS)
    return tmp_path / "train.jsonl"


def capture(model: Path, split: Path, output: Path, *flags: str) -> int:
    paths = ["--model", str(model), "--data", str(split), "--output", str(output)]
    return main(["capture", *paths, *flags])


def bits_of(folder: Path, layer: int) -> np.ndarray:
    dump = open_dump(folder)
    bits = np.concatenate([unpack_bits(block) for block in dump.layer(layer)], axis=1)
    return bits[:, : dump.shape.n_tokens].astype(bool)


def test_a_dump_holds_the_sign_of_every_gate(tiny_model_dir: Path, split: Path) -> None:
    """Against a forward pass of every sample alone, with the gate computed by hand."""
    output = split.parent / "dump"
    assert capture(tiny_model_dir, split, output) == 0
    dump = open_dump(output)
    samples = load_split(split, tiny_tokenizer(), 1024).samples
    assert dump.token_ids.tolist() == [token for sample in samples for token in sample.ids]
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir).eval()
    for layer, block in enumerate(model.model.layers):
        gates: list[torch.Tensor] = []
        handle = block.mlp.register_forward_pre_hook(
            lambda module, inputs, gates=gates: gates.append(module.gate_proj(inputs[0])[0] > 0)
        )
        with torch.no_grad():
            for sample in samples:
                model(input_ids=torch.tensor([sample.ids]))
        handle.remove()
        assert (bits_of(output, layer) == torch.cat(gates).T.numpy()).all()


def test_the_bits_do_not_depend_on_the_batch(tiny_model_dir: Path, split: Path) -> None:
    for size in ("1", "4", "23"):
        assert capture(tiny_model_dir, split, split.parent / size, "--batch-size", size) == 0
    for layer in (0, 1):
        alone = bits_of(split.parent / "1", layer)
        assert (bits_of(split.parent / "4", layer) == alone).all()
        assert (bits_of(split.parent / "23", layer) == alone).all()


def test_a_layer_in_several_blocks_opens_with_safetensors(
    tiny_model_dir: Path, split: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture(tiny_model_dir, split, split.parent / "whole")
    monkeypatch.setattr("fnsft.artifacts.activations.MAX_BLOCK_TOKENS", 128)
    capture(tiny_model_dir, split, split.parent / "parts")
    with safe_open(split.parent / "parts/layer_000.safetensors", framework="numpy") as file:
        assert len(file.keys()) > 2
    for layer in (0, 1):
        whole = bits_of(split.parent / "whole", layer)
        assert (bits_of(split.parent / "parts", layer) == whole).all()


def test_training_ids_are_what_generation_meets() -> None:
    tokenizer = tiny_tokenizer()
    sample = encode(tokenizer, Example("Question: 1?\nAnswer:", " 1"))
    assert list(sample.prompt_ids) == tokenizer("Question: 1?\nAnswer:")["input_ids"]
    assert sample.completion_ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(sample.completion_ids[:-1]) == " 1"


def test_samples_that_are_too_long_are_left_out_and_counted(split: Path) -> None:
    tokenizer = tiny_tokenizer()
    everything = load_split(split, tokenizer, 1024)
    limit = max(len(sample.ids) for sample in everything.samples) - 1
    some = load_split(split, tokenizer, limit)
    assert some.n_left_out > 0
    assert len(some.samples) + some.n_left_out == len(ROWS)
    assert all(len(sample.ids) <= limit for sample in some.samples)
    with pytest.raises(InputError, match="at most max_tokens=3 tokens, found the shortest"):
        load_split(split, tokenizer, 3)


def test_a_row_without_its_fields_is_named(tiny_model_dir: Path, tmp_path: Path, capsys) -> None:
    write_jsonl(tmp_path / "bad.jsonl", [ROWS[0], {"prompt": "?"}])
    assert capture(tiny_model_dir, tmp_path / "bad.jsonl", tmp_path / "dump") == 2
    assert "line 2: the field 'completion' is missing" in capsys.readouterr().err
    assert not (tmp_path / "dump").exists()


def test_nan_activations_are_named_and_leave_nothing(
    tiny_model_dir: Path, split: Path, tmp_path: Path, capsys
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    with torch.no_grad():
        model.model.layers[1].mlp.gate_proj.weight[0, 0] = float("nan")
    model.save_pretrained(tmp_path / "nan")
    tiny_tokenizer().save_pretrained(tmp_path / "nan")
    assert capture(tmp_path / "nan", split, tmp_path / "dump") == 2
    assert "layer 1" in capsys.readouterr().err
    assert not (tmp_path / "dump").exists()
    assert not list(tmp_path.glob(".*partial*"))


def test_a_disk_that_cannot_hold_the_dump_is_noticed_first(
    tiny_model_dir: Path, split: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    from shutil import _ntuple_diskusage

    full = _ntuple_diskusage(10**6, 10**6, 10)
    monkeypatch.setattr("shutil.disk_usage", lambda path: full)
    assert capture(tiny_model_dir, split, tmp_path / "dump") == 2
    assert not (tmp_path / "dump").exists()
    assert capsys.readouterr().err.strip().count("\n") <= 1


def test_the_manifest_has_the_cost(tiny_model_dir: Path, split: Path) -> None:
    capture(tiny_model_dir, split, split.parent / "dump")
    manifest = json.loads((split.parent / "dump.manifest.json").read_text())
    assert manifest["wall_seconds"] > 0
    assert manifest["peak_memory_mib"] > 10
