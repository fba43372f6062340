"""Attention heads: the channels of their outputs are neurons to graphs and to masks on weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES, IDS, LAYERS, LLAMA, D, model_of, write_family
from neuron_runs import (
    assert_masks_are_the_reference,
    assert_same_bits,
    last_line,
    layers_of,
    made,
    token_ids,
    watched_steps,
)
from runs import train
from test_resume import assert_alike, kill_at
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from fnsft.architectures import (
    graph_shape,
    head_blocks,
    head_matrices,
    neuron_activity,
    neuron_biases,
)
from fnsft.artifacts.graphs import read_graph
from fnsft.artifacts.measures import read_measures
from fnsft.artifacts.tensors import Header
from fnsft.artifacts.training import read_training
from fnsft.cli.main import main
from fnsft.errors import InputError
from fnsft.training.files import GRAPH_FOLDER

WIDTH = 32  # four heads of eight channels
AS_MANY = {"num_key_value_heads": 4}
# The parameters that hold a head's channels, and where value's rows are no channel's, output alone.
CASES: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "own values": ("Llama", AS_MANY, ["v_proj", "o_proj"]),
    "grouped": ("Llama", {}, ["o_proj"]),
    "fused": ("GPT2", {"n_positions": 512}, ["c_attn", "c_proj"]),
}
WITH_VALUES = {
    "Llama": LLAMA | AS_MANY,
    "Qwen2": LLAMA | AS_MANY,  # with biases
    "Phi3": LLAMA | AS_MANY,  # queries, keys and values in one
    "Phi": LLAMA | AS_MANY,
    "Mixtral": AS_MANY,
    "GPT2": {},
    "GPTJ": {},
    "OPT": {},
    "Mpt": {},
}


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    family, options, names = CASES[request.param]
    path = tmp_path_factory.mktemp("heads") / "model"
    return write_family(path, family, **options), names


@pytest.fixture(scope="module")
def files(case: Any, data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return made(case[0], data, tmp_path_factory.mktemp("files"), "--neurons", "heads")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its MLPs and its heads have one width, so that shapes do not tell their graphs apart."""
    path = tmp_path_factory.mktemp("llama") / "model"
    return write_family(path, "Llama", **AS_MANY, intermediate_size=WIDTH)


