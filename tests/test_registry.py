"""Names of data sets that stand for local files."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from fnsft.cli.main import main
from fnsft.config.stages import DataSettings
from fnsft.data.origins import rows_of
from fnsft.errors import InputError
from fnsft.hub.registry import Registry

ROWS = {"train": [{"question": "1+1?", "answer": "2"}], "test": [{"question": "é", "answer": "3"}]}


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    """A registry of a data set with two splits, and of one file."""
    entries: dict[str, Any] = {"org/sums": {}}
    for split, rows in ROWS.items():
        file = tmp_path / f"below/{split}.jsonl"
        file.parent.mkdir(exist_ok=True)
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        entries["org/sums"][split] = {"path": f"below/{split}.jsonl", "sha256": digest}
    entries["one"] = entries["org/sums"]["train"]
    path = tmp_path / "registry.yaml"
    path.write_text(yaml.safe_dump(entries, sort_keys=False))
    return path


def rows(name: str, registry: Path | None) -> dict[str, list[Any]]:
    found = rows_of(name, DataSettings(), registry)
    return {split: [row for _, row in rows] for split, rows in found.items()}


def test_a_registered_name_gives_the_rows_of_its_files(registry: Path) -> None:
    assert rows("org/sums", registry) == ROWS
    assert rows("one", registry) == {"train": ROWS["train"]}


def test_the_registry_in_data_is_found_by_itself(
    registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        rows("one", None)
    (tmp_path / "data").mkdir()
    registry.rename(tmp_path / "data/registry.yaml")
    (tmp_path / "below").rename(tmp_path / "data/below")
    assert rows("one", None) == {"train": ROWS["train"]}


def test_a_file_comes_before_a_registered_name(
    registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one").mkdir()
    (tmp_path / "one/train.jsonl").write_text('{"text": "mine"}\n')
    assert rows("one", registry) == {"train": [{"text": "mine"}]}


def test_fetch_writes_a_registered_split_without_a_network(
    registry: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.jsonl"
    words = ["fetch", "--kind", "dataset", "--name", "org/sums", "--registry", str(registry)]
    assert main([*words, "--split", "test", "--output", str(output)]) == 0
    assert output.read_text() == '{"question": "é", "answer": "3"}\n'
    assert main([*words, "--split", "dev", "--output", str(tmp_path / "other.jsonl")]) == 2
    assert "expected one of train, test, found 'dev'" in capsys.readouterr().err
    assert not (tmp_path / "other.jsonl").exists()


def test_a_file_that_has_changed_is_refused_before_it_is_read(registry: Path) -> None:
    file = registry.parent / "below/test.jsonl"
    was = hashlib.sha256(file.read_bytes()).hexdigest()
    file.write_text("{}\n")
    now = hashlib.sha256(b"{}\n").hexdigest()
    with pytest.raises(InputError) as error:
        rows("org/sums", registry)
    assert f"expected the SHA-256 {was[:12]}…" in str(error.value)
    assert f"found {now[:12]}…" in str(error.value)


def test_a_missing_file_is_named(registry: Path) -> None:
    (registry.parent / "below/train.jsonl").unlink()
    with pytest.raises(InputError, match="below/train.jsonl: no such file"):
        rows("one", registry)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[a]", "expected names of data sets"),
        ("a: [", "expected YAML"),
        ("a: x", "a: expected path and sha256, or splits, found 'x'"),
        ("a: {path: x}", "a: expected the keys path and sha256, found path"),
        ("a: {train: {path: x, sha256: y, size: 1}}", "a: train: expected the keys"),
        ("a: {path: x, sha256: abc}", r"expected 64 hex digits \(sha256sum .*x\), found abc"),
    ],
)
def test_what_is_no_registry_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "registry.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        Registry.read(tmp_path / "registry.yaml")
