"""Merged and exported models: plain folders that compute what the tuned model computed."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import logits, model_of, with_adapter
from models import write_tiny_model
from peft import LoraConfig, PeftModel, get_peft_model
from runs import train
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from fnsft.architectures import site_widths
from fnsft.artifacts.forward_masks import FILE, write_forward_mask
from fnsft.artifacts.manifest import manifest_path
from fnsft.artifacts.storage import read_json, write_json
from fnsft.cli.main import main
from fnsft.evaluation.loading import load_model
from fnsft.masks.forward import forward_mask, masked
from fnsft.reporting.model_card import model_card

TITLES = ("Data", "Hyperparameters", "Results", "Versions")


def merge(folder: Path, output: Path, *flags: str) -> int:
    return main(["merge", str(folder), "--output", str(output), *flags])


def plain_logits(folder: Path) -> Tensor:
    """What transformers alone makes of a folder."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    return logits(model).float()


def write_adapter(base: Path, folder: Path, **options: Any) -> PeftModel:
    """Save an adapter whose B is not zero; return the model with it."""
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = LoraConfig(**{"r": 3, "target_modules": "all-linear"} | options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tied weights
        adapted = get_peft_model(model, config).eval()
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.2)
    adapted.save_pretrained(folder)
    return adapted


def write_mask(folder: Path, model: Any, mode: Any, site: Any = "intermediate") -> Any:
    numbers = np.random.default_rng(0)
    chosen = [numbers.random(width) < 0.4 for width in site_widths(model)[site]]
    mask = forward_mask(site, chosen, mode)
    write_forward_mask(folder, mask)
    return mask


@pytest.mark.parametrize("mode", [None, "lesion", "preserve", "amplify"])
def test_a_merged_adapter_computes_bit_for_bit_what_the_tuned_model_does(
    tiny_model_dir: Path, tmp_path: Path, mode: str | None
) -> None:
    adapter, merged = tmp_path / "adapter", tmp_path / "merged"
    adapted = write_adapter(tiny_model_dir, adapter)
    if mode:  # factors of 0, 1 and 2 round nothing
        write_mask(adapter, adapted.get_base_model(), mode)
    assert merge(adapter, merged) == 0
    found = plain_logits(merged)
    assert torch.equal(found, logits(load_model(adapter, "float32")))
    assert not torch.allclose(found, plain_logits(tiny_model_dir), atol=1e-2)
    if mode is None:
        torch.testing.assert_close(found, logits(adapted), rtol=1e-5, atol=1e-5)