def test_watched_channels_of_heads_make_the_attention_s_output() -> None:
    """What is recorded, through the output projection, is what attention returns."""
    for family in FAMILIES:
        model = model_of(family)
        outputs: list[Tensor] = []
        recorded: dict[int, Tensor] = {}
        projections = [model.get_submodule(block.output) for block in head_blocks(model)]
        handles = [
            projection.register_forward_hook(lambda _, x, y, to=outputs: to.append(y.detach()))
            for projection in projections
        ]
        with torch.no_grad(), neuron_activity(model, recorded.__setitem__, "heads"):
            model(IDS)
        for handle in handles:
            handle.remove()
        assert not any(module._forward_pre_hooks for module in model.modules())
        for layer, (projection, output) in enumerate(zip(projections, outputs, strict=True)):
            assert recorded[layer].shape == (IDS.numel(), WIDTH)
            weight = projection.weight if isinstance(projection, nn.Linear) else projection.weight.T
            bias = 0 if projection.bias is None else projection.bias
            made_of_it = recorded[layer] @ weight.T + bias
            expected = output.reshape(-1, D)
            torch.testing.assert_close(made_of_it.detach(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", WITH_VALUES)
def test_a_heads_channel_is_undone_in_its_rows_of_value_as_in_its_column_of_output(
    family: str,
) -> None:
    """With the bias of value; no head reads another's values."""
    model = model_of(family, **WITH_VALUES[family])
    parts = [m for m in head_matrices(model) if m.layer == 1]
    biases = [m for m in neuron_biases(model, "heads") if m.layer == 1]
    assert [m.role for m in parts] == ["value", "output"]
    with torch.no_grad():
        bare = model(IDS).logits
    undone = []
    for group in ([parts[0], *biases], [parts[1]]):
        views = [m.view(m.parameter.data).movedim(m.neuron_axis, 0) for m in group]
        kept = [view[[3, 17]].clone() for view in views]
        for view in views:
            view[[3, 17]] = 0
        with torch.no_grad():
            undone.append(model(IDS).logits)
        for view, old in zip(views, kept, strict=True):
            view[[3, 17]] = old
    assert (undone[0] - bare).abs().max() > 1e-3
    torch.testing.assert_close(undone[0], undone[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_matrices_of_heads_share_memory_and_name_their_parameters(family: str) -> None:
    model = model_of(family)
    matrices, parameters = head_matrices(model), dict(model.named_parameters())
    assert graph_shape(model, "heads") == (LAYERS, WIDTH)
    assert [m.index for m in matrices] == list(range(len(matrices)))
    grouped = family in WITH_VALUES and LLAMA in (FAMILIES[family],)
    roles = ["output"] if grouped or family not in WITH_VALUES else ["value", "output"]
    assert [(m.layer, m.role) for m in matrices] == [(i, r) for i in range(LAYERS) for r in roles]
    for matrix in matrices:
        assert parameters[matrix.name.partition("[")[0]] is matrix.parameter
        view = matrix.view(matrix.parameter)
        assert sorted(view.shape) == sorted((WIDTH, D))
        assert view.untyped_storage().data_ptr() == matrix.parameter.untyped_storage().data_ptr()


def test_bits_of_a_heads_dump_are_the_signs_of_what_the_output_projection_reads(
    case: Any, files: dict[str, Path], data: Path
) -> None:
    """One sample at a time."""
    folder, names = case
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    paths = [p for p in dict(model.named_modules()) if p.endswith(f"attn.{names[-1]}")]
    read: list[list[Tensor]] = [[] for _ in paths]
    for path, seen in zip(paths, read, strict=True):
        module = model.get_submodule(path)
        module.register_forward_pre_hook(lambda _, x, to=seen: to.append(x[0][0].detach()))
    for ids in token_ids(folder, data):
        model(input_ids=torch.tensor([ids]))
    found = layers_of(files["dump"])
    assert len(found) == LAYERS
    for bits, values in zip(found, read, strict=True):
        assert_same_bits(bits, torch.cat(values))


@pytest.mark.parametrize("name", CASES)
def test_masks_of_heads_are_the_top_of_the_collaborative_score(name: str) -> None:
    family, options, names = CASES[name]
    model = model_of(family, **options)
    model(input_ids=IDS, labels=IDS).loss.backward()
    matrices = head_matrices(model)
    assert [m.module.rpartition(".")[2] for m in matrices] == names * LAYERS
    assert_masks_are_the_reference(matrices, WIDTH)


def test_runs_of_heads_hold_what_their_masks_leave_out(
    case: Any,
    files: dict[str, Path],
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Queries and keys beside the values, as all that has no mask, train."""
    folder, names = case
    graph = read_graph(files["graph"])
    assert (graph.n_layers, graph.d_mlp, graph.neurons) == (LAYERS, WIDTH, "heads")
    settings = {"method": "collab", "fraction": 0.3, "k": 5, "weight_decay": 0.1}
    settings |= {"neurons": "heads", "graph": files["graph"], "applies_to": "update"}
    with watched_steps(monkeypatch) as masks:
        assert train(folder, data, tmp_path / "run", **settings, telemetry_steps=1) == 0
    assert len(masks) == 4 * LAYERS * len(names)
    for mask in masks:
        if mask.shape == (D, 3 * WIDTH):
            assert mask[:, : 2 * WIDTH].all()
            mask = mask[:, 2 * WIDTH :]
        assert int(mask.sum()) == round(0.3 * WIDTH * D)
    assert read_training(tmp_path / "run").mask_pass_rate == pytest.approx(0.3, abs=1e-3)


def test_an_interrupted_run_of_heads_ends_as_an_uninterrupted_one(
    llama: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a graph that the run makes, which is one of heads too."""
    settings = {"method": "collab", "neurons": "heads", "k": 5, "telemetry_steps": 2}
    settings |= {"checkpoint_steps": 1, "validations": 2, "applies_to": "update"}
    assert train(llama, data, tmp_path / "whole", **settings) == 0
    kill_at(3, monkeypatch, lambda: train(llama, data, tmp_path / "resumed", **settings))
    made_by_it = tmp_path / "resumed.checkpoints" / GRAPH_FOLDER / "graph.safetensors"
    assert read_graph(made_by_it).neurons == "heads"
    assert train(llama, data, tmp_path / "resumed", **settings) == 0
    assert_alike(tmp_path / "whole", tmp_path / "resumed")


METHODS: dict[str, dict[str, Any]] = {
    "collab-static": {"method": "collab-static"},
    "active-neurons": {"method": "active-neurons"},
    "ssu": {"method": "ssu", "polarity": "train"},
}


@pytest.mark.parametrize("name", METHODS)
def test_methods_that_rank_neurons_let_weights_of_heads_alone_train(
    llama: Path, data: Path, tmp_path: Path, name: str
) -> None:
    settings = METHODS[name] | {"neurons": "heads", "max_steps": 2, "calibration_samples": 5}
    assert train(llama, data, tmp_path / "run", **settings, fraction=0.25) == 0
    before, after = (
        AutoModelForCausalLM.from_pretrained(path) for path in (llama, tmp_path / "run")
    )
    matrices = {id(m.parameter): m for m in head_matrices(after)}
    for old, new in zip(before.parameters(), after.parameters(), strict=True):
        moved = old != new
        if id(new) not in matrices:
            assert not moved.any()
            continue
        axis = matrices[id(new)].neuron_axis if name != "ssu" else 1
        assert int(moved.any(1 - axis).sum()) == pytest.approx(WIDTH / 4, abs=4 * (name[0] == "c"))


def test_measures_and_overlaps_of_a_graph_of_heads_look_at_their_weights(
    case: Any, files: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    folder, names = case
    graph, clusters = files["graph"], tmp_path / "clusters.safetensors"
    named = ["--model-name", "m", "--task", "t", "--graph-name", "g", "--run-seed", "0"]
    of_graph = ["--model", folder, "--graph", graph, *named]
    overlap, measures = tmp_path / "overlap.jsonl", tmp_path / "measures.jsonl"
    commands = [
        ["cluster", "--graph", graph, "--output", clusters, "--k", "5"],
        ["overlap", *of_graph, "--data", data / "train.jsonl", "--output", overlap],
        ["measure", *of_graph, "--clusters", clusters, "--activations", files["dump"]]
        + ["--output", measures, "--histograms", tmp_path / "h.safetensors", "--source", "model"],
    ]
    for command in commands:
        assert main([str(word) for word in command]) == 0
    roles = {m.part for m in read_measures([overlap])}
    assert roles == ({"output"} if len(names) == 1 else {"value", "output"})
    assert {m.layer for m in read_measures([measures])} == set(range(LAYERS))


def test_a_graph_of_heads_and_one_of_mlps_are_refused_for_each_other(
    llama: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where both have one shape."""
    for own, other in (("heads", "mlp"), ("mlp", "heads")):
        (tmp_path / own).mkdir()
        graph = made(llama, data, tmp_path / own, "--neurons", own)["graph"]
        capsys.readouterr()
        settings = {"method": "collab", "graph": graph, "neurons": other}
        assert train(llama, data, tmp_path / "run", **settings) == 2
        expected = f"expected neurons '{other}', found '{own}'; capture with --neurons {other}"
        assert expected in last_line(capsys)
        assert not (tmp_path / "run").exists() and not (tmp_path / "run.checkpoints").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "lora"}, "neurons: heads have weights to mask, and no networks, found method"),
        ({"method": "sft"}, "neurons: heads have weights to mask"),
        ({"mask_mode": "lesion"}, "found method 'sft' with mask_mode 'lesion'; use a method that"),
    ],
)
def test_what_heads_do_not_take_is_refused_before_a_run(
    llama: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    settings: dict[str, Any],
    message: str,
) -> None:
    assert train(llama, data, tmp_path / "run", neurons="heads", **settings) == 2
    assert message in last_line(capsys)
    assert not list(tmp_path.iterdir())


def test_values_of_heads_beside_queries_and_keys_do_not_train_alone(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_family(tmp_path / "model", "GPT2", n_positions=512)
    settings = {"method": "highest", "neurons": "heads", "unmasked": "freeze"}
    assert train(folder, data, tmp_path / "run", **settings) == 2
    assert "c_attn.weight[value]: expected a parameter of the heads' values" in last_line(capsys)
    assert not (tmp_path / "run").exists() and not (tmp_path / "run.checkpoints").exists()


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("DeepseekV3", {}, r"layers\.0: expected the projections of attention heads, one of self"),
        ("GPTBigCode", {"n_positions": 64, "n_embd": D, "n_head": 4, "n_layer": 2}, r"h\.0: .*add"),
    ],
)
def test_unknown_attention_is_refused_with_what_was_looked_for_in_heads(
    family: str, options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GPT-BigCode has GPT-2's names, and values that lie head by head."""
    monkeypatch.setitem(FAMILIES, "GPTBigCode", {"vocab_size": 64, "multi_query": False})
    with pytest.raises(InputError, match=message):
        head_blocks(model_of(family, **options))


def test_heads_of_a_width_that_the_configuration_does_not_say_are_refused() -> None:
    model = model_of("Llama")
    model.config.head_dim = 6
    with pytest.raises(InputError, match=r"o_proj: expected widths in, out \(24, 32\) of 4 heads"):
        head_blocks(model)


def test_headers_of_mlps_are_those_of_before_there_were_heads() -> None:
    assert "neurons" not in Header("kind", 1, "model").as_metadata()["fnsft"]
    header = Header("kind", 1, "model", "heads")
    assert Header.from_metadata(header.as_metadata(), Path("x")) == header
