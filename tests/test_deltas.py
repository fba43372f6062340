"""Deltas: what fine-tuning changed, put onto its base and taken off again, bit for bit."""

import itertools
import json
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import logits, model_of
from runs import train
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from fnsft.architectures import mlp_matrices
from fnsft.artifacts.changes import apply_changes, change_forms, changes_of, narrowed, widened
from fnsft.artifacts.deltas import FILE, apply_delta, write_delta
from fnsft.artifacts.forward_masks import FILE as MASK
from fnsft.artifacts.storage import manifest_path, read_json, write_json
from fnsft.artifacts.weights import INDEX, Form, open_weights, written_weights
from fnsft.cli.main import main

NOT_PASSED_ON = (  # names files of the machine, or may be anything
    "data.manifest.json",
    "graph.safetensors.manifest.json",
    "clusters.safetensors",
    "notes.txt",
)
WIDE = {
    "BOOL": 1,
    "F8_E4M3": 1,
    "BF16": 2,
    "F16": 2,
    "F32": 4,
    "I32": 4,
    "F64": 8,
    "I64": 8,
}


def write_model(folder: Path, tensors: dict[str, Tensor], **config: Any) -> Path:
    folder.mkdir(parents=True)
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", config)
    return folder


def tensors_of(folder: Path) -> dict[str, Tensor]:
    files = sorted(folder.glob("model*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def bits_of(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def same_bits(here: dict[str, Tensor], there: dict[str, Tensor]) -> bool:
    return here.keys() == there.keys() and all(
        (tensor.dtype, tensor.shape) == (there[name].dtype, there[name].shape)
        and bits_of(tensor) == bits_of(there[name])
        for name, tensor in here.items()
    )


def export(tuned: Path, base: Path, output: Path) -> int:
    flags = ["--format", "delta", "--base", str(base), "--output", str(output)]
    return main(["export", str(tuned), *flags])


def apply(base: Path, delta: Path, output: Path) -> int:
    return main(["apply-delta", "--base", str(base), *_paths(delta, output)])


def revert(tuned: Path, delta: Path, output: Path) -> int:
    return main(["apply-delta", "--revert", "--tuned", str(tuned), *_paths(delta, output)])


def _paths(delta: Path, output: Path) -> list[str]:
    return ["--delta", str(delta), "--output", str(output)]


def wild(*shape: int) -> Tensor:
    """Any float32 patterns: both zeros, infinities, quiet and signalling NaNs with payloads."""
    bits = np.random.default_rng(0).integers(0, 1 << 32, shape, dtype=np.uint32)
    bits.flat[:5] = [0x80000000, 0x7F800000, 0x7FC00123, 0x7F800001, 0xFF812345]
    return torch.from_numpy(bits.view(np.float32).copy())


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("density", [0.001, 0.02, 0.04, 0.5, 1.0])
def test_changes_lead_from_either_side_to_the_other(dtype: str, density: float) -> None:
    numbers = np.random.default_rng(1)
    for n in (1, 7, 64, 1001):
        form = Form(dtype, (n,))
        top = 2 ** (8 * WIDE[dtype]) - 1
        before, after = (
            numbers.integers(0, top, n, dtype=form.unsigned, endpoint=True) for _ in "ab"
        )
        after = np.where(numbers.random(n) < density, after, before)
        count = int((before != after).sum())
        if not count:
            continue
        found = changes_of("t", before ^ after)
        forms = change_forms("t", form, count)
        assert {key: array.shape for key, array in found.items()} == {
            key: form.shape for key, form in forms.items()
        }
        values, (key, where) = found.pop("t:values"), found.popitem()
        # The same places, read one by one.
        if key == "t:bitmap":
            places = [i for i in range(n) if where[i // 8] >> (7 - i % 8) & 1]
        else:
            places = [int(i) for i in where]
        assert places == [i for i in range(n) if before[i] != after[i]]
        assert where.nbytes == min(4 * count, -(-n // 8))
        parts = {"values": values, key.removeprefix("t:"): where}
        for start, end in ((before, after), (after, before)):
            slow = [int(x) for x in start]
            for place, value in zip(places, values, strict=True):
                slow[place] ^= int(value)
            fast = start.copy()
            assert apply_changes(fast, parts) == count
            assert slow == fast.tolist() == end.tolist()


def test_positions_beyond_2_to_the_31_are_stored_in_64_bits() -> None:
    assert change_forms("t", Form("F32", (1 << 31,)), 3)["t:positions"] == Form("I32", (3,))
    assert change_forms("t", Form("F32", (1 << 31 | 1,)), 3)["t:positions"] == Form("I64", (3,))


@pytest.mark.parametrize(("name", "dtype"), [("BF16", torch.bfloat16), ("F16", torch.float16)])
def test_widening_is_exact_for_every_number_and_undone_for_every_pattern(
    name: str, dtype: torch.dtype
) -> None:
    patterns = np.arange(1 << 16, dtype=np.uint16)
    wide = widened(patterns, name, "F32")
    numbers = torch.from_numpy(patterns.view(np.int16).copy()).view(dtype)
    expected = bits_of(numbers.float())
    is_number = ~numbers.isnan().numpy()
    assert np.array_equal(wide[is_number], np.frombuffer(expected, np.uint32)[is_number])
    assert np.isnan(wide[~is_number].view(np.float32)).all()
    assert np.array_equal(narrowed(wide, "F32", name), patterns)


@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16, torch.float32])
def test_a_folder_is_rebuilt_from_the_other_bit_for_bit(
    tmp_path: Path, narrow: torch.dtype, capsys: pytest.CaptureFixture[str]
) -> None:
    weight = wild(40, 30).to(narrow)
    tuned_weight = weight.float().clone()
    tuned_weight[3:5] = wild(2, 30)
    same, table = torch.randn(9), torch.arange(12)
    before = {"a.weight": weight, "same": same, "table": table, "empty": torch.empty(0, 3)}
    after = before | {"a.weight": tuned_weight, "table": table + 5}
    base = write_model(tmp_path / "base", before, dtype="base")
    tuned = write_model(tmp_path / "tuned", after, dtype="float32")
    for name in ("tokenizer.json", "prompt_format.json", MASK):
        (tuned / name).write_text(name)
    names = {path.name for path in tuned.iterdir()}
    for name in NOT_PASSED_ON:
        (tuned / name).write_text(name)
    delta, applied, reverted = (tmp_path / name for name in ("delta", "applied", "reverted"))
    assert export(tuned, base, delta) == 0
    assert {path.name for path in delta.iterdir()} == {FILE} | names - {"model.safetensors"}
    assert apply(base, delta, applied) == 0
    assert same_bits(tensors_of(applied), after)
    assert {path.name for path in applied.iterdir()} == names
    assert all(
        (applied / n).read_bytes() == (tuned / n).read_bytes() for n in ("config.json", MASK)
    )
    assert revert(applied, delta, reverted) == 0
    assert f"{reverted}: the base model's weights, bit for bit; " in capsys.readouterr().err
    assert same_bits(tensors_of(reverted), before)
    assert (reverted / "config.json").read_bytes() == (base / "config.json").read_bytes()
    assert {p.name for p in reverted.iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    }


def test_tensors_of_every_width_are_aligned(tmp_path: Path) -> None:
    before = {"a": torch.randn(70), "b": torch.randn(2000), "c": torch.zeros(3, dtype=torch.int8)}
    after = {"a": before["a"] + 1, "b": before["b"].clone(), "c": before["c"] + 1}
    after["b"][7] += 1
    base, tuned = (write_model(tmp_path / n, t) for n, t in (("base", before), ("tuned", after)))
    assert export(tuned, base, tmp_path / "delta") == 0
    entries, start = header_of(tmp_path / "delta" / FILE)
    del entries["__metadata__"]
    assert {entry["dtype"] for entry in entries.values()} == {"U8", "U32", "I32"}
    for name, entry in entries.items():
        assert (start + entry["data_offsets"][0]) % (int(entry["dtype"][1:]) // 8) == 0, name


def test_what_was_trained_is_what_the_delta_holds(
    tiny_model_dir: Path,
    data: Path,
    networks: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, delta, applied = tmp_path / "run", tmp_path / "delta", tmp_path / "applied"
    settings = {"method": "sft", "mask_mode": "train-only", "unmasked": "freeze"}
    assert train(tiny_model_dir, data, run, networks=networks, **settings) == 0
    capsys.readouterr()
    assert export(run, tiny_model_dir, delta) == 0
    before, after = tensors_of(tiny_model_dir), tensors_of(run)
    n_changed = sum(int((before[name] != after[name]).sum()) for name in before)
    n = sum(tensor.numel() for tensor in before.values())
    line = f"{delta}: {n_changed:,} of {n:,} entries changed ({100 * n_changed / n:.2f} %); "
    assert capsys.readouterr().err.startswith(line)
    matrices = mlp_matrices(AutoModelForCausalLM.from_pretrained(tiny_model_dir))
    held = {key.partition(":")[0] for key in load_file(delta / FILE)}
    assert held == {matrix.name for matrix in matrices}
    assert (delta / FILE).stat().st_size < (run / "model.safetensors").stat().st_size
    assert apply(tiny_model_dir, delta, applied) == 0
    assert same_bits(tensors_of(applied), after)
    assert torch.equal(*(logits(AutoModelForCausalLM.from_pretrained(f)) for f in (applied, run)))


def test_shards_are_read_and_written_as_transformers_does(tmp_path: Path) -> None:
    model = model_of("Llama")
    base, tuned = tmp_path / "base", tmp_path / "tuned"
    model.save_pretrained(base, max_shard_size=20_000)
    with torch.no_grad():
        model.lm_head.weight[5] += 1
    model.save_pretrained(tuned, max_shard_size=30_000)
    assert len(list(base.glob("model-*"))) > len(list(tuned.glob("model-*"))) > 1
    delta, applied, reverted = (tmp_path / name for name in ("delta", "applied", "reverted"))
    assert export(tuned, base, delta) == 0
    assert apply(base, delta, applied) == 0
    assert same_bits(tensors_of(applied), tensors_of(tuned))
    assert revert(tuned, delta, reverted) == 0
    assert same_bits(tensors_of(reverted), tensors_of(base))
    weights, again = open_weights(applied), tmp_path / "again"
    again.mkdir()
    with written_weights(again, weights.forms, shard_bytes=25_000) as put:
        for name in reversed(weights.tensors):
            put(name, weights.tensors[name].bits())
    assert len(list(again.glob("model-*"))) > 1 and (again / INDEX).is_file()
    (again / "config.json").write_bytes((tuned / "config.json").read_bytes())
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(again)), logits(model))


def test_a_tied_output_layer_may_be_stored_by_one_side_and_not_by_the_other(
    tmp_path: Path,
) -> None:
    table, other = torch.randn(20, 4), torch.randn(6)
    tied = {"model.embed_tokens.weight": table, "b": other}
    stored = tied | {"lm_head.weight": table}
    after = {"model.embed_tokens.weight": table + 1, "b": other}
    tuned = write_model(tmp_path / "tuned", after, tie_word_embeddings=True)
    deltas = []
    for name, tensors in (("plain", tied), ("stored", stored)):
        base = write_model(tmp_path / name, tensors, tie_word_embeddings=True)
        deltas.append(tmp_path / f"{name}-delta")
        assert export(tuned, base, deltas[-1]) == 0
    assert (deltas[0] / FILE).read_bytes() == (deltas[1] / FILE).read_bytes()
    assert apply(tmp_path / "stored", deltas[0], tmp_path / "applied") == 0
    assert same_bits(tensors_of(tmp_path / "applied"), after)


def test_memory_does_not_grow_with_the_number_of_tensors(tmp_path: Path) -> None:
    n, peaks = 100_000, []
    for n_tensors in (2, 20):
        folder = tmp_path / str(n_tensors)
        before = {f"t{i:02d}": torch.randn(n) for i in range(n_tensors)}
        base = write_model(folder / "base", before)
        tuned = write_model(folder / "tuned", {name: t + 1 for name, t in before.items()})
        tracemalloc.start()
        write_delta(folder / "delta", open_weights(base), open_weights(tuned))
        apply_delta(folder / "delta", open_weights(base), folder / "out", revert=False)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] < 1.2 * 10 * 4 * n


def refused(words: list[str], message: str, output: Path, capsys: Any) -> None:
    capsys.readouterr()
    assert main([*words, "--output", str(output)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1, error
    assert not output.exists() and not list(output.parent.glob(".*partial*"))


def test_models_that_cannot_be_compared_are_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = torch.zeros(4, 2)
    base = write_model(tmp_path / "base", {"a": row, "b": row + 1}, tie_word_embeddings=False)
    untied = {"model.embed_tokens.weight": row, "lm_head.weight": row + 1}
    cases: list[tuple[dict[str, Tensor], str]] = [
        ({"a": row}, "expected the tensors of"),
        ({"a": row, "b": row, "c": row}, "found 1 that it has not, the first c"),
        ({"a": row, "b": torch.zeros(5, 2)}, "b: expected the base's shape [4, 2], found [5, 2]"),
        ({"a": row, "b": row.bfloat16()}, "b: expected the base's F32, or float32, found BF16"),
        (untied, "lm_head.weight: expected what the embedding holds"),
    ]
    for number, (tensors, message) in enumerate(cases):
        tuned = write_model(tmp_path / str(number), tensors, tie_word_embeddings=True)
        words = ["export", str(tuned), "--format", "delta"]
        refused([*words, "--base", str(base)], message, tmp_path / "out", capsys)
    refused(words, "a delta needs its --base", tmp_path / "out", capsys)
    write_json(tuned / "adapter_config.json", {})
    refused(words, "found an adapter, which is smaller", tmp_path / "out", capsys)
    (base / "model.safetensors").rename(base / "pytorch_model.bin")
    words = ["export", str(tmp_path / "0"), "--format", "delta", "--base", str(base)]
    refused(words, "expected all of a model's weights in model.safetensors", tmp_path / "o", capsys)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A base, a tuned model with one changed entry of many and one of few, and their delta."""
    before = {"a": torch.randn(50, 20), "b": torch.randn(6)}
    after = {name: tensor.clone() for name, tensor in before.items()}
    after["a"][2, 3] += 1
    after["b"][2] += 1
    base, tuned = (
        write_model(tmp_path / "base", before),
        write_model(tmp_path / "tuned", after),
    )
    assert export(tuned, base, tmp_path / "delta") == 0
    return base, tuned, tmp_path / "delta"


def test_a_delta_is_put_on_no_other_model(
    pair: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, tuned, delta = pair
    other = write_model(tmp_path / "other", {"a": torch.randn(50, 20), "b": torch.randn(6)})
    first = tensors_of(base)
    reshaped = write_model(tmp_path / "reshaped", first | {"a": first["a"].view(20, 50)})
    recast = write_model(tmp_path / "recast", first | {"b": first["b"].view(torch.int32)})
    about = json.loads(metadata_of(delta / FILE)["delta"])
    on = ["apply-delta", "--delta", str(delta)]
    wrong = f"expected the base of this delta, sha256 {about['base']['sha256'][:12]}, found"
    wrong_tuned = f"expected the tuned model of this delta, sha256 {about['tuned']['sha256'][:12]}"
    output = tmp_path / "out"
    for model in (other, tuned, reshaped, recast):
        refused([*on, "--base", str(model)], wrong, output, capsys)
    refused([*on, "--revert", "--tuned", str(base)], wrong_tuned, output, capsys)
    refused([*on, "--tuned", str(tuned)], "expected --base and no --tuned", output, capsys)
    both = ["--base", str(base), "--tuned", str(tuned)]
    refused([*on, "--revert", *both], "expected --tuned and no --base", output, capsys)
    swapped = ["apply-delta", "--delta", str(base), "--base", str(base)]
    refused(swapped, "delta.safetensors: no such file", output, capsys)


def test_no_output_takes_the_place_of_what_it_is_made_from(
    pair: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    base, tuned, delta = pair
    base_files = tensors_of(base)
    for folder in (base, tuned):
        write_json(manifest_path(folder), {})  # a stage made it, which may be replaced
    on = ["apply-delta", "--base", str(base), "--delta", str(delta), "--output"]
    for words in (
        [*on, str(delta)],
        [*on, str(base.parent)],
        ["export", str(tuned), "--format", "delta", "--base", str(base), "--output", str(tuned)],
        ["export", str(tuned), "--format", "delta", "--base", str(base), "--output", str(base)],
    ):
        assert main(words) == 2
        assert "name another output" in capsys.readouterr().err
    assert same_bits(tensors_of(base), base_files) and (delta / FILE).is_file()


def header_of(path: Path) -> tuple[dict[str, Any], int]:
    """A safetensors file's header, and where the tensors begin."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), 8 + length


def metadata_of(path: Path) -> dict[str, str]:
    return header_of(path)[0]["__metadata__"]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def without_metadata(path: Path) -> None:
    metadata = {"fnsft": metadata_of(path)["fnsft"]}
    save_file(load_file(path), path, metadata=metadata)


def changed(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        tensors, metadata = load_file(path), metadata_of(path)
        save_file(tensors | {name: change(tensors[name])}, path, metadata=metadata)

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "truncated or not safetensors"),
        (without_metadata, "damaged metadata ('delta')"),
        (changed("a:values", lambda x: x ^ 1), "the delta is damaged"),
        (changed("a:positions", lambda x: x + 1), "the delta is damaged"),
        (
            changed("a:positions", lambda x: x - 1000),
            "a: damaged: expected positions",
        ),
        (
            changed("a:positions", lambda x: x + 1000),
            "a: damaged: expected positions",
        ),
        (
            changed("a:positions", lambda x: x.float()),
            "a: damaged: expected positions",
        ),
        (changed("a:positions", lambda x: torch.cat((x, x))), "a: damaged: 1 values for 2 places"),
        (changed("a:values", lambda x: torch.cat((x, x))), "a: damaged: 2 values for 1 places"),
        (changed("b:bitmap", lambda x: torch.cat((x, x))), "b: damaged: expected a bitmap of 6"),
        (changed("b:values", lambda x: x.short()), "b: damaged: expected values of the tensor's"),
    ],
    ids=itertools.count(),
)
def test_a_damaged_delta_leaves_nothing(
    pair: tuple[Path, Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], None],
    message: str,
) -> None:
    base, _, delta = pair
    damage(delta / FILE)
    words = ["apply-delta", "--delta", str(delta), "--base", str(base)]
    refused(words, message, tmp_path / "out", capsys)


def test_a_model_that_did_not_change_has_an_empty_delta(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = write_model(tmp_path / "base", {"a": torch.randn(3)})
    assert export(base, base, tmp_path / "delta") == 0
    assert "0 of 3 entries changed (0.00 %); " in capsys.readouterr().err
    assert apply(base, tmp_path / "delta", tmp_path / "out") == 0
    assert same_bits(tensors_of(tmp_path / "out"), tensors_of(base))
    assert read_json(tmp_path / "out.manifest.json")["notes"] == {"changed_entries": 0}
