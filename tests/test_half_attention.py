"""Attention that takes half precision alone, as flash attention does, in every pass of a run."""

from pathlib import Path
from typing import Any

import pytest
import torch
from runs import train
from transformers import AttentionInterface
from transformers.integrations.flash_attention import get_target_dtype
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from fnsft.training import loading
from fnsft.training.loading import outside_of_training

NAME = "half_alone"


def half_alone(module: Any, query: torch.Tensor, *arguments: Any, **given: Any) -> Any:
    """Take what transformers would cast for flash attention, and refuse what it refuses."""
    if (get_target_dtype(query, module) or query.dtype) not in (torch.float16, torch.bfloat16):
        raise RuntimeError("FlashAttention only support fp16 and bf16 data type")
    return sdpa_attention_forward(module, query, *arguments, **given)


@pytest.fixture(autouse=True)
def flash(monkeypatch: pytest.MonkeyPatch) -> None:
    AttentionInterface.register(NAME, half_alone)
    monkeypatch.setattr(loading, "FLASH", NAME)
    monkeypatch.setattr(loading, "attention_of", lambda settings, device: NAME)


RUNS: dict[str, dict[str, Any]] = {
    "active-neurons": {"method": "active-neurons", "average_with_start": 0.5},
    "ssu": {"method": "ssu"},
    "child-tuning-d": {"method": "child-tuning-d", "fisher_samples": 2},
    "networks": {"mask_mode": "train-only"},
}


@pytest.mark.parametrize("name", RUNS)
def test_every_pass_of_a_run_under_autocast_is_one_that_flash_attention_takes(
    tiny_model_dir: Path, data: Path, tmp_path: Path, name: str
) -> None:
    settings = {"bf16_autocast": True, "max_steps": 1} | RUNS[name]
    assert train(tiny_model_dir, data, tmp_path / "run", **settings) == 0


def test_attention_gives_way_to_float32_alone_and_comes_back(tiny_model_dir: Path) -> None:
    files: Any = type("Files", (), {"model": tiny_model_dir})
    device: Any = type("Arguments", (), {"device": torch.device("cpu")})
    for dtype, inside in (("float32", "sdpa"), ("bfloat16", NAME)):
        model = loading.load_base(files, loading.TrainSettings(method="sft", dtype=dtype), device)
        assert model.config._attn_implementation == NAME
        with outside_of_training(model):
            assert model.config._attn_implementation == inside
        assert model.config._attn_implementation == NAME
