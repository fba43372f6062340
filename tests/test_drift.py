"""How far a tuned model is from another: its predictions on data, and its weights."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import model_of
from models import write_tiny_model
from runs import first_samples, train
from transformers import AutoModelForCausalLM

from fnsft.artifacts.items import items_path, read_items
from fnsft.artifacts.records import Record, read_records
from fnsft.artifacts.storage import read_json, sha256_of
from fnsft.cli.main import main
from fnsft.data.tokens import Encoded, load_split, load_tokenizer
from fnsft.errors import InputError
from fnsft.evaluation import drift
from fnsft.evaluation.drift import divergence, token_divergence, weight_change
from fnsft.evaluation.loading import load_model


@pytest.fixture(scope="module")
def tuned(tiny_model_dir: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drift") / "tuned"
    settings = {"learning_rate": 1e-2, "method": "random", "fraction": 0.3}
    settings |= {"unmasked": "freeze", "applies_to": "update"}
    assert train(tiny_model_dir, data, folder, task="math", **settings) == 0
    return folder


@pytest.fixture(scope="module")
def samples(tiny_model_dir: Path, data: Path) -> list[Encoded]:
    return load_split(data / "train.jsonl", load_tokenizer(tiny_model_dir), 1024).samples


def run(tuned: Path, base: Path, data: Path, output: Path, *flags: str) -> int:
    paths = {"model": tuned, "base": base, "data": data / "train.jsonl", "output": output}
    words = [word for name, path in paths.items() for word in (f"--{name}", str(path))]
    return main(["drift", *words, *flags])


def by_metric(path: Path) -> dict[tuple[str, str | None], Record]:
    return {(record.metric, record.subset): record for record in read_records([path])}


def kl(p_logits: list[float], q_logits: list[float]) -> float:
    """KL(p‖q) by its definition, in Python's own floats."""
    p, q = ([math.exp(x) for x in logits] for logits in (p_logits, q_logits))
    p, q = ([x / math.fsum(part) for x in part] for part in (p, q))
    return math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def slow_divergence(tuned: Any, base: Any, sample: Encoded) -> tuple[float, float]:
    """Both divergences of a sample, token by token, each after a prefix of its own."""
    forward = reverse = 0.0
    for n in range(len(sample.completion_ids)):
        prefix = torch.tensor([sample.prompt_ids + sample.completion_ids[:n]])
        with torch.no_grad():
            q, p = (model(input_ids=prefix).logits[0, -1].tolist() for model in (tuned, base))
        forward, reverse = forward + kl(p, q), reverse + kl(q, p)
    return forward, reverse


def test_the_divergence_of_two_hand_made_predictions_is_what_its_definition_says() -> None:
    even, odd = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.9, 0.1]]).log()
    forward, reverse = token_divergence(even, odd)[:, 0].tolist()
    assert forward == pytest.approx(0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1))
    assert reverse == pytest.approx(0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5))
    assert forward == pytest.approx(0.5108, abs=1e-4) and reverse == pytest.approx(0.3681, abs=1e-4)


def test_divergences_are_those_of_every_completion_token_one_by_one(
    tiny_model_dir: Path, tuned: Path, samples: list[Encoded]
) -> None:
    models = [AutoModelForCausalLM.from_pretrained(f).eval() for f in (tuned, tiny_model_dir)]
    found = divergence(*models, samples[:4], batch_size=3)
    slow = np.array([slow_divergence(*models, sample) for sample in samples[:4]])
    np.testing.assert_allclose(found.forward, slow[:, 0], rtol=1e-4)
    np.testing.assert_allclose(found.reverse, slow[:, 1], rtol=1e-4)
    assert not np.allclose(slow[:, 0], slow[:, 1], rtol=1e-2), "the two are not the same"
    assert found.tokens.tolist() == [len(sample.completion_ids) for sample in samples[:4]]
    forward, reverse = found.measurements()
    n_tokens = found.tokens.sum()
    assert (forward.metric, reverse.metric) == ("kl_forward", "kl_reverse")
    assert (forward.benchmark, forward.n) == ("drift", 4)
    assert forward.value == pytest.approx(slow[:, 0].sum() / n_tokens, rel=1e-4)
    # The delta method for Σ(L)/Σ(T), term by term.
    residuals = [x - forward.value * t for x, t in zip(found.forward, found.tokens, strict=True)]
    variance = sum(r * r for r in residuals) / 3 / 4 / (n_tokens / 4) ** 2
    assert forward.stderr == pytest.approx(math.sqrt(variance))
    assert divergence(*models, samples[:1], 1).measurements()[0].stderr is None