def test_a_run_of_fnsft_becomes_a_folder_that_needs_neither_peft_nor_fnsft(
    tiny_model_dir: Path,
    data: Path,
    networks: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, merged = tmp_path / "run", tmp_path / "merged"
    settings = {"method": "lora", "mask_mode": "lesion", "learning_rate": 1e-2}
    assert train(tiny_model_dir, data, run, networks=networks, **settings) == 0
    (run / "prompt_format.json").write_text('{"template": "basic", "kind": "plain"}')
    capsys.readouterr()
    assert merge(run, merged) == 0
    error = capsys.readouterr().err
    assert error.startswith(f"{merged}: ") and error.count("\n") == 1
    assert "parameters in float32, with the adapter and the forward mask (lesion) merged" in error
    assert torch.equal(plain_logits(merged), logits(load_model(run, "float32")))
    names = {path.name for path in merged.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors"} < names
    assert not {name for name in names if "adapter" in name} | {FILE} & names
    for name in ("training.json", "prompt_format.json"):
        assert (merged / name).read_bytes() == (run / name).read_bytes()
    text = "Ada has 3 apples"
    here, there = (AutoTokenizer.from_pretrained(folder)(text) for folder in (merged, run))
    assert here["input_ids"] == there["input_ids"]
    assert read_json(manifest_path(merged))["notes"]["merged"][0] == "adapter"


def test_the_card_of_a_model_that_was_merged_and_exported_tells_of_its_training(
    tiny_model_dir: Path, data: Path, tmp_path: Path
) -> None:
    run, merged, half = (tmp_path / name for name in ("run", "merged", "half"))
    assert train(tiny_model_dir, data, run, method="lora", learning_rate=3e-3) == 0
    own = {"path": str(tmp_path / "mine.csv"), "sha256": "0" * 64}
    notes = {"source": str(tmp_path / "mine.csv"), "train_samples": 1232}
    write_json(run / "data.manifest.json", {"inputs": {"data": own}, "notes": notes})
    assert merge(run, merged) == 0
    assert main(["export", str(merged), "--dtype", "float16", "--output", str(half)]) == 0
    told = model_card(run, "ann/tuned", "org/base")

    def of_training(card: str) -> list[str]:
        return [card.split(f"## {title}")[1].split("##")[0] for title in TITLES]

    for folder in (merged, half):
        assert of_training(model_card(folder, "ann/tuned", "org/base")) == of_training(told)
        for file in folder.glob("*.json"):
            assert str(tmp_path) not in file.read_text(), file
    assert "| learning rate | 0.003 |" in told and "mine.csv" in told


def test_nothing_merged_takes_the_place_of_what_it_is_made_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, adapter, other = tmp_path / "base", tmp_path / "adapter", tmp_path / "other"
    write_tiny_model(base)
    write_adapter(base, adapter)
    write_tiny_model(other, seed=3)
    folders = (base, adapter, other)
    for folder in folders:
        write_json(manifest_path(folder), {})  # a stage made it, which may be replaced
    before = [weights_of(folder) for folder in folders]
    capsys.readouterr()
    for words in (
        ["merge", str(adapter), "--output", str(adapter)],
        ["merge", str(adapter), "--output", str(base)],
        ["export", str(adapter), "--output", str(base)],
        ["merge", str(adapter), "--base", str(other), "--output", str(other)],
        ["export", str(other), "--output", str(other)],
    ):
        assert main(words) == 2
        error = capsys.readouterr().err
        assert "name another output" in error and error.count("\n") == 1
    assert [weights_of(folder) for folder in folders] == before


def weights_of(folder: Path) -> list[bytes]:
    return [file.read_bytes() for file in sorted(folder.glob("*.safetensors"))]


def test_the_weights_of_a_full_model_take_its_mask_in(tiny_model_dir: Path, tmp_path: Path) -> None:
    tuned, merged = tmp_path / "tuned", tmp_path / "merged"
    write_tiny_model(tuned, seed=3)
    write_mask(tuned, AutoModelForCausalLM.from_pretrained(tuned), "preserve", "output")
    assert merge(tuned, merged) == 0
    assert torch.equal(plain_logits(merged), logits(load_model(tuned, "float32")))
    assert not torch.equal(plain_logits(merged), plain_logits(tuned))


@pytest.mark.parametrize("family", ["Mixtral", "DeepseekV3"])
def test_the_experts_of_a_mixture_take_a_mask_in(family: str, tmp_path: Path) -> None:
    tuned, merged = tmp_path / "tuned", tmp_path / "merged"
    model = model_of(family)
    model.save_pretrained(tuned)
    mask = write_mask(tuned, model, "lesion")
    with masked(model, mask):
        expected = logits(model)
    assert merge(tuned, merged) == 0
    torch.testing.assert_close(plain_logits(merged), expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(logits(model), expected, atol=1e-2)


def test_an_adapter_on_a_base_of_4_bits_is_merged_into_the_rounded_weights_it_was_trained_on(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    adapter = tmp_path / "adapter"
    write_adapter(tiny_model_dir, adapter)
    assert merge(adapter, tmp_path / "unpacked") == 0
    write_json(adapter / "quantised_base.json", {"load_in_4bit": True})
    assert merge(adapter, tmp_path / "merged") == 0
    trained = logits(load_model(adapter, "float32"))
    torch.testing.assert_close(plain_logits(tmp_path / "merged"), trained, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(plain_logits(tmp_path / "unpacked"), trained, atol=1e-2)
    assert "quantization_config" not in read_json(tmp_path / "merged" / "config.json")


def test_a_base_of_8_bits_is_unpacked_to_steps_of_a_127th_of_each_rows_largest_weight(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    adapter = tmp_path / "adapter"
    write_adapter(tiny_model_dir, adapter)
    assert merge(adapter, tmp_path / "unpacked") == 0
    write_json(adapter / "quantised_base.json", {"load_in_8bit": True})
    assert merge(adapter, tmp_path / "merged") == 0
    name = "model.layers.0.mlp.up_proj.weight"
    folders = (tiny_model_dir, tmp_path / "unpacked", tmp_path / "merged")
    base, unpacked, found = (load_file(folder / "model.safetensors")[name] for folder in folders)
    half = base.half().float()  # what bitsandbytes rounds
    step = half.abs().amax(dim=1, keepdim=True) / 127
    expected = (half / step).round() * step + (unpacked - base)
    apart = (found - expected).abs() / step
    assert apart.median() < 1e-3 and apart.max() < 1.01, "half-way cases may go either way"


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_an_adapter_on_one_end_of_tied_embeddings_leaves_the_other_end_alone(
    tmp_path: Path, target: str
) -> None:
    base, adapter, merged = tmp_path / "base", tmp_path / "adapter", tmp_path / "merged"
    model_of("Llama", tie_word_embeddings=True).save_pretrained(base)
    (base / "tokenizer_config.json").write_text("{}")
    adapted = write_adapter(base, adapter, target_modules=[target, "q_proj"])
    assert merge(adapter, merged) == 0
    torch.testing.assert_close(plain_logits(merged), logits(adapted), rtol=1e-5, atol=1e-4)
    before, after = load_file(base / "model.safetensors"), load_file(merged / "model.safetensors")
    same = torch.equal(before["model.embed_tokens.weight"], after["model.embed_tokens.weight"])
    assert same == (target == "lm_head")
    assert read_json(merged / "config.json")["tie_word_embeddings"] is False


def test_tied_embeddings_stay_tied_where_the_adapter_leaves_both_alone(tmp_path: Path) -> None:
    base, adapter, merged = tmp_path / "base", tmp_path / "adapter", tmp_path / "merged"
    model_of("Llama", tie_word_embeddings=True).save_pretrained(base)
    adapted = write_adapter(base, adapter)
    assert merge(adapter, merged) == 0
    torch.testing.assert_close(plain_logits(merged), logits(adapted), rtol=1e-5, atol=1e-4)
    assert "lm_head.weight" not in load_file(merged / "model.safetensors")


def test_a_narrower_type_rounds_the_merged_weights_once(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    adapter = tmp_path / "adapter"
    write_adapter(tiny_model_dir, adapter)
    found = {}
    for dtype in ("float32", "bfloat16"):
        assert merge(adapter, tmp_path / dtype, "--dtype", dtype) == 0
        found[dtype] = load_file(tmp_path / dtype / "model.safetensors")
    for name, tensor in found["float32"].items():
        assert torch.equal(tensor.to(torch.bfloat16), found["bfloat16"][name]), name


def test_another_place_of_the_base_can_be_named(tiny_model_dir: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    write_adapter(tiny_model_dir, adapter)
    expected = logits(load_model(adapter, "float32"))
    config = read_json(adapter / "adapter_config.json")
    write_json(adapter / "adapter_config.json", config | {"base_model_name_or_path": "gone/far/b"})
    assert merge(adapter, tmp_path / "first") == 2
    assert merge(adapter, tmp_path / "merged", "--base", str(tiny_model_dir)) == 0
    assert torch.equal(plain_logits(tmp_path / "merged"), expected)


def test_a_base_whose_generation_settings_contradict_themselves_can_be_saved(
    tmp_path: Path,
) -> None:
    base, adapter, merged = tmp_path / "base", tmp_path / "adapter", tmp_path / "merged"
    write_tiny_model(base)
    write_json(base / "generation_config.json", {"temperature": 0.6, "top_p": 0.9})
    write_adapter(base, adapter)
    assert merge(adapter, merged) == 0
    found = read_json(merged / "generation_config.json")
    assert (found["temperature"], found["do_sample"]) == (0.6, True)


def test_export_writes_any_model_in_shards_that_transformers_reads(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "export"
    flags = ["--max-shard-gib", "0.00005", "--output", str(output)]
    assert main(["export", str(tiny_model_dir), *flags]) == 0
    assert "parameters in float32\n" in capsys.readouterr().err
    assert len(list(output.glob("model-*.safetensors"))) > 1
    assert torch.equal(plain_logits(output), plain_logits(tiny_model_dir))
    half = tmp_path / "half"
    flags = ["--dtype", "bfloat16", "--output", str(half)]
    assert main(["export", str(output), *flags]) == 0
    again = tmp_path / "again"
    assert main(["export", str(half), "--output", str(again)]) == 0
    assert "in bfloat16" in capsys.readouterr().err
    assert torch.equal(plain_logits(again), plain_logits(half))


def test_bad_input_is_refused_in_one_line_and_leaves_nothing(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter, other, output = tmp_path / "adapter", tmp_path / "other", tmp_path / "out"
    write_adapter(tiny_model_dir, adapter)
    model_of("GPT2").save_pretrained(other)
    with_adapter(model_of("GPT2")).save_pretrained(tmp_path / "of-gpt2")
    odd = tmp_path / "odd"
    odd.mkdir()
    write_json(odd / "adapter_config.json", {"peft_type": "PREFIX_TUNING"})
    masked_wrongly = tmp_path / "masked"
    write_tiny_model(masked_wrongly)
    write_mask(masked_wrongly, model_of("Llama", intermediate_size=96), "lesion")
    empty = tmp_path / "empty"
    empty.mkdir()
    large = tmp_path / "large"
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    with torch.no_grad():
        model.lm_head.weight[0, 0] = 70_000
    model.save_pretrained(large)
    base = ["--base", str(tiny_model_dir)]
    cases = [
        (["merge", str(tiny_model_dir)], "nothing to merge"),
        (["merge", str(adapter), "--base", str(other)], "does not fit"),
        (["merge", str(tmp_path / "of-gpt2"), *base], "does not fit"),
        (["merge", str(odd), *base], "peft_type: expected LORA, found PREFIX_TUNING"),
        (["merge", str(masked_wrongly)], f"{FILE}: forward mask: layer 0: expected 64 channels"),
        (["merge", str(masked_wrongly), *base], "base: expected an adapter, found a model"),
        (
            ["export", str(large), "--dtype", "float16"],
            "lm_head.weight: expected weights up",
        ),
        (["export", str(empty)], "expected a config.json or adapter_config.json"),
        (["export", str(tmp_path / "nowhere")], "no such file or folder"),
    ]
    capsys.readouterr()
    for words, message in cases:
        assert main([*words, "--output", str(output)]) == 2, words
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1, error
        assert not output.exists() and not list(tmp_path.glob(".*partial*"))
