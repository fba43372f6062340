"""Activation capture and the bit-packed dump."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import write_tiny_model
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from fnsft.artifacts import activations
from fnsft.artifacts.activations import (
    ActivationDump,
    DumpShape,
    DumpWriter,
    layer_file,
    open_dump,
    pack_bits,
    unpack_bits,
)
from fnsft.artifacts.identity import model_identity
from fnsft.artifacts.storage import read_json, require_space, write_jsonl
from fnsft.artifacts.tensors import Header
from fnsft.cli.main import main
from fnsft.data.formats import Example
from fnsft.data.tokens import encode, load_tokenizer
from fnsft.errors import InputError
from fnsft.neurons.capture import capture, watch_samples
from fnsft.neurons.packing import DevicePacker, packed_words

PROMPTS = ("Ada has 3 apples.", "Q", "Write a function of two numbers, long" + " long" * 20, "no")
ROWS = [{"prompt": f"{prompt}\nAnswer:", "completion": f" {prompt[::-1]}"} for prompt in PROMPTS]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "train.jsonl", ROWS)
    return tmp_path / "train.jsonl"


def run_capture(model: Path, data: Path, output: Path, *flags: str) -> int:
    paths = ["--model", str(model), "--data", str(data), "--output", str(output)]
    return main(["capture", *paths, *flags])


def bits_of(dump: ActivationDump, layer: int) -> np.ndarray:
    """Return [tokens, neurons]."""
    unpacked = np.concatenate([unpack_bits(block) for block in dump.layer(layer)], axis=1)
    assert not unpacked[:, dump.shape.n_tokens :].any()
    return unpacked[:, : dump.shape.n_tokens].T.astype(bool)


def test_token_t_is_bit_t_mod_64_of_word_t_div_64() -> None:
    bits = np.zeros((3, 70), dtype=bool)
    bits[0, 0] = bits[1, 63] = bits[2, 65] = True
    packed = pack_bits(bits)
    assert packed.dtype == np.uint64
    assert packed.tolist() == [[1, 0], [1 << 63, 0], [0, 2]]
    assert np.array_equal(unpack_bits(packed)[:, :70], bits)


def gates_of(folder: Path, samples: list[tuple[int, ...]]) -> list[torch.Tensor]:
    """Return what a Llama's gates compute, one sample at a time, [tokens, neurons] a layer."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    gates = []
    for layer in model.model.layers:
        inputs: list[torch.Tensor] = []
        handle = layer.mlp.register_forward_pre_hook(lambda _, x, to=inputs: to.append(x[0][0]))
        with torch.no_grad():
            for ids in samples:
                model(input_ids=torch.tensor([ids]))
        handle.remove()
        gates.append(torch.cat(inputs) @ layer.mlp.gate_proj.weight.T)
    return gates


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4])
@pytest.mark.parametrize("trained", [False, True], ids=["random weights", "trained weights"])
def test_the_bits_are_those_of_single_samples_whatever_the_batch_size(
    tiny_model_dir: Path,
    data: Path,
    tmp_path: Path,
    trained: bool,
    batch_size: int,
    request: pytest.FixtureRequest,
) -> None:
    """Padding left out, in the order of the data.

    A matrix product's last bits depend on its shape, so that a gate within rounding of 0 may
    fall to either side: in float32 one of 211,560 bits of the trained model, at 1.3e-6, did.
    """
    folder = tiny_model_dir
    if trained:
        folder = request.getfixturevalue("shared_data") / "models" / "stories260k"
    assert run_capture(folder, data, tmp_path / "dump", "--batch-size", str(batch_size)) == 0
    dump = open_dump(tmp_path / "dump")
    assert dump.model == model_identity(folder)
    tokenizer = load_tokenizer(folder)
    samples = [encode(tokenizer, Example(**row)).ids for row in ROWS]
    assert dump.token_ids.dtype == np.int32
    assert dump.token_ids.tolist() == [i for ids in samples for i in ids]
    assert np.diff(dump.sample_offsets).tolist() == [len(ids) for ids in samples]
    for number, gate in enumerate(gates_of(folder, samples)):
        unclear = (gate.abs() < 1e-4).numpy()
        assert unclear.mean() < 1e-3
        assert np.array_equal(bits_of(dump, number) | unclear, (gate > 0).numpy() | unclear)


@pytest.mark.parametrize("trained", [False, True], ids=["random weights", "trained weights"])
def test_in_float64_the_batch_size_and_padding_change_no_bit(
    tiny_model_dir: Path, tmp_path: Path, trained: bool, request: pytest.FixtureRequest
) -> None:
    folder = tiny_model_dir
    rows = ROWS * 8
    if trained:
        folder = request.getfixturevalue("shared_data") / "models" / "stories260k"
    write_jsonl(tmp_path / "train.jsonl", rows)
    dumps = []
    for size in (1, 3, 32):
        flags = ["--batch-size", str(size), "--dtype", "float64"]
        assert run_capture(folder, tmp_path / "train.jsonl", tmp_path / f"{size}", *flags) == 0
        dumps.append(open_dump(tmp_path / f"{size}"))
    for layer in range(dumps[0].shape.n_layers):
        bits = [bits_of(dump, layer) for dump in dumps]
        assert 0.05 < bits[0].mean() < 0.95
        assert np.array_equal(bits[0], bits[1])
        assert np.array_equal(bits[0], bits[2])