def test_divergences_do_not_depend_on_batches_or_chunks(
    tiny_model_dir: Path, tuned: Path, samples: list[Encoded], monkeypatch: pytest.MonkeyPatch
) -> None:
    models = [AutoModelForCausalLM.from_pretrained(f).eval() for f in (tuned, tiny_model_dir)]
    expected = divergence(*models, samples, 1)
    weights = weight_change(*models)
    monkeypatch.setattr(drift, "CHUNK_ENTRIES", 700)  # two tokens' logits
    for batch_size in (3, 14):
        found = divergence(*models, samples, batch_size)
        np.testing.assert_allclose(found.forward, expected.forward, rtol=1e-4)
        np.testing.assert_allclose(found.reverse, expected.reverse, rtol=1e-4)
    again = weight_change(*models)
    assert [m.value for m in again] == pytest.approx([m.value for m in weights], rel=1e-12)


def test_weight_change_is_the_norm_and_the_count_of_what_moved(
    tiny_model_dir: Path, tuned: Path
) -> None:
    models = [load_model(folder, "float32") for folder in (tuned, tiny_model_dir)]
    new, old = (dict(model.named_parameters()) for model in models)
    for subset in (None, "part=mlp"):
        names = [name for name in new if subset is None or ".mlp." in name]
        x, y = (
            np.concatenate([part[name].detach().numpy().ravel() for name in names]).astype(float)
            for part in (new, old)
        )
        found = {m.metric: m for m in weight_change(*models) if m.subset == subset}
        norm = np.linalg.norm(x - y) / np.linalg.norm(y)
        assert found["relative_weight_change"].value == pytest.approx(norm, rel=1e-12)
        assert found["changed_share"].value == np.mean(x != y)
        assert {m.n for m in found.values()} == {len(x)}
        assert {m.stderr for m in found.values()} == {None}
        assert 0 < found["changed_share"].value < 1


def test_weights_are_compared_as_they_were_saved_whatever_the_dtype_of_predictions(
    tiny_model_dir: Path, tuned: Path, data: Path, tmp_path: Path
) -> None:
    """Steps of this size are mostly below the resolution of bfloat16."""
    near, model = shutil.copytree(tuned, tmp_path / "near"), load_model(tiny_model_dir, "float32")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 5e-6 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(near)
    found = {}
    for dtype in ("float32", "bfloat16"):
        output = tmp_path / f"{dtype}.jsonl"
        assert run(near, tiny_model_dir, data, output, "--dtype", dtype) == 0
        found[dtype] = by_metric(output)
    fine, coarse = found.values()
    assert fine["changed_share", None].value > 0.9
    for name, record in fine.items():
        if name[0].startswith("kl"):
            assert coarse[name].value > 2 * record.value, "the predictions are those of dtype"
            assert coarse[name].protocol != record.protocol
        else:
            assert coarse[name] == record


def test_an_entry_whose_sign_of_zero_changed_has_changed() -> None:
    one, other = model_of("Llama"), model_of("Llama")
    other.load_state_dict(one.state_dict())
    for model, zero in ((one, 0.0), (other, -0.0)):
        with torch.no_grad():
            model.model.norm.weight[:3] = zero
    share = next(m for m in weight_change(one, other) if m.metric == "changed_share")
    assert share.value == 3 / share.n


def test_a_model_is_exactly_where_it_is(tuned: Path, data: Path, tmp_path: Path) -> None:
    assert run(tuned, tuned, data, tmp_path / "drift.jsonl", "--since", "any") == 0
    assert {record.value for record in by_metric(tmp_path / "drift.jsonl").values()} == {0}


def test_records_name_the_run_and_what_was_measured(
    tiny_model_dir: Path,
    tuned: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "drift.jsonl"
    assert run(tuned, tiny_model_dir, data, output, "--limit", "5") == 0
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"{output}: random: kl_forward ") and "changed_share" in said
    found = by_metric(output)
    whole = [(name, None) for name in ("kl_forward", "kl_reverse")]
    both = [
        (name, subset)
        for subset in (None, "part=mlp")
        for name in ("relative_weight_change", "changed_share")
    ]
    assert list(found) == whole + both
    for record in found.values():
        assert (record.benchmark, record.method, record.task) == ("drift", "random", "math")
        assert (record.stage, record.sequence, record.forward_mask) == (1, "math", None)
        asked = "teacher-forced completions since=stage limit=5 max_tokens=1024"
        what = asked if record.metric.startswith("kl") else "parameters since=stage"
        assert record.protocol == f"drift {what} dtype=float32"
        assert record.data_sha256 == sha256_of(data / "train.jsonl")
        assert record.versions and record.versions.startswith("torch ")
    items = read_items(items_path(output))
    for metric in ("kl_forward", "kl_reverse"):
        record, own = found[metric, None], [item for item in items if item.metric == metric]
        assert record.n == len(own) == 5 and record.stderr and record.stderr > 0
        mean = sum(item.value for item in own) / sum(item.weight for item in own)
        assert record.value == pytest.approx(mean, rel=1e-12)
    notes = read_json(tmp_path / "drift.jsonl.manifest.json")["notes"]
    assert notes["samples"] == 5 and notes["weights"] == "compared"


