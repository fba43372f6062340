"""What the hub refuses, and what is done about it: one line each, and nothing left behind."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_hub import READER, TOKEN, FakeHub, Repo, fnsft, python, running_hub

from fnsft.artifacts.storage import write_json
from fnsft.cli.main import main
from fnsft.errors import InputError
from fnsft.hub.access import hub_access
from fnsft.hub.models import hub_name_of, local_model

LOCAL_MODEL = """
import sys
from pathlib import Path
from fnsft.hub.models import hub_name_of, local_model
folder = local_model(sys.argv[1])
print(hub_name_of(folder), *sorted(file.name for file in folder.iterdir()), sep="\\n")
"""
WORDS = ["fetch", "--output", "here"]


@pytest.fixture(scope="module")
def hub(tiny_model_dir: Path) -> Iterator[FakeHub]:
    model = {file.name: file.read_bytes() for file in tiny_model_dir.iterdir()}
    with running_hub() as hub:
        hub.repos["ada/tiny"] = Repo(model)
        hub.repos["org/gated"] = Repo(model, gated=True, readers={"ada"})
        hub.repos["org/private"] = Repo(model, private=True)
        hub.repos["org/pickled"] = Repo({"config.json": b"{}", "pytorch_model.bin": b"0"})
        extra = ("pytorch_model.bin", "consolidated.safetensors", "onnx/model.safetensors", "x.py")
        hub.repos["org/large"] = Repo(model | dict.fromkeys(extra, b"0"))
        yield hub


@pytest.mark.parametrize(
    ("name", "token", "message"),
    [
        ("ada/tiny", "hf_unknown", "refuses the token from environment variable HF_TOKEN (401)"),
        ("org/gated", "", "gated, and no token was sent: request access at {url}/org/gated"),
        ("org/gated", READER, "HF_TOKEN has no access: request access at {url}/org/gated"),
        ("org/private", "", "check the name or path, or if it is private, log in"),
        ("org/private", READER, "if it is private, ask its owner for access"),
        ("org/pickled", "", "expected weights in *.safetensors, found none"),
        ("ada/tiny --revision v9", "", "no revision 'v9' of it"),
        ("a--b", "", "ValidationError"),
    ],
)
def test_what_the_hub_refuses_says_what_to_do(
    hub: FakeHub, tmp_path: Path, name: str, token: str, message: str
) -> None:
    done = fnsft(hub, tmp_path, *WORDS, "--name", *name.split(), HF_TOKEN=token)
    assert done.returncode == 2
    assert message.format(url=hub.url) in done.stderr
    assert done.stderr.count("\n") == 1
    assert [file.name for file in tmp_path.iterdir() if file.name != "home"] == []


def test_a_hub_that_is_not_there_is_named(hub: FakeHub, tmp_path: Path) -> None:
    nowhere = "http://127.0.0.1:9"
    done = fnsft(hub, tmp_path, *WORDS, "--name", "ada/tiny", HF_ENDPOINT=nowhere)
    assert done.returncode == 2
    assert f"the hub at {nowhere} cannot be reached" in done.stderr


@pytest.mark.parametrize("name", ["ada/tiny", "org/private"])
def test_who_logs_in_at_a_mirror_is_not_shown(hub: FakeHub, tmp_path: Path, name: str) -> None:
    where = "127.0.0.1:9" if name == "ada/tiny" else hub.url.removeprefix("http://")
    mirror = f"http://us-er:p%40ss-word@{where}"
    done = fnsft(hub, tmp_path, *WORDS, "--name", name, HF_ENDPOINT=mirror)
    assert done.returncode == 2
    assert f"http://{where}" in done.stderr
    assert "us-er" not in done.stderr and "ss-word" not in done.stderr


def test_offline_a_model_comes_from_the_cache_or_is_missed_in_one_line(
    hub: FakeHub, tmp_path: Path, tiny_model_dir: Path
) -> None:
    first = python(hub, tmp_path, "-c", LOCAL_MODEL, "ada/tiny")
    n_seen = len(hub.seen)
    again = python(hub, tmp_path, "-c", LOCAL_MODEL, "ada/tiny", HF_HUB_OFFLINE="1")
    names = sorted(file.name for file in tiny_model_dir.iterdir())
    assert first.stdout.split() == again.stdout.split() == ["ada/tiny", *names]
    fetch = fnsft(hub, tmp_path, *WORDS, "--name", "ada/tiny", HF_HUB_OFFLINE="1")
    assert fetch.returncode == 0
    copied = (tmp_path / "here/model.safetensors").read_bytes()
    assert copied == (tiny_model_dir / "model.safetensors").read_bytes()
    missing = fnsft(hub, tmp_path, *WORDS, "--name", "ada/other", HF_HUB_OFFLINE="1")
    assert "not in the cache" in missing.stderr
    assert "HF_HUB_OFFLINE forbids the network" in missing.stderr
    assert len(hub.seen) == n_seen


def test_of_a_model_nothing_is_brought_that_no_stage_reads(
    hub: FakeHub, tmp_path: Path, tiny_model_dir: Path
) -> None:
    assert fnsft(hub, tmp_path, *WORDS, "--name", "org/large").returncode == 0
    names = {file.name for file in (tmp_path / "here").iterdir() if file.is_file()}
    assert names == {file.name for file in tiny_model_dir.iterdir()}
    assert hub_name_of(tmp_path / "here") == "org/large"


def test_a_folder_comes_before_a_name_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ada/tiny").mkdir(parents=True)
    assert local_model("ada/tiny") == Path("ada/tiny")
    assert hub_name_of(tmp_path / "ada/tiny") is None
    other = {"stage": "train", "settings": {"kind": "model", "name": "ada/tiny"}}
    write_json(tmp_path / "ada/tiny.manifest.json", other)
    assert hub_name_of(tmp_path / "ada/tiny") is None


@pytest.mark.parametrize(
    ("name", "message"),
    [("results/a/b", "no such file or folder"), ("gpt2", "named with their owner, org/name")],
)
def test_what_is_no_name_of_the_hub_is_not_asked_for(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        local_model(name)


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path))
    message = f"model a/b: no space left on the disk of {tmp_path}"
    with pytest.raises(InputError, match=message), hub_access("model a/b", None):
        raise RuntimeError("download failed") from full


def test_a_token_is_checked_against_the_hub(hub: FakeHub, tmp_path: Path) -> None:
    done = fnsft(hub, tmp_path, "check-hf-token", "--model", "org/gated", HF_TOKEN=TOKEN)
    assert done.returncode == 0
    lines = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
    assert lines == [
        ["found", "environment variable HF_TOKEN"],
        ["works", "as ada, role write"],
        ["reaches", "org/gated"],
    ]
    done = fnsft(hub, tmp_path, "check-hf-token", "--model", "org/gated", HF_TOKEN=READER)
    assert (done.returncode, "role read" in done.stdout) == (2, True)
    assert "gated, and the token from environment variable HF_TOKEN" in done.stderr


def test_a_token_cannot_be_checked_offline_or_for_a_path(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "t0ken")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert main(["check-hf-token"]) == 2
    assert "HF_HUB_OFFLINE forbids asking the hub" in capsys.readouterr().err
    assert main(["check-hf-token", "--model", "models/a/b"]) == 2
    assert "expected a name on the hub, org/name" in capsys.readouterr().err
