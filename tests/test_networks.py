"""Networks on disk: as tensors with loadings, and as people and other tools write them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fnsft.artifacts.networks import (
    Analysis,
    Networks,
    Templates,
    Widths,
    read_networks,
    read_templates,
    stated_widths,
    write_networks,
    write_templates,
)
from fnsft.artifacts.storage import read_json
from fnsft.errors import InputError

# A model of 4 layers, d_mlp 60, d_model 16.
WIDTHS: Widths = {
    "activation": (60,) * 4,
    "up": (60,) * 4,
    "intermediate": (60,) * 4,
    "output": (16,) * 4,
}


def read(folder: Path, text: str) -> Templates:
    (folder / "neurons.json").write_text(text)
    return read_templates(folder / "neurons.json", WIDTHS)


def listed(templates: Templates) -> dict[int, dict[int, list[int]]]:
    return {
        number: {layer: neurons.tolist() for layer, neurons in layers.items()}
        for number, layers in templates.neurons.items()
    }


def found_networks(seed: int = 0) -> Networks:
    """Two analyses, of layers 0 and 2 and of layer 1, of a model with layers of three widths."""
    rng = np.random.default_rng(seed)
    widths, n_tokens = (7, 5, 6, 5), 11

    def analysis(*layers: int, k: int) -> Analysis:
        shape = (k, sum(widths[layer] for layer in layers))
        loadings = rng.normal(size=shape).astype(np.float32)
        return Analysis(
            layers=layers,
            loadings=loadings,
            members=np.abs(loadings) > 0.9,
            time_courses=rng.normal(size=(n_tokens, k)).astype(np.float32),
            variance_share=rng.random(k),
            stability=np.array([0.5] * (k - 1) + [np.nan]),
            converged=np.array([True, False]),
            iterations=np.array([7, 400]),
        )

    analyses = [analysis(0, 2, k=3), analysis(1, k=2)]
    offsets = np.array([0, 4, 9, n_tokens]), np.array([0, 9, n_tokens])
    return Networks("activation", widths, analyses, *offsets)


def test_what_is_written_is_read_back_bit_for_bit(tmp_path: Path) -> None:
    networks = found_networks()
    write_networks(tmp_path / "n.safetensors", networks, "model")
    header, found = read_networks(tmp_path / "n.safetensors", "model")
    assert header.model == "model"
    assert (found.site, found.widths) == (networks.site, networks.widths)
    for name in ("sample_offsets", "dataset_offsets"):
        assert np.array_equal(getattr(found, name), getattr(networks, name))
    for one, other in zip(found.analyses, networks.analyses, strict=True):
        for name, value in vars(one).items():
            expected = np.asarray(getattr(other, name))
            assert np.asarray(value).dtype == expected.dtype
            assert np.asarray(value).tobytes() == expected.tobytes(), name


def test_networks_are_numbered_through_and_their_neurons_counted_within_layers() -> None:
    networks = found_networks()
    first, second = networks.analyses
    expected = {}
    for k in range(3):
        flat = np.flatnonzero(first.members[k])
        expected[k] = {
            0: [i for i in flat if i < 7],
            2: [i - 7 for i in flat if i >= 7],
        }
    for k in range(2):
        expected[3 + k] = {1: np.flatnonzero(second.members[k]).tolist()}
    assert listed(networks.templates) == expected


@pytest.mark.parametrize("ids", [(), (4, 1)])
def test_the_json_beside_the_tensors_is_the_same_networks(
    tmp_path: Path, ids: tuple[int, ...]
) -> None:
    networks = found_networks()
    write_networks(tmp_path / "n.safetensors", networks, "model", ids)
    widths: Widths = {"activation": networks.widths}
    whole = listed(read_templates(tmp_path / "n.safetensors", widths, "model"))
    chosen = read_templates(tmp_path / "n.json", widths)
    assert (chosen.site, chosen.widths) == ("activation", networks.widths)
    assert listed(chosen) == {number: whole[number] for number in ids or range(5)}
    layout = read_json(tmp_path / "n.json")["layout"]
    assert layout == {
        "site": "activation",
        "captured_layers_sorted": [0, 1, 2],
        "hidden_size": [7, 5, 6, 5],
    }


def test_a_network_without_neurons_is_read_back_and_refused_where_it_is_used(
    tmp_path: Path,
) -> None:
    templates = Templates("up", (9, 9), {0: {1: np.array([], int)}, 1: {0: np.array([3])}})
    write_templates(tmp_path / "n.json", templates, "n")
    found = read_templates(tmp_path / "n.json", {"up": (9, 9)})
    assert listed(found) == {0: {1: []}, 1: {0: [3]}}
    with pytest.raises(InputError, match="networks 0: expected at least one neuron"):
        found.union([0])


def test_a_union_has_the_neurons_of_all_networks_in_the_layers_chosen() -> None:
    one = {0: np.array([1, 3]), 2: np.array([0])}
    templates = Templates("up", (4, 5, 3), {2: one, 5: {0: np.array([0, 3])}})

    def chosen(*arguments: Any) -> list[list[int]]:
        found = templates.union(*arguments)
        assert [layer.dtype for layer in found] == [bool] * 3
        assert [layer.shape for layer in found] == [(4,), (5,), (3,)]
        return [np.flatnonzero(layer).tolist() for layer in found]

    assert chosen([2]) == [[1, 3], [], [0]]
    assert chosen([2, 5]) == [[0, 1, 3], [], [0]]
    assert chosen([2, 5], [1, 2]) == [[], [], [0]]
    with pytest.raises(InputError, match="expected networks of 2, 5, found 3"):
        templates.union([2, 3])
    with pytest.raises(InputError, match="at least one neuron in the layers chosen"):
        templates.union([5], [1, 2])


def test_the_neurons_of_plain_lists_are_one_network_of_the_intermediate(tmp_path: Path) -> None:
    found = read(tmp_path, json.dumps({"3": [59, 0, 7], "0": [10, 50], "1": []}))
    assert (found.site, found.widths) == ("intermediate", (60,) * 4)
    assert listed(found) == {0: {3: [0, 7, 59], 0: [10, 50], 1: []}}


def earlier(hidden_size: Any, templates: Any = None, **layout: Any) -> str:
    layout |= {"captured_layers_sorted": [0, 1], "hidden_size": hidden_size}
    found = {"0": {"0": [1, 15]}, "3": {"1": [2]}} if templates is None else templates
    return json.dumps({"name": "global_templates_v1", "layout": layout, "templates": found})


@pytest.mark.parametrize(
    ("hidden_size", "layout", "site"),
    [
        (16, {}, "output"),
        (60, {}, "intermediate"),
        (60, {"site": "up"}, "up"),
        ([60] * 4, {}, "intermediate"),
    ],
)
def test_a_file_of_an_earlier_tool_is_of_the_site_that_has_its_width(
    tmp_path: Path, hidden_size: Any, layout: dict[str, str], site: str
) -> None:
    found = read(tmp_path, earlier(hidden_size, **layout))
    assert (found.site, found.widths) == (site, tuple(WIDTHS[site]))
    assert listed(found) == {0: {0: [1, 15]}, 3: {1: [2]}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected JSON"),
        ("0: [1]", "expected JSON"),
        ("[1, 2]", r"expected layers and their neurons, as {\"0\": \[10, 50\]}, found \[1, 2\]"),
        ("null", "expected layers and their neurons.* found None"),
        ('{"first": [1]}', "expected layers 0 to 3, found 'first'"),
        ('{"4": [1]}', "expected layers 0 to 3, found '4'"),
        ('{"-1": [1]}', "expected layers 0 to 3, found '-1'"),
        ('{"01": [1]}', "expected layers 0 to 3, found '01'"),
        ('{"1": [1], "1": [2]}', "layer 1: expected it once"),
        ('{"2": 5}', "layer 2: expected a list of neurons, found 5"),
        ('{"2": {"5": 1}}', "layer 2: expected a list of neurons, found {'5': 1}"),
        ('{"2": [5, 60]}', "layer 2: expected neurons 0 to 59, found 60"),
        ('{"2": [-1]}', "layer 2: expected neurons 0 to 59, found -1"),
        ('{"2": [3.0]}', "layer 2: expected neurons 0 to 59, found 3.0"),
        ('{"2": [true]}', "layer 2: expected neurons 0 to 59, found True"),
        ('{"2": ["3"]}', "layer 2: expected neurons 0 to 59, found '3'"),
        ('{"2": [[3]]}', r"layer 2: expected neurons 0 to 59, found \[3\]"),
        ('{"2": [5, 3, 5]}', "layer 2: expected each neuron once, found 5 twice"),
        ("{}", "expected at least one neuron, found none"),
        ('{"2": []}', "expected at least one neuron, found none"),
        (earlier(17), "layout: .*found 17; the networks are of another model"),
        (earlier([60] * 3), r"layout: .*found \[60, 60, 60\]; the networks are of another"),
        (earlier(16, site="up"), "layout: .*found 16 of the site up; the networks are of another"),
        (earlier(60, site="gate"), "layout: site: expected one of activation, .*found 'gate'"),
        ('{"templates": {"0": {"0": [1]}}}', "layout: expected a hidden_size, found None"),
        ('{"layout": [], "templates": {}}', r"layout: expected a hidden_size, found \[\]"),
        (earlier(60, [1]), r"templates: expected networks, found \[1\]"),
        (earlier(60, {}), "expected at least one neuron, found none"),
        (earlier(60, {"0": {"1": []}}), "expected at least one neuron, found none"),
        (earlier(60, {"one": {"1": [2]}}), "templates: expected networks by number.*'one'"),
        (earlier(60, {"0": [1]}), "templates: expected networks by number.*'0'"),
        (earlier(60, {"0": {"4": [1]}}), "network 0: expected layers 0 to 3, found '4'"),
        (earlier(16, {"7": {"1": [16]}}), "network 7: layer 1: expected neurons 0 to 15, found 16"),
        (
            '{"layout": {"hidden_size": 60}, "templates": {"0": {"1": [1], "1": [2]}}}',
            "network 0: layer 1: expected it once",
        ),
        (
            '{"layout": {"hidden_size": 60}, "templates": {"0": {"1": [1]}, "0": {"1": [2]}}}',
            "templates: expected networks by number, each once.*'0'",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=rf"neurons\.json: {message}") as raised:
        read(tmp_path, text)
    assert "\n" not in str(raised.value)


def test_a_missing_file_is_named_with_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "network.json").write_text("{}")
    for name in ("neurons.json", "neurons.safetensors"):
        with pytest.raises(InputError, match=rf"{name}: no such file.*holds network\.json"):
            read_templates(tmp_path / name, WIDTHS)


def test_tensors_of_another_model_or_shape_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    path, networks = tmp_path / "n.safetensors", found_networks()
    write_networks(path, networks, "model")
    with pytest.raises(InputError, match="made from model model, expected model other"):
        read_templates(path, {"activation": networks.widths}, "other")
    message = r"expected 4 layers of 60 \(activation\), found 4 of 5 or 6 or 7; .* another model"
    with pytest.raises(InputError, match=message):
        read_templates(path, WIDTHS)
    with pytest.raises(InputError, match=r"0 layers of none \(activation\)"):
        read_templates(path, {"output": networks.widths})
    networks.analyses[1].time_courses.resize((10, 2), refcheck=False)
    write_networks(path, networks, "model")
    with pytest.raises(InputError, match=r"damaged \(analysis_001\.time_courses: expected \(11, 2"):
        read_networks(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="truncated"):
        read_networks(path)


def test_files_say_their_model_s_widths_the_one_that_says_most_first(tmp_path: Path) -> None:
    networks = found_networks()
    write_networks(tmp_path / "n.safetensors", networks, "model")
    files = {
        "plain": '{"2": [1]}',
        "bare": earlier(16),
        "sited": earlier(16, site="output"),
        "each": earlier([7, 8], site="up"),
        "wrong": earlier("16"),
    }
    for name, text in files.items():
        (tmp_path / f"{name}.json").write_text(text)

    def stated(*names: str) -> Widths:
        return stated_widths([tmp_path / name for name in names])

    neurons = ("activation", "up", "intermediate")
    assert stated("plain.json", "n.safetensors") == dict.fromkeys(neurons, networks.widths)
    assert stated("bare.json", "plain.json") == dict.fromkeys(neurons, (16,) * 3)
    assert stated("bare.json", "sited.json") == {"output": (16,) * 2}
    assert stated("bare.json", "each.json") == dict.fromkeys(neurons, (7, 8))
    for names in (["plain.json"] * 2, ["plain.json", "wrong.json"]):
        with pytest.raises(InputError, match=r"expected one file that says.*give networks\.safe"):
            stated(*names)


def test_plain_lists_are_refused_where_only_outputs_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "n.json").write_text('{"0": [1]}')
    with pytest.raises(InputError, match="expected networks of output, found plain lists"):
        read_templates(tmp_path / "n.json", {"output": (16,)})