@pytest.mark.parametrize("kind", ["lora", pytest.param("nf4", marks=pytest.mark.slow)])
def test_an_adapter_is_merged_and_a_packed_base_s_weights_are_left_out(
    tiny_model_dir: Path, data: Path, tmp_path: Path, kind: str
) -> None:
    settings: dict[str, Any] = {
        "method": "lora",
        "learning_rate": 1e-2,
        "lora_targets": "attention",
    }
    if kind == "nf4":
        pytest.importorskip("bitsandbytes")
        settings |= {"quantise": "nf4"}
    assert train(tiny_model_dir, data, tmp_path / "run", **settings) == 0
    assert run(tmp_path / "run", tiny_model_dir, data, tmp_path / "drift.jsonl") == 0
    found = by_metric(tmp_path / "drift.jsonl")
    assert found["kl_forward", None].value > 0
    if kind == "nf4":
        assert {metric for metric, _ in found} == {"kl_forward", "kl_reverse"}
    else:
        assert found["changed_share", None].value > found["changed_share", "part=mlp"].value == 0


def test_a_mask_on_the_forward_pass_is_part_of_the_predictions(
    tiny_model_dir: Path, data: Path, networks: Path, tmp_path: Path
) -> None:
    few = first_samples(data, 4, tmp_path / "few")
    settings = {"mask_mode": "preserve", "networks": networks, "learning_rate": 1e-9}
    assert train(tiny_model_dir, few, tmp_path / "run", **settings) == 0
    assert run(tmp_path / "run", tiny_model_dir, data, tmp_path / "with.jsonl") == 0
    plain = shutil.copytree(tmp_path / "run", tmp_path / "plain")
    (plain / "forward_mask.safetensors").unlink()
    assert run(plain, tiny_model_dir, data, tmp_path / "without.jsonl") == 0
    found, bare = (by_metric(tmp_path / f"{name}.jsonl") for name in ("with", "without"))
    assert found["kl_forward", None].value > 1e-3 > 1e-6 > bare["kl_forward", None].value
    assert found["kl_forward", None].forward_mask == "on"
    change = ("relative_weight_change", None)
    assert found[change].value == bare[change].value


def test_divergences_that_are_no_numbers_are_refused(
    tiny_model_dir: Path, samples: list[Encoded]
) -> None:
    models = [AutoModelForCausalLM.from_pretrained(tiny_model_dir).eval() for _ in range(2)]
    with torch.no_grad():
        models[0].model.norm.weight[0] = float("nan")
    with pytest.raises(InputError, match="expected finite divergences, found others"):
        divergence(*models, samples[:2], 2)


def test_predictions_over_other_vocabularies_are_refused(
    tiny_model_dir: Path, samples: list[Encoded]
) -> None:
    models = [AutoModelForCausalLM.from_pretrained(tiny_model_dir).eval() for _ in range(2)]
    n_tokens = models[0].config.vocab_size
    models[1].resize_token_embeddings(n_tokens + 1, mean_resizing=False)
    message = f"expected predictions over {n_tokens} tokens, found {n_tokens + 1}"
    with pytest.raises(InputError, match=message):
        divergence(*models, samples[:2], 2)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("no record", "training.json: no such file or folder"),
        ("tokenizer", "expected the tokenizer of the tuned model, of 320 tokens, found another"),
        ("shape", "expected model.layers.0.mlp.gate_proj.weight of shape (64, 32), found (48, 32)"),
        ("another base", "began with ("),
        ("output", "drift.txt: expected a name that ends in .jsonl"),
        ("data", "nowhere/train.jsonl: no such file or folder"),
        ("samples", "expected a sample of at most max_tokens=5 tokens"),
    ],
)
def test_bad_input_of_drift_is_one_line_and_leaves_nothing(
    tiny_model_dir: Path,
    tuned: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    wrong: str,
    message: str,
) -> None:
    base, model, flags = tmp_path / "base", tuned, []
    write_tiny_model(base)
    if wrong == "no record":
        model = tiny_model_dir
    elif wrong == "tokenizer":
        found = json.loads((base / "tokenizer.json").read_text())
        names = found["model"]["vocab"]
        names["a"], names["b"] = names["b"], names["a"]
        (base / "tokenizer.json").write_text(json.dumps(found))
    elif wrong == "shape":
        config = AutoModelForCausalLM.from_pretrained(base).config
        config.intermediate_size = 48
        AutoModelForCausalLM.from_config(config).save_pretrained(base)
        flags = ["--since", "any"]
    elif wrong == "another base":
        base = tuned
    elif wrong == "data":
        data = tmp_path / "nowhere"
    elif wrong == "samples":
        flags = ["--max-tokens", "5"]
    name = "drift.txt" if wrong == "output" else "drift.jsonl"
    assert run(model, base, data, tmp_path / "out" / name, *flags) == 2
    error = capsys.readouterr().err.splitlines()
    assert message in error[-1]
    assert sum(line.startswith("fnsft drift:") for line in error) == 1
    assert not (tmp_path / "out").exists()
