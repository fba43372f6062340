"""The memory estimate: exact counts where they are countable, and peaks of real runs."""

import contextlib
import io
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES, MOE_FAMILIES, model_of
from models import tiny_tokenizer
from peft import get_peft_model
from runs import weights, write_prepared
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from fnsft.architectures import mlp_matrices
from fnsft.architectures.blocks import linear_widths
from fnsft.architectures.targets import lora_targets
from fnsft.cli.main import main
from fnsft.config.stages import TrainSettings
from fnsft.data.tokens import load_split, load_tokenizer
from fnsft.masks.masker import GradientMasker
from fnsft.masks.policies import Highest
from fnsft.training.arguments import lora_config
from fnsft.training.memory import MemoryEstimate, estimate, shape_of
from fnsft.training.networks import trained_share
from fnsft.training.run_table import warning_lines

# What the estimate may be off by, of the peak of all tensors of a run.
TOO_LOW, TOO_HIGH = 0.92, 1.20
RUN = {"epochs": 1, "batch_size": 8, "micro_batch_size": 4, "validations": 1}


class Peak(TorchDispatchMode):
    """Adds up the storages of all tensors that operators return, while they live."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, tuple[StorageWeakRef, int]] = {}
        self.n_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        returned = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(returned):
            if isinstance(tensor, torch.Tensor) and tensor.device.type == "cpu":
                storage = tensor.untyped_storage()
                self.live[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        if sum(n for _, n in self.live.values()) > self.n_bytes:
            self.live = {k: entry for k, entry in self.live.items() if not entry[0].expired()}
            self.n_bytes = max(self.n_bytes, sum(n for _, n in self.live.values()))
        return returned


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight layers, so that what layers keep outweighs the loss."""
    folder, tokenizer = tmp_path_factory.mktemp("memory") / "model", tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def long_samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("long")
    row = {"prompt": "Question: " + "a b " * 60 + "\nAnswer:", "completion": " 1 2" * 20}
    return write_prepared(folder, {"train": [row] * 8, "validation": [row] * 8})


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"dtype": "bfloat16"},
        {"bf16_autocast": True},
        {"gradient_checkpointing": True},
        {"attention": "eager"},
        {"attention": "eager", "bf16_autocast": True},
        {"method": "lora", "dtype": "bfloat16"},
        {"method": "random", "applies_to": "update"},
        {"method": "projections-only"},
        {"method": "collab", "affinity": "dense"},
        {"method": "ssu", "fraction": 0.2, "compact": True, "calibration_samples": 2},
        {"method": "ssu", "fraction": 0.8, "compact": True, "polarity": "train"},
    ],
    ids=lambda given: "-".join(map(str, given.values())) or "sft",
)
def test_the_estimate_is_near_the_peak_of_a_run(
    model: Path, long_samples: Path, tmp_path: Path, given: dict[str, Any]
) -> None:
    settings = TrainSettings(**RUN | given)
    split = load_split(long_samples / "train.jsonl", load_tokenizer(model), 1024)
    longest = max(len(sample.ids) for sample in split.samples)
    eager = settings.attention == "eager"
    expected = estimate(shape_of(model, settings), settings, longest, eager=eager)
    paths = ["--model", model, "--data", long_samples, "--output", tmp_path / "run"]
    words = ["train", *map(str, paths), *shlex.split(settings.flags())]
    with Peak() as peak, contextlib.redirect_stderr(io.StringIO()) as said:
        assert main(words) == 0, said.getvalue()
    assert TOO_LOW < expected.total / peak.n_bytes < TOO_HIGH
    assert "memory         about" in said.getvalue()


@pytest.mark.parametrize("unmasked", ["freeze", "train"])
def test_the_estimate_of_a_compact_run_is_near_its_peak_and_counts_its_neurons(
    model: Path, long_samples: Path, tmp_path: Path, unmasked: Any
) -> None:
    networks = tmp_path / "networks.json"
    networks.write_text(json.dumps({str(layer): [*range(layer, 30)] for layer in range(8)}))
    n = sum(range(23, 31))
    settings = TrainSettings(**RUN, mask_mode="train-only", compact=True, unmasked=unmasked)
    split = load_split(long_samples / "train.jsonl", load_tokenizer(model), 1024)
    longest = max(len(sample.ids) for sample in split.samples)
    share = trained_share(networks, settings, 8, 384)
    assert share == n / (8 * 384)
    shape = shape_of(model, settings)
    expected = estimate(shape, settings, longest, neurons=share)
    others = 0 if unmasked == "freeze" else shape.parameters - shape.mlp
    slices = 3 * 128 * n
    assert expected.weights == 4 * (shape.parameters + slices)
    assert (expected.gradients, expected.moments) == (4 * (slices + others), 8 * (slices + others))
    paths = ["--model", model, "--data", long_samples, "--networks", networks]
    words = ["train", *map(str, paths), "--output", str(tmp_path / "run")]
    with Peak() as peak, contextlib.redirect_stderr(io.StringIO()) as said:
        assert main([*words, *shlex.split(settings.flags())]) == 0, said.getvalue()
    assert TOO_LOW < expected.total / peak.n_bytes < TOO_HIGH
    assert expected.parts_in_words in said.getvalue()


