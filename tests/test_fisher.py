"""Child-Tuning-D: Fisher information against gradients of one sample after the other."""

from pathlib import Path

import pytest
import torch
from runs import train, weights
from transformers import AutoModelForCausalLM

from fnsft.architectures import mlp_matrices
from fnsft.data.tokens import load_split, load_tokenizer
from fnsft.masks.fisher import summed_squares
from fnsft.masks.selection import top_fraction
from fnsft.training.drawn_masks import draw_masks, read_masks, write_masks


def fisher(model_dir: Path, data: Path, n: int | None = None) -> dict[str, torch.Tensor]:
    """Σ (∂ log p(completion | prompt) / ∂w)², token by token of one unpadded sample at a time."""
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    samples = load_split(data / "train.jsonl", load_tokenizer(model_dir), 1024).samples[:n]
    sums = {name: torch.zeros_like(weight) for name, weight in model.named_parameters()}
    for sample in samples:
        model.zero_grad()
        logits = model(torch.tensor([sample.ids])).logits[0]
        first = len(sample.prompt_ids)
        log_likelihood = sum(
            logits[position - 1].log_softmax(-1)[sample.ids[position]]
            for position in range(first, len(sample.ids))
        )
        log_likelihood.backward()
        for name, weight in model.named_parameters():
            sums[name] += weight.grad**2
    return sums


@pytest.fixture
def loaded(tiny_model_dir: Path, data: Path) -> tuple:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    samples = load_split(data / "train.jsonl", load_tokenizer(tiny_model_dir), 1024).samples
    return model, mlp_matrices(model), samples


def test_fisher_information_sums_the_squares_of_every_sample_s_gradient(
    loaded: tuple, tiny_model_dir: Path, data: Path
) -> None:
    model, matrices, samples = loaded
    model.train()
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5  # which it must not see
    found = summed_squares(model, matrices, samples)
    expected = fisher(tiny_model_dir, data)
    for matrix, information in zip(matrices, found, strict=True):
        torch.testing.assert_close(information, expected[matrix.name], rtol=1e-3, atol=1e-9)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_drawn_masks_are_the_same_after_writing_and_reading(loaded: tuple, tmp_path: Path) -> None:
    model, matrices, samples = loaded
    masks = draw_masks(model, matrices, samples, 0.3, seed=0)
    write_masks(tmp_path, matrices, masks, main=True)
    read = read_masks(tmp_path, matrices)
    for one, other in zip(masks, read, strict=True):
        mask = one.unpacked()
        assert torch.equal(mask, other.unpacked())
        assert int(mask.sum()) == round(0.3 * mask.numel())


@pytest.mark.parametrize("n", [None, 3])
def test_child_tuning_d_moves_the_same_entries_in_all_steps(
    tiny_model_dir: Path, data: Path, tmp_path: Path, n: int | None
) -> None:
    settings = {"method": "child-tuning-d", "fraction": 0.3, "applies_to": "update", "epochs": 3}
    settings |= {"fisher_samples": n} if n else {}
    assert train(tiny_model_dir, data, tmp_path / "run", weight_decay=0.1, **settings) == 0
    before, after = weights(tiny_model_dir), weights(tmp_path / "run")
    information = fisher(tiny_model_dir, data, n)
    for matrix in mlp_matrices(AutoModelForCausalLM.from_pretrained(tiny_model_dir)):
        moved = before[matrix.name] != after[matrix.name]
        expected = top_fraction(information[matrix.name], 0.3)
        # Rounding may swap entries at the threshold.
        assert int((moved ^ expected).sum()) <= 2
        assert int(moved.sum()) == round(0.3 * moved.numel())
