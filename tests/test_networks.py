"""Networks as people write them: layers and their neurons, in JSON."""

import json
from pathlib import Path

import numpy as np
import pytest

from fnsft.artifacts.networks import read_neurons
from fnsft.errors import InputError


def read(folder: Path, text: str) -> list[np.ndarray]:
    """Read ``text`` as the neurons of a model of 4 layers of 60."""
    (folder / "neurons.json").write_text(text)
    return read_neurons(folder / "neurons.json", n_layers=4, d_mlp=60)


def test_the_neurons_of_every_layer_are_those_that_are_listed(tmp_path: Path) -> None:
    listed = {"3": [59, 0, 7], "0": [10, 50], "1": []}
    found = read(tmp_path, json.dumps(listed))
    assert [layer.dtype for layer in found] == [bool] * 4
    assert [layer.tolist() for layer in found] == [
        [neuron in listed.get(str(layer), []) for neuron in range(60)] for layer in range(4)
    ]


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
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=rf"neurons\.json: {message}") as raised:
        read(tmp_path, text)
    assert "\n" not in str(raised.value)


def test_a_missing_file_is_named_with_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "network.json").write_text("{}")
    with pytest.raises(InputError, match=r"neurons\.json: no such file.*holds network\.json"):
        read_neurons(tmp_path / "neurons.json", 4, 60)
