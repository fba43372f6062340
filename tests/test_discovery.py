"""Networks of a model: which values are analysed, and what the stage says and refuses."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import write_tiny_model
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, PreTrainedModel

from fnsft.artifacts.identity import model_identity
from fnsft.artifacts.networks import read_networks, read_templates
from fnsft.artifacts.site_values import SiteValues, SiteWriter
from fnsft.artifacts.storage import read_json, write_jsonl
from fnsft.cli.main import main
from fnsft.config.stages import NetworksSettings
from fnsft.data.tokens import load_samples, load_tokenizer
from fnsft.errors import InputError
from fnsft.neurons import recording
from fnsft.neurons.decomposition import NetworksDidNotConverge
from fnsft.neurons.discovery import find_networks, layer_groups
from fnsft.neurons.recording import draw_samples, record_site, shuffle_tokens

LAYERS, N, D = 2, 64, 32
SITES = {"activation": N, "up": N, "intermediate": N, "output": D}
QUICK: dict[str, Any] = {"n_components": 3, "restarts": 2, "batch_size": 4}
pytestmark = pytest.mark.filterwarnings(
    f"ignore::{NetworksDidNotConverge.__module__}.{NetworksDidNotConverge.__name__}"
)


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(tiny_model_dir).eval()


@pytest.fixture(scope="module")
def samples() -> list[tuple[int, ...]]:
    """Token ids of samples of many lengths, 3 to 40."""
    rng = np.random.default_rng(0)
    return [tuple(rng.integers(3, 300, size=n).tolist()) for n in rng.integers(3, 41, size=30)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared split, rows with a text, and lines."""
    folder = tmp_path_factory.mktemp("data")
    pairs = [(a, b) for a in range(5) for b in range(4)]
    rows = [{"prompt": f"Question: {a}+{b}?\nAnswer:", "completion": f" {a + b}"} for a, b in pairs]
    write_jsonl(folder / "split.jsonl", rows)
    write_jsonl(
        folder / "texts.jsonl", [{"text": f"{a} and {b} apples", "id": a} for a, b in pairs]
    )
    lines = [f"Ada buys {a} apples and returns {b}.\n" for a, b in pairs]
    (folder / "lines.txt").write_text("\n".join(lines))
    return folder


def write_values(folder: Path, values: dict[int, np.ndarray]) -> SiteValues:
    """Write layers [T, width], a few tokens at a time."""
    found = SiteValues(folder, len(values[min(values)]), {x: v.shape[1] for x, v in values.items()})
    folder.mkdir()
    with SiteWriter(found) as writer:
        for start in range(0, found.n_tokens, 7):
            for layer, array in values.items():
                writer.append(layer, array[start : start + 7])
    return found


