"""Descriptions of neurons: the file, what is found in activations, and a published database."""

import gzip
import json
from pathlib import Path

import pytest

from fnsft.artifacts.descriptions import Description, read_descriptions, write_descriptions
from fnsft.errors import InputError

THREE = [
    Description(0, 0, "+", '" seven", " nine"', 0.5, ("she had « seven» apples",)),
    Description(0, 0, "-", '"\u2028"', 0.0),
    Description(1, 3, "-", '" dog"', 1.0),
]


@pytest.mark.parametrize("name", ["d.jsonl", "d.jsonl.gz"])
def test_descriptions_come_back_as_they_were_written(tmp_path: Path, name: str) -> None:
    write_descriptions(tmp_path / name, THREE, "abc", "database")
    found = read_descriptions(tmp_path / name, "abc")
    assert list(found) == THREE == list(found)
    assert found.of(0, 0) == THREE[:2] and found.of(1, 3) == THREE[2:] and found.of(1, 0) == []
    assert (found.n_layers, found.header.source) == (2, "database")


def test_the_same_descriptions_are_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.jsonl.gz", "b.jsonl.gz"):
        write_descriptions(tmp_path / name, THREE, "abc")
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()


def test_descriptions_out_of_order_twice_or_with_an_impossible_score_are_not_written(
    tmp_path: Path,
) -> None:
    for wrong in (
        [THREE[1], THREE[0]],
        [THREE[2], THREE[0]],
        [THREE[0], THREE[0]],
        [Description(0, 0, "+", "x", 1.5)],
        [Description(0, -1, "+", "x", 0.5)],
    ):
        with pytest.raises(InputError, match=r"d\.jsonl: expected"):
            write_descriptions(tmp_path / "d.jsonl", wrong, "abc")
        assert list(tmp_path.iterdir()) == []


def test_what_is_no_description_of_this_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl.gz"
    write_descriptions(path, THREE, "abc")
    with pytest.raises(InputError, match="made from model abc, expected model def"):
        read_descriptions(path, "def")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="found damage"):
        list(read_descriptions(path))
    (tmp_path / "other.jsonl").write_text('{"model": "x"}\n')
    with pytest.raises(InputError, match="found another file"):
        read_descriptions(tmp_path / "other.jsonl")
    lines = gzip.decompress(whole).decode().split("\n")
    for line, message in (
        (json.dumps({"layer": 0}), "line 5: the field 'neuron' is missing"),
        (
            lines[1].replace('"contexts": [', '"contexts": [1, '),
            "line 5: contexts: expected a list",
        ),
        (lines[1], "line 5: expected layers, neurons and signs in order"),
    ):
        (tmp_path / "d.jsonl").write_text("\n".join([*lines[:4], line, ""]))
        with pytest.raises(InputError, match=message):
            list(read_descriptions(tmp_path / "d.jsonl"))
