"""Rows of the hub, from a real server and through datasets' cache."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_hub import READER, FakeHub, Repo, python, running_hub

from fnsft.config.stages import DataSettings
from fnsft.data.origins import rows_of
from fnsft.errors import InputError

# Every query in one process: datasets takes seconds to import.
QUERIES = """
import json, sys
from fnsft.config.stages import DataSettings
from fnsft.data.origins import rows_of
from fnsft.errors import InputError

for name, settings in json.loads(sys.argv[1]):
    try:
        found = rows_of(name, DataSettings(**settings))
        # Twice, since rows are read anew in each pass.
        answer = {split: [list(rows), list(rows)] for split, rows in found.items()}
    except InputError as error:
        answer = str(error)
    print(json.dumps(answer))
"""
CARD = """---
configs:
- config_name: main
  data_files:
  - {split: train, path: main/train.jsonl}
  - {split: test, path: main/test.jsonl}
- config_name: other
  data_files: other.jsonl
---
"""
FILES = {
    "README.md": CARD.encode(),
    "main/train.jsonl": b'{"q": "1+1?", "a": "2"}\n{"q": "2+2?", "a": "4"}\n',
    "main/test.jsonl": b'{"q": "3+3?", "a": "6"}\n',
    "other.jsonl": b'{"text": "other"}\n',
}
ONLINE: dict[str, tuple[str, dict[str, Any]]] = {
    "main": ("org/sums", {"data_config": "main"}),
    "streamed": ("org/sums", {"data_config": "main", "streaming": True}),
    "no config": ("org/sums", {}),
    "wrong config": ("org/sums", {"data_config": "mine"}),
    "no revision": ("org/sums", {"data_config": "main", "data_revision": "v9"}),
    "gated": ("org/gated", {"data_config": "main"}),
    "missing": ("org/none", {}),
    "empty": ("org/empty", {}),
}
OFFLINE = {
    "main": ONLINE["main"],
    "streamed": ONLINE["streamed"],
    "not cached": ("org/sums", {"data_config": "other"}),
    "missing": ONLINE["missing"],
}


def asked(hub: FakeHub, folder: Path, queries: dict[str, Any], **more: str) -> dict[str, Any]:
    done = python(hub, folder, "-c", QUERIES, json.dumps(list(queries.values())), **more)
    assert done.returncode == 0, done.stderr
    return dict(zip(queries, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.fixture(scope="module")
def hub() -> Iterator[FakeHub]:
    with running_hub() as hub:
        hub.repos = {"org/sums": Repo(FILES), "org/gated": Repo(FILES, gated=True)}
        hub.repos["org/empty"] = Repo({"README.md": b"nothing"})
        yield hub


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("user")


@pytest.fixture(scope="module")
def online(hub: FakeHub, folder: Path) -> dict[str, Any]:
    return asked(hub, folder, ONLINE, HF_TOKEN=READER)


@pytest.fixture(scope="module")
def offline(hub: FakeHub, folder: Path, online: dict[str, Any]) -> dict[str, Any]:
    n_seen = len(hub.seen)
    answers = asked(hub, folder, OFFLINE, HF_HUB_OFFLINE="1")
    assert len(hub.seen) == n_seen
    return answers


@pytest.mark.parametrize("name", ["none/rows.csv", "none/rows.jsonl.gz", "a/b/c", "rows"])
def test_what_is_no_name_of_the_hub_is_a_missing_file(name: str) -> None:
    with pytest.raises(InputError, match=f"{name}: no such file or folder"):
        rows_of(name, DataSettings())


def test_rows_of_the_hub_are_numbered_by_split_in_every_pass(online: dict[str, Any]) -> None:
    train = [[1, {"q": "1+1?", "a": "2"}], [2, {"q": "2+2?", "a": "4"}]]
    test = [[1, {"q": "3+3?", "a": "6"}]]
    assert online["main"] == {"train": [train, train], "test": [test, test]}


def test_streamed_rows_are_the_same(online: dict[str, Any]) -> None:
    assert online["streamed"] == online["main"]


def test_offline_the_cache_gives_the_same_rows(
    online: dict[str, Any], offline: dict[str, Any]
) -> None:
    assert offline["main"] == online["main"]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("no config", "expected a configuration (data_config), one of main, other, found none"),
        ("wrong config", "one of main, other, found mine"),
        ("no revision", "no revision 'v9' of it"),
        ("gated", "HF_TOKEN has no access: request access at {url}/datasets/org/gated"),
        ("missing", "is there a 'org/none'"),
        ("empty", "any data file"),
    ],
)
def test_what_the_hub_does_not_give_says_what_to_do(
    hub: FakeHub, online: dict[str, Any], query: str, message: str
) -> None:
    assert message.format(url=hub.url) in online[query]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("streamed", "streaming needs the network"),
        ("not cached", "HF_HUB_OFFLINE forbids the network"),
        ("missing", "HF_HUB_OFFLINE forbids the network"),
    ],
)
def test_what_the_cache_does_not_give_says_what_to_do(
    offline: dict[str, Any], query: str, message: str
) -> None:
    assert message in offline[query]