def test_sampled_values_are_what_the_activation_computes(
    tiny_model_dir: Path, data: Path, tmp_path: Path
) -> None:
    """Of evenly spaced tokens, in float16; the bits are the same with and without."""
    flags = ["--sampled-tokens", "7", "--batch-size", "3"]
    assert run_capture(tiny_model_dir, data, tmp_path / "dump", *flags) == 0
    assert run_capture(tiny_model_dir, data, tmp_path / "bare", "--batch-size", "3") == 0
    dump, bare = open_dump(tmp_path / "dump"), open_dump(tmp_path / "bare")
    assert len(dump.sampled_tokens) == 7
    assert (np.diff(dump.sampled_tokens) >= dump.shape.n_tokens // 7).all()
    assert dump.shape.n_bytes == bare.shape.n_bytes + 2 * 2 * 7 * 64
    tokenizer = load_tokenizer(tiny_model_dir)
    samples = [encode(tokenizer, Example(**row)).ids for row in ROWS]
    for layer, gate in enumerate(gates_of(tiny_model_dir, samples)):
        values = dump.values(layer)
        assert values.dtype == np.float16
        expected = torch.nn.functional.silu(gate.detach()[dump.sampled_tokens]).numpy()
        np.testing.assert_allclose(values, expected, rtol=1e-3, atol=1e-6)
        assert np.array_equal(bits_of(dump, layer), bits_of(bare, layer))
    with pytest.raises(InputError, match="bits alone; capture with --sampled-tokens"):
        bare.values(0)


def test_more_samples_than_tokens_keep_every_token() -> None:
    assert DumpShape(1, 4, 5, 9).sampled_tokens.tolist() == [0, 1, 2, 3, 4]
    assert DumpShape(1, 4, 5).sampled_tokens.tolist() == []


def test_values_beyond_float16_are_refused_and_not_made_infinite(tmp_path: Path) -> None:
    shape = DumpShape(1, 2, 4, n_sampled=4)
    values = np.full((4, 2), 7e4, dtype=np.float32)
    with pytest.raises(InputError, match="within float16"), DumpWriter(tmp_path, shape, "m") as w:
        w.append(0, values)


@pytest.fixture
def short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activations, "MAX_BLOCK_TOKENS", 128)