@pytest.mark.parametrize("family", [*FAMILIES, *MOE_FAMILIES])
def test_every_family_has_an_estimate_and_an_attention_to_adapt(
    family: str, tmp_path: Path
) -> None:
    loaded = model_of(family)
    loaded.config.save_pretrained(tmp_path)
    settings = TrainSettings(**RUN, method="lora", lora_targets="attention")
    shape = shape_of(tmp_path, settings)
    assert shape.parameters == sum(p.numel() for p in loaded.parameters())
    assert estimate(shape, settings, 10).total > 4 * shape.parameters
    paths = lora_targets(loaded, "attention")
    widths = [linear_widths(path, loaded.get_submodule(path)) for path in paths]
    assert shape.adapter_widths == sum(map(sum, widths))
    assert not [p for p in paths if "mlp" in p or "fc" in p or "expert" in p or "4h" in p]


@pytest.mark.parametrize("experts", [4, 16])
def test_the_mask_of_a_tensor_of_all_experts_is_counted(experts: int, tmp_path: Path) -> None:
    loaded = model_of("Mixtral", num_local_experts=experts, intermediate_size=1_024)
    loaded.config.save_pretrained(tmp_path)
    settings = TrainSettings(**RUN, method="highest", applies_to="update")
    matrices = mlp_matrices(loaded)
    for matrix in matrices:
        matrix.parameter.grad = torch.randn_like(matrix.parameter)
    masks = GradientMasker(matrices, Highest(0.5, 0)).masks_at(0)
    with Peak() as peak:
        assert masks.get(matrices[0].parameter) is not None
    scratch = peak.n_bytes - 2 * matrices[0].parameter.nbytes  # views of weights and gradients
    expected = estimate(shape_of(tmp_path, settings), settings, 10).mask_scratch
    assert TOO_LOW < expected / scratch < TOO_HIGH


@pytest.mark.parametrize("targets", ["all-linear", "attention", "mlp"])
def test_weights_gradients_and_moments_are_counted_exactly(model: Path, targets: Any) -> None:
    loaded = AutoModelForCausalLM.from_pretrained(model)
    n = sum(p.numel() for p in loaded.parameters())
    whole = TrainSettings(**RUN)
    full = estimate(shape_of(model, whole), whole, 10)
    assert (full.weights, full.gradients, full.moments) == (4 * n, 4 * n, 8 * n)
    settings = TrainSettings(**RUN, method="lora", lora_targets=targets, lora_rank=3)
    adapted = get_peft_model(loaded, lora_config(settings, loaded))
    added = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    lora = estimate(shape_of(model, settings), settings, 10)
    assert (lora.weights, lora.gradients, lora.moments) == (4 * (n + added), 4 * added, 8 * added)


def test_a_packed_base_and_shards_take_their_share(model: Path) -> None:
    plain = TrainSettings(**RUN, method="lora")
    packed = TrainSettings(**RUN, method="lora", quantise="nf4")
    shape = shape_of(model, plain)
    one, other = estimate(shape, plain, 10), estimate(shape, packed, 10)
    # 64 weights take 32 bytes, a scale of 8 bits, and a 256th of a float32 scale of scales.
    assert one.weights - other.weights == shape.packable * 4 - int(
        shape.packable * (32 + 1 + 4 / 256) / 64
    )
    whole = TrainSettings(**RUN | {"batch_size": 16})  # four of four each
    alone, shared = (estimate(shape, whole, 10, processes=n) for n in (1, 4))
    assert shared.weights == alone.weights // 4
    assert shared.activations == alone.activations


def test_no_weight_is_read_for_an_estimate(model: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((model / "config.json").read_text())
    settings = TrainSettings(**RUN)
    assert shape_of(tmp_path, settings).parameters == sum(
        w.numel() for w in weights(model).values()
    )
    assert json.loads((tmp_path / "config.json").read_text())["vocab_size"] == 320


@pytest.mark.parametrize(
    ("given", "remedies"),
    [
        ({}, "--micro-batch-size 2, --gradient-checkpointing, --method lora, --max-tokens"),
        ({"method": "lora", "gradient_checkpointing": True}, "2, --quantise nf4, --max-tokens"),
        ({"mask_mode": "train-only"}, "--gradient-checkpointing, --compact, --method lora"),
    ],
)
def test_a_run_that_may_not_fit_is_told_what_to_do(given: dict[str, Any], remedies: str) -> None:
    settings = TrainSettings(**RUN | given)
    expected = MemoryEstimate(1 << 30, 0, 0, 1 << 30, 0, 0, 5)
    (line,) = warning_lines(expected, (2 << 30) - 1, settings)
    assert line.startswith("warning: the run may need 2.0 GiB") and remedies in line
    assert warning_lines(expected, 2 << 30, settings) == []
