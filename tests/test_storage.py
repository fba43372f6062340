"""Files appear whole or not at all, and nothing of a user's is lost."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from fnsft.artifacts import identity, storage
from fnsft.artifacts.identity import model_identity
from fnsft.artifacts.manifest import recorded_stage
from fnsft.artifacts.storage import (
    existing,
    read_json,
    sampled_sha256_of,
    sha256_of,
    write_json,
    written_whole,
)
from fnsft.artifacts.tensors import Header, read_tensors, write_tensors
from fnsft.config.stages import ProjectSettings, TransferSettings
from fnsft.errors import InputError


def test_an_interrupted_write_leaves_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("old")
    with pytest.raises(KeyboardInterrupt), written_whole(file) as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    assert file.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_file_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").write_text("old")
    synced = []

    def full(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        assert (tmp_path / "out").read_text() == "old"
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with (
        pytest.raises(InputError, match="out: expected room to write it"),
        written_whole(tmp_path / "out") as partial,
    ):
        partial.write_text("new")
        inode = partial.stat().st_ino
    assert synced == [inode]
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_a_folder_is_replaced_only_when_a_stage_made_it(tmp_path: Path) -> None:
    folder = tmp_path / "precious"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="did not make"), written_whole(folder):
        raise AssertionError("not reached")
    assert (folder / "thesis.txt").exists()
    (tmp_path / "precious.manifest.json").write_text("{}")
    with written_whole(folder) as partial:
        partial.mkdir()
    assert os.listdir(folder) == []


def test_a_missing_file_is_named_with_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("")
    with pytest.raises(InputError, match=r"trian\.jsonl: no such file.*holds train\.jsonl"):
        existing(tmp_path / "trian.jsonl")


def test_damaged_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": ')
    with pytest.raises(InputError, match=r"a\.json: expected JSON"):
        read_json(tmp_path / "a.json")


def test_a_folders_hash_changes_with_content_and_names(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    (folder / "a").write_text("1")
    first = sha256_of(folder)
    (folder / "a").rename(folder / "b")
    second = sha256_of(folder)
    (folder / "b").write_text("2")
    assert len({first, second, sha256_of(folder)}) == 3


def test_models_of_one_shape_differ_in_identity(tiny_model_dir: Path, tmp_path: Path) -> None:
    from models import write_tiny_model

    write_tiny_model(tmp_path / "other", seed=1)
    write_tiny_model(tmp_path / "same", seed=0)
    identity = model_identity(tiny_model_dir)
    assert model_identity(tmp_path / "other") != identity
    assert model_identity(tmp_path / "same") == identity


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("graph", 1, "m1"), None),
        (("dump", 1, "m1"), "expected dump of schema 1, found graph of schema 1"),
        (("graph", 2, "m1"), "expected graph of schema 2, found graph of schema 1"),
        (("graph", 1, "m2"), "made from model m1, expected model m2"),
    ],
)
def test_a_tensor_file_says_what_it_is(tmp_path: Path, arguments, message) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, Header("graph", 1, "m1"), {"x": np.arange(3)})
    if message is None:
        assert read_tensors(path, *arguments)[1]["x"].tolist() == [0, 1, 2]
    else:
        with pytest.raises(InputError, match=message):
            read_tensors(path, *arguments)


def test_equal_tensors_give_equal_bytes_that_others_can_read(tmp_path: Path) -> None:
    files = [tmp_path / f"{i}.safetensors" for i in range(8)]
    for file in files:
        write_tensors(file, Header("graph", 1, "m1"), {"x": np.arange(3), "y": np.ones(2)})
    assert len({sha256_of(file) for file in files}) == 1
    usual = tmp_path / "usual"
    usual.touch()
    assert files[0].stat().st_mode == usual.stat().st_mode


def test_a_manifest_tells_how_its_output_came_to_be(tmp_path: Path) -> None:
    source, output = tmp_path / "in.txt", tmp_path / "out.txt"
    source.write_text("data")
    with recorded_stage(ProjectSettings(alpha=1.5), {"data": source}, output) as run:
        output.write_text("result")
        run.note(edges=3)
    manifest = json.loads((tmp_path / "out.txt.manifest.json").read_text())
    assert manifest["settings"]["alpha"] == 1.5
    assert manifest["inputs"]["data"]["sha256"] == sha256_of(source)
    assert manifest["notes"] == {"edges": 3}
    assert manifest["packages"]["torch"]


def test_a_failed_stage_leaves_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(InputError), recorded_stage(ProjectSettings(), {}, tmp_path / "out"):
        raise InputError("bad")
    assert not list(tmp_path.iterdir())


def test_large_inputs_are_told_apart_by_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here of 4 bytes each: the first, the last, and evenly between."""
    monkeypatch.setattr(storage, "MIB", 4)
    monkeypatch.setattr(storage, "SAMPLES", 5)
    monkeypatch.setattr(identity, "LARGE_BYTES", 100)
    file = tmp_path / "large"
    content = bytes(range(200))
    file.write_bytes(content)
    first = sampled_sha256_of(file)
    assert identity.identity_of_input(file) == {"path": str(file), "sampled_sha256": first}
    for place, noticed in ((0, True), (3, True), (51, True), (199, True), (30, False)):
        file.write_bytes(content[:place] + b"\xff" + content[place + 1 :])
        assert (sampled_sha256_of(file) != first) == noticed, place
    file.write_bytes(content + b"1")
    assert sampled_sha256_of(file) != first
    file.write_bytes(content[:100])
    assert set(identity.identity_of_input(file)) == {"path", "sha256"}


def test_a_file_never_takes_the_place_of_a_folder_nor_a_folder_that_of_a_file(
    tmp_path: Path,
) -> None:
    folder, file = tmp_path / "folder", tmp_path / "file"
    folder.mkdir()
    file.write_text("kept")
    with pytest.raises(InputError, match="expected a file or none, found a folder"):
        write_json(folder, {})
    with (
        pytest.raises(InputError, match="expected a folder or none, found a file"),
        written_whole(file) as partial,
    ):
        partial.mkdir()
    assert (folder.is_dir(), file.read_text()) == (True, "kept")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.parametrize("output", ["input.jsonl", "folder", "."])
def test_a_stage_refuses_an_output_that_is_or_holds_an_input(tmp_path: Path, output: str) -> None:
    (tmp_path / "input.jsonl").write_text("{}\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/deeper.jsonl").write_text("{}\n")
    inputs = {"rows": tmp_path / "input.jsonl", "more": tmp_path / "folder/deeper.jsonl"}
    with (
        pytest.raises(InputError, match="expected another place than"),
        recorded_stage(TransferSettings(), inputs, tmp_path / output),
    ):
        raise AssertionError("the stage has begun")