@pytest.mark.usefixtures("short_blocks")
@pytest.mark.parametrize(("n_tokens", "n_neurons"), [(300, 13), (256, 16), (1, 1), (129, 8)])
def test_what_is_appended_in_pieces_of_any_size_is_read_back(
    tmp_path: Path, n_tokens: int, n_neurons: int
) -> None:
    rng = np.random.default_rng(0)
    shape = DumpShape(n_layers=2, d_mlp=n_neurons, n_tokens=n_tokens)
    bits = rng.random((2, n_tokens, n_neurons)) < 0.4
    cuts = sorted(rng.integers(0, n_tokens + 1, size=6))
    with DumpWriter(tmp_path, shape, "model") as writer:
        for start, end in zip([0, *cuts], [*cuts, n_tokens], strict=True):
            for layer in range(2):
                writer.append(layer, bits[layer, start:end])
    offsets = np.array([0, n_tokens])
    activations.write_dump_tokens(tmp_path, shape, np.arange(n_tokens), offsets, "model")
    dump = open_dump(tmp_path)
    for layer in range(2):
        assert np.array_equal(bits_of(dump, layer), bits[layer])
        file = tmp_path / layer_file(layer)
        with safe_open(file, framework="numpy") as opened:
            header = Header("activations", activations.SCHEMA, "model")
            assert opened.metadata() == header.as_metadata()
            blocks = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        assert sorted(blocks) == [f"block_{i:05d}" for i in range(-(-n_tokens // 128))]
        assert all(block.dtype == np.uint64 for block in blocks.values())
        assert sum(block.nbytes for block in blocks.values()) * 2 == shape.n_bytes
        first = file.stat().st_size - shape.n_bytes // 2
        assert first % 8 == 0  # words are aligned for those who map the file


def test_buffers_stay_within_256_mib_and_blocks_are_whole_words() -> None:
    for n_layers, d_mlp in [(1, 1), (4, 384), (32, 14_336), (80, 28_672), (1_000, 1 << 22)]:
        block = DumpShape(n_layers, d_mlp, n_tokens=10**6).block_tokens
        assert block % 64 == 0
        assert block == 64 or n_layers * d_mlp * block / 8 <= 256 << 20
    assert DumpShape(32, 14_336, 10**6).block_tokens == 4_672


def test_a_nan_activation_is_bad_input_and_leaves_nothing_behind(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tiny_model(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    model.model.layers[1].mlp.gate_proj.weight.data[0, 0] = torch.nan
    model.save_pretrained(tmp_path / "model")
    assert run_capture(tmp_path / "model", data, tmp_path / "dump") == 2
    assert "layer 1 " in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "train.jsonl"]


def test_the_size_is_printed_first_and_noted(
    tiny_model_dir: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_capture(tiny_model_dir, data, tmp_path / "dump") == 0
    assert "MiB to write" in capsys.readouterr().err.splitlines()[0]
    shape = open_dump(tmp_path / "dump").shape
    notes = read_json(tmp_path / "dump.manifest.json")["notes"]
    assert (notes["tokens"], notes["bytes"]) == (shape.n_tokens, shape.n_bytes)


def test_a_dump_that_the_disk_cannot_hold_is_refused(tmp_path: Path) -> None:
    require_space(tmp_path / "dump", 0)
    with pytest.raises(InputError, match=r"room for 1,048,576\.0 GiB, found .* free"):
        require_space(tmp_path / "dump", 1 << 50)


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(file.read_bytes()[:-8]),
        lambda file: file.write_bytes(b"not safetensors"),
        lambda file: file.unlink(),
        lambda file: file.write_bytes((file.parent / "tokens.safetensors").read_bytes()),
    ],
    ids=["truncated", "foreign", "missing", "another kind"],
)
def test_a_damaged_layer_is_refused(
    tiny_model_dir: Path, data: Path, tmp_path: Path, damage: Callable[[Path], Any]
) -> None:
    assert run_capture(tiny_model_dir, data, tmp_path / "dump") == 0
    damage(tmp_path / "dump" / layer_file(1))
    with pytest.raises(InputError, match=r"layer_001\.safetensors"):
        list(open_dump(tmp_path / "dump").layer(1))


def test_a_layer_of_another_dump_is_refused(
    tiny_model_dir: Path, data: Path, tmp_path: Path
) -> None:
    assert run_capture(tiny_model_dir, data, tmp_path / "dump") == 0
    write_jsonl(tmp_path / "short.jsonl", ROWS[:1])
    assert run_capture(tiny_model_dir, tmp_path / "short.jsonl", tmp_path / "short") == 0
    (tmp_path / "short" / layer_file(0)).replace(tmp_path / "dump" / layer_file(0))
    with pytest.raises(InputError, match=r"layer_000\.safetensors: expected blocks of 64 neurons"):
        list(open_dump(tmp_path / "dump").layer(0))


def test_the_model_is_in_evaluation_mode_while_it_is_captured(tiny_model_dir: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir).train()
    seen: list[bool] = []
    capture(model, [(5, 6, 7)], 1, lambda *_: seen.append(model.model.layers[0].mlp.training))
    assert seen == [False, False]


def test_packed_words_are_those_of_the_dump() -> None:
    bits = np.random.default_rng(0).random((192, 13)) < 0.5
    words = packed_words(torch.from_numpy(bits))
    assert words.dtype == torch.int64
    assert np.array_equal(words.numpy().view(np.uint64), pack_bits(bits.T))


@pytest.mark.usefixtures("short_blocks")
@pytest.mark.parametrize(
    ("lengths", "n_sampled"),
    [([70, 3, 40], 0), ([1], 1), ([64, 64], 5), ([200, 1, 63, 300, 7], 50), ([128] * 3, 0)],
)
def test_a_device_packs_the_same_files_byte_for_byte(
    tmp_path: Path, lengths: list[int], n_sampled: int, tiny_model_dir: Path
) -> None:
    """On the CPU, by single samples: less than a word and several blocks at a time."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    rng = np.random.default_rng(1)
    samples = [rng.integers(0, 50, length).tolist() for length in lengths]
    shape = DumpShape(2, 64, sum(lengths), n_sampled)
    for name in ("host", "device"):
        (tmp_path / name).mkdir()
    with DumpWriter(tmp_path / "host", shape, "model") as writer:
        capture(model, samples, 1, writer.append, bool(n_sampled))
    with DumpWriter(tmp_path / "device", shape, "model") as writer, DevicePacker(writer) as packer:
        watch_samples(model, samples, 1, packer.see)
    files = sorted(path.name for path in (tmp_path / "host").iterdir())
    assert len(files) == (4 if n_sampled else 2)
    for name in files:
        assert (tmp_path / "host" / name).read_bytes() == (tmp_path / "device" / name).read_bytes()


@pytest.mark.usefixtures("short_blocks")
def test_what_a_writing_thread_refuses_ends_the_pass(tmp_path: Path) -> None:
    shape = DumpShape(1, 2, 200, n_sampled=4)
    values = torch.full((200, 2), 7e4)
    with (
        pytest.raises(InputError, match="within float16"),
        DumpWriter(tmp_path, shape, "m") as writer,
        DevicePacker(writer) as packer,
    ):
        packer.see(0, slice(0, 200), values)