def test_values_are_mapped_as_they_were_written_rounded_to_float16(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    written = {x: rng.normal(size=(23, 5 + x)).astype(np.float32) for x in (0, 3)}
    values = write_values(tmp_path / "v", written)
    for layer, expected in written.items():
        mapped = values.layer(layer)
        assert isinstance(mapped, np.memmap) and mapped.dtype == np.float16
        assert np.array_equal(mapped, expected.astype(np.float16))
        with pytest.raises(ValueError, match="read-only"):
            mapped[0, 0] = 1
    assert values.n_bytes == 2 * 23 * (5 + 8)
    assert sum(map(len, (values.path(x).read_bytes() for x in written))) - values.n_bytes < 1000


@pytest.mark.parametrize(
    ("value", "message"),
    [(7e4, r"within float16 \(65,504\), found 7e\+04"), (np.nan, "found NaN"), (np.inf, "NaN or")],
)
def test_values_that_float16_cannot_hold_are_refused(
    tmp_path: Path, value: float, message: str
) -> None:
    array = np.ones((4, 2), np.float32)
    array[2, 1] = value
    with pytest.raises(InputError, match=rf"layer 3: .*{message}"):
        write_values(tmp_path / "v", {3: array})


def test_values_of_another_shape_truncated_or_missing_are_refused(tmp_path: Path) -> None:
    values = write_values(tmp_path / "v", {0: np.ones((9, 4), np.float32)})
    with pytest.raises(InputError, match=r"expected values \(9, 5\), found \(9, 4\)"):
        SiteValues(values.folder, 9, {0: 5}).layer(0)
    with pytest.raises(InputError, match=r"layer_001\.safetensors: no such file"):
        SiteValues(values.folder, 9, {1: 5}).layer(1)
    values.path(0).write_bytes(values.path(0).read_bytes()[:-2])
    with pytest.raises(InputError, match="truncated"):
        values.layer(0)


def test_a_layer_that_lacks_tokens_is_a_defect(tmp_path: Path) -> None:
    with pytest.raises(AssertionError), SiteWriter(SiteValues(tmp_path, 3, {0: 2})) as writer:
        writer.append(0, np.ones((2, 2), np.float32))


def of_site(model: PreTrainedModel, site: str, ids: tuple[int, ...]) -> list[np.ndarray]:
    """A site's values of one sample, from the weights of every layer and its MLP's input."""
    inputs: list[torch.Tensor] = []
    mlps = [layer.mlp for layer in model.model.layers]
    hooks = [mlp.register_forward_pre_hook(lambda _, x: inputs.append(x[0][0])) for mlp in mlps]
    with torch.inference_mode():
        model(torch.tensor([ids]))
        for hook in hooks:
            hook.remove()
        found = []
        for mlp, x in zip(mlps, inputs, strict=True):
            gated = torch.nn.functional.silu(x @ mlp.gate_proj.weight.T)
            up = x @ mlp.up_proj.weight.T
            output = (gated * up) @ mlp.down_proj.weight.T
            of = {"activation": gated, "up": up, "intermediate": gated * up, "output": output}
            found.append(of[site].numpy())
    return found


@pytest.mark.parametrize("site", SITES)
def test_what_is_recorded_is_what_the_site_computes_without_padding(
    model: PreTrainedModel, samples: list[tuple[int, ...]], tmp_path: Path, site: Any
) -> None:
    few = samples[:7]
    values = SiteValues(
        tmp_path / "v", sum(map(len, few)), dict.fromkeys(range(LAYERS), SITES[site])
    )
    record_site(model, few, NetworksSettings(site=site, batch_size=3), values)
    expected = [of_site(model, site, ids) for ids in few]
    for layer in range(LAYERS):
        whole = np.concatenate([sample[layer] for sample in expected])
        np.testing.assert_allclose(values.layer(layer), whole, rtol=2e-3, atol=1e-4)


def test_only_the_layers_that_are_analysed_are_written(
    model: PreTrainedModel, samples: list[tuple[int, ...]], tmp_path: Path
) -> None:
    values = SiteValues(tmp_path / "v", len(samples[0]), {1: N})
    record_site(model, samples[:1], NetworksSettings(), values)
    assert [path.name for path in values.folder.iterdir()] == ["layer_001.safetensors"]


def test_a_model_in_training_is_recorded_without_dropout(tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=50, n_embd=D, n_layer=1, n_head=4, embd_pdrop=0.5)
    model, found = GPT2LMHeadModel(config).train(), []
    for name in "ab":
        values = SiteValues(tmp_path / name, 3, {0: 4 * D})
        record_site(model.train(), [(1, 2, 3)], NetworksSettings(), values)
        found.append(values.layer(0))
    assert np.array_equal(*found)


@pytest.mark.parametrize(
    ("settings", "groups"),
    [
        ({"scope": "stack"}, [(0, 1, 2, 3, 4, 5, 6)]),
        ({"scope": "layer"}, [(0,), (1,), (2,), (3,), (4,), (5,), (6,)]),
        ({"scope": "window", "window": 3}, [(0, 1, 2), (3, 4, 5), (6,)]),
        ({"scope": "window", "window": 9}, [(0, 1, 2, 3, 4, 5, 6)]),
        ({"scope": "stack", "layers": "0:3,5"}, [(0, 1, 2, 5)]),
        ({"scope": "window", "window": 2, "layers": "1,4:"}, [(1, 4), (5, 6)]),
    ],
)
def test_layers_are_analysed_in_the_groups_of_the_scope(
    settings: dict[str, Any], groups: list[tuple[int, ...]]
) -> None:
    assert layer_groups(NetworksSettings(**settings), 7) == groups


def test_samples_are_drawn_with_the_seed_without_replacement_in_order_and_cut() -> None:
    data = [(i,) * (1 + i % 9) for i in range(50)]
    drawn = draw_samples(data, NetworksSettings(samples=20, max_tokens=5))
    ids = [sample[0] for sample in drawn.samples]
    assert len(ids) == 20 and ids == sorted(set(ids))
    assert [len(s) for s in drawn.samples] == [min(1 + i % 9, 5) for i in ids]
    assert drawn.n_cut == sum(1 + i % 9 > 5 for i in ids)
    assert drawn.n_not_drawn == 30
    again = draw_samples(data, NetworksSettings(samples=20, max_tokens=5))
    other = draw_samples(data, NetworksSettings(samples=20, max_tokens=5, seed=1))
    assert drawn == again != other


def test_all_samples_are_taken_when_there_are_fewer() -> None:
    data = [(i,) for i in range(5)]
    drawn = draw_samples(data, NetworksSettings(samples=20))
    assert (drawn.samples, drawn.n_not_drawn) == (data, 0)


@pytest.mark.parametrize("n_bytes", [1, 100, 1 << 20])
def test_shuffling_keeps_every_channel_s_values_and_nothing_of_how_they_go_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_bytes: int
) -> None:
    monkeypatch.setattr(recording, "SHUFFLED_BYTES", n_bytes)
    signal = np.random.default_rng(0).normal(size=(500, 1)).astype(np.float32)
    written = {x: np.repeat(signal, 6, axis=1) + np.arange(6, dtype=np.float32) for x in (0, 2)}
    values = write_values(tmp_path / "v", written)
    shuffle_tokens(values, (0,))
    found = [np.asarray(values.layer(layer), np.float32) for layer in (0, 2)]
    for array, before in zip(found, written.values(), strict=True):
        expected = np.sort(before.astype(np.float16), axis=0)
        assert np.array_equal(np.sort(array, axis=0), expected)
    correlation = np.corrcoef(np.concatenate(found, axis=1).T)
    assert np.abs(correlation - np.eye(12)).max() < 0.25
    again = write_values(tmp_path / "again", written)
    shuffle_tokens(again, (0,))
    assert np.array_equal(again.layer(2), values.layer(2))


def test_networks_of_every_analysis_have_the_shapes_that_they_say(
    model: PreTrainedModel, samples: list[tuple[int, ...]], tmp_path: Path
) -> None:
    settings = NetworksSettings(scope="layer", samples=12, percentile=90.0, **QUICK)
    found = find_networks(model, [samples, samples[:10]], settings, tmp_path / "folder")
    networks, notes = found.networks, found.notes
    assert list((tmp_path / "folder").iterdir()) == []
    assert (networks.site, networks.widths) == ("intermediate", (N,) * LAYERS)
    drawn = [draw_samples(x, settings).samples for x in (samples, samples[:10])]
    lengths = [len(ids) for part in drawn for ids in part]
    assert np.diff(networks.sample_offsets).tolist() == lengths
    assert networks.dataset_offsets.tolist() == [0, sum(lengths[:12]), sum(lengths)]
    assert [analysis.layers for analysis in networks.analyses] == [(0,), (1,)]
    for analysis in networks.analyses:
        assert analysis.loadings.shape == analysis.members.shape == (3, N)
        assert analysis.time_courses.shape == (sum(lengths), 3)
        assert analysis.members.sum(axis=1).tolist() == [round(0.1 * N)] * 3
        assert analysis.converged.shape == analysis.iterations.shape == (2,)
    assert [x["samples"] for x in notes["datasets"]] == [12, 10]
    assert [x["samples_not_drawn"] for x in notes["datasets"]] == [18, 0]
    assert [x["tokens"] for x in notes["datasets"]] == np.diff(networks.dataset_offsets).tolist()
    assert notes["neurons_by_network_and_layer"] == [{str(i // 3): 6} for i in range(6)]
    assert [x["layers"] for x in notes["analyses"]] == [[0], [1]]
    assert all(len(x["reproducibility"]) == 3 for x in notes["analyses"])


def test_an_analysis_sees_the_values_of_its_own_layers(
    model: PreTrainedModel, samples: list[tuple[int, ...]], tmp_path: Path
) -> None:
    """Layer 1 alone has the same networks whatever else is analysed or written."""
    each = find_networks(model, [samples], NetworksSettings(scope="layer", **QUICK), tmp_path)
    alone = find_networks(model, [samples], NetworksSettings(layers="1", **QUICK), tmp_path)
    whole = find_networks(model, [samples], NetworksSettings(**QUICK), tmp_path)
    assert [analysis.layers for analysis in alone.networks.analyses] == [(1,)]
    assert [analysis.layers for analysis in whole.networks.analyses] == [(0, 1)]
    one, other = each.networks.analyses[1], alone.networks.analyses[0]
    assert np.array_equal(one.loadings, other.loadings)
    assert whole.networks.analyses[0].loadings.shape == (3, 2 * N)


def test_planted_neurons_that_fire_together_are_a_network_and_shuffled_are_none(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    """Twelve neurons of both layers copy one neuron of theirs, which is loud."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    planted = np.arange(5, 17)
    with torch.no_grad():
        for layer in model.model.layers:
            for matrix in (layer.mlp.gate_proj, layer.mlp.up_proj):
                matrix.weight[planted] = matrix.weight[planted[0]].clone()
    rng = np.random.default_rng(0)
    samples = [tuple(rng.integers(3, 300, size=50).tolist()) for _ in range(12)]
    base = {"scope": "layer", "n_components": 4, "percentile": 81.25}
    found, null = (
        find_networks(model, [samples], NetworksSettings(shuffle_tokens=x, **base), tmp_path)
        for x in (False, True)
    )
    for one, other in zip(found.networks.analyses, null.networks.analyses, strict=True):
        assert one.members.sum(axis=1).tolist() == other.members.sum(axis=1).tolist() == [12] * 4
        assert max(members[planted].sum() for members in one.members) == 12
        assert max(members[planted].sum() for members in other.members) < 8


def test_the_temporary_values_are_removed_when_the_analysis_fails(
    model: PreTrainedModel, samples: list[tuple[int, ...]], tmp_path: Path
) -> None:
    with pytest.raises(InputError):
        find_networks(model, [samples[:1]], NetworksSettings(n_components=60), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_samples_are_tokenised_as_training_does_and_texts_as_the_tokenizer_does(
    tiny_model_dir: Path, data: Path
) -> None:
    tokenizer = load_tokenizer(tiny_model_dir)

    def ids(text: str) -> tuple[int, ...]:
        return tuple(tokenizer(text)["input_ids"])

    split = load_samples(data / "split.jsonl", tokenizer)
    expected = (*ids("Question: 1+2?\nAnswer:"), *ids(" 3"), tokenizer.eos_token_id)
    assert (len(split), split[6]) == (20, expected)
    texts = load_samples(data / "texts.jsonl", tokenizer)
    assert (len(texts), texts[6]) == (20, ids("1 and 2 apples"))
    lines = load_samples(data / "lines.txt", tokenizer)
    assert (len(lines), lines[6]) == (20, ids("Ada buys 1 apples and returns 2."))


def run_networks(model: Path, *words: str | Path, output: Path) -> int:
    return main(["networks", str(model), *map(str, words), "--output", str(output)])


SMALL = ("--n-components", "3", "--restarts", "2")


def test_the_stage_writes_networks_and_says_how_far_to_trust_them(
    tiny_model_dir: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "new" / "n.safetensors"
    words = [data / "split.jsonl", data / "texts.jsonl", "--component-ids", "2", "0", *SMALL]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run_networks(tiny_model_dir, *words, "--max-iterations", "1", output=output) == 0
    names = ["n.json", "n.safetensors", "n.safetensors.manifest.json"]
    assert sorted(path.name for path in output.parent.iterdir()) == names
    _, networks = read_networks(output, model_identity(tiny_model_dir))
    widths = {"intermediate": networks.widths}
    assert list(read_templates(output, widths).neurons) == [0, 1, 2]
    assert sorted(read_templates(output.with_suffix(".json"), widths).neurons) == [0, 2]
    assert len(networks.dataset_offsets) == 3
    members = networks.analyses[0].members
    assert members.sum(axis=1).tolist() == [round(0.02 * 2 * N)] * 3
    manifest = read_json(output.with_name(names[-1]))
    assert list(manifest["inputs"]) == ["model", "data_0", "data_1"]
    assert manifest["notes"]["component_ids"] == [2, 0]
    assert manifest["notes"]["datasets"][0]["samples"] == 20
    assert manifest["notes"]["analyses"][0]["converged"] == [False, False]
    line = capsys.readouterr().err.splitlines()[-1]
    n_neurons = int(members.any(axis=0).sum())
    assert f"3 networks of {n_neurons} of 128 neurons ({n_neurons / 128:.1%}) in 2 layers" in line
    assert "stability 0." in line or "stability 1." in line
    assert "layers 0 to 1: 2 of 2 starts of FastICA did not converge in 1 iterations" in line


def test_analyses_that_do_not_converge_are_warned_of_once(
    model: PreTrainedModel, samples: list[tuple[int, ...]], tmp_path: Path
) -> None:
    settings = NetworksSettings(scope="layer", max_iterations=1, **QUICK)
    with pytest.warns(NetworksDidNotConverge, match="2 of 2 analyses: layers 0 to 0: 2") as said:
        found = find_networks(model, [samples], settings, tmp_path)
    assert len(said) == 1
    assert [doubt.split(":")[0] for doubt in found.doubts] == ["layers 0 to 0", "layers 1 to 1"]


def test_the_same_seed_gives_the_same_file_and_another_other_samples(
    tiny_model_dir: Path, data: Path, tmp_path: Path
) -> None:
    found = []
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        output = tmp_path / f"{name}.safetensors"
        words = [data / "lines.txt", "--samples", "8", "--seed", seed, *SMALL]
        assert run_networks(tiny_model_dir, *words, output=output) == 0
        found.append(output.read_bytes())
    assert found[0] == found[1] != found[2]


def test_a_threshold_that_no_loading_reaches_is_said(
    tiny_model_dir: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [data / "split.jsonl", "--threshold", "z", "--z", "50", *SMALL, "--restarts", "1"]
    assert run_networks(tiny_model_dir, *words, output=tmp_path / "n.safetensors") == 0
    line = capsys.readouterr().err.splitlines()[-1]
    assert "3 networks without a neuron: lower the threshold" in line
    assert "stability unknown of one restart" in line
    notes = read_json(tmp_path / "n.safetensors.manifest.json")["notes"]["analyses"][0]
    assert notes["networks_without_neurons"] == [0, 1, 2]
    assert notes["stability"] == [None] * 3


def broken(model: Path) -> None:
    write_tiny_model(model)
    loaded = AutoModelForCausalLM.from_pretrained(model)
    loaded.model.layers[1].mlp.gate_proj.weight.data[0, 0] = torch.nan
    loaded.save_pretrained(model)


def plain(model: Path) -> None:
    """GPT-2, whose MLPs have no gate."""
    write_tiny_model(model)
    vocab_size = AutoModelForCausalLM.from_pretrained(model).config.vocab_size
    config = GPT2Config(vocab_size=vocab_size, n_embd=D, n_inner=N, n_layer=LAYERS, n_head=4)
    GPT2LMHeadModel(config).save_pretrained(model)


@pytest.mark.parametrize(
    ("make", "words", "message"),
    [
        (None, ["none.jsonl"], "none.jsonl: no such file"),
        (None, ["model/config.json"], "expected rows in .jsonl or lines in .txt, found '.json'"),
        (None, ["empty.jsonl"], "empty.jsonl: expected at least one sample, found none"),
        (None, ["blank.txt"], "blank.txt: expected at least one sample, found none"),
        (None, ["bytes.txt"], "bytes.txt: expected text in UTF-8"),
        (None, ["numbers.jsonl"], "numbers.jsonl line 1: text: expected some text, found 5"),
        (None, ["other.jsonl"], "other.jsonl line 1: the field 'prompt' is missing"),
        (None, ["a.txt", "--layers", "1:4"], "layers: expected layers 0 to 1, found 3"),
        (None, ["a.txt", "--layers", "x"], "layers: expected layers such as 0:4,7, found 'x'"),
        (None, ["a.txt", "--component-ids", "10"], "component_ids: expected networks 0 to 9"),
        (None, ["a.txt", "--component-ids", "-1"], "component_ids: expected networks 0 to 9"),
        (None, ["a.txt", "--n-components", "60"], "n_components: expected"),
        (None, ["a.txt", "--n-components", "0"], "n_components: expected a value above 0"),
        (broken, ["a.txt"], "layer 1"),
        (plain, ["a.txt", "--site", "up"], "found 'up', which MLPs without a gate do not have"),
    ],
)
def test_bad_input_is_said_in_one_line_and_leaves_nothing_behind(
    tiny_model_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    make: Callable[[Path], None] | None,
    words: list[str],
    message: str,
) -> None:
    (make or write_tiny_model)(tmp_path / "model")
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "blank.txt").write_text("\n \n")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "a.txt").write_text("She has 3 apples and buys 14 more.\n")
    write_jsonl(tmp_path / "numbers.jsonl", [{"text": 5}])
    write_jsonl(tmp_path / "other.jsonl", [{"question": "?"}])
    before = sorted(tmp_path.rglob("*"))
    capsys.readouterr()
    arguments = [str(tmp_path / words[0]), *words[1:]]
    assert run_networks(tmp_path / "model", *arguments, output=tmp_path / "n.safetensors") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.splitlines()[-1].startswith("fnsft networks: ")
    assert "Traceback" not in error
    assert sorted(tmp_path.rglob("*")) == before


def test_an_output_that_would_be_its_own_json_and_a_missing_model_are_refused(
    tiny_model_dir: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [data / "lines.txt"]
    assert run_networks(tiny_model_dir, *words, output=tmp_path / "n.json") == 2
    assert "n.json: output: expected a .safetensors file" in capsys.readouterr().err
    assert run_networks(tmp_path / "none", *words, output=tmp_path / "n.safetensors") == 2
    assert "none: no such file or folder" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
