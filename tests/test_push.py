"""What of a tuned model goes to the hub, and what never does."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_hub import READER, TOKEN, FakeHub, Repo, fnsft, running_hub

from fnsft.cli.main import main
from fnsft.config.stages import PushSettings
from fnsft.errors import InputError
from fnsft.hub.publishing import Upload, files_to_upload, own_card, publish
from fnsft.hub.tokens import Token

STUB = "---\nbase_model: /home/me/model\n---\n# Model card\n[More Information Needed]\n"


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with running_hub() as hub:
        hub.repos["org/base"] = Repo()
        yield hub


@pytest.fixture
def model(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """A model as training leaves it, with files that are nobody else's business."""
    folder = tmp_path / "tuned"
    shutil.copytree(tiny_model_dir, folder)
    (folder / "networks.json").write_text('{"0": [1, 2]}\n')
    (folder / "data.manifest.json").write_text('{"path": "/home/me/secret.csv"}')
    (folder / "optimizer.pt").write_bytes(b"state")
    (folder / ".env").write_text("HF_TOKEN=x")
    return folder


@pytest.fixture
def adapter(model: Path) -> Callable[[str], Path]:
    """Make the folder an adapter's, trained from a given base."""

    def write(base: str) -> Path:
        (model / "config.json").unlink()
        (model / "model.safetensors").rename(model / "adapter_model.safetensors")
        config = {"peft_type": "LORA", "base_model_name_or_path": base, "r": 8}
        (model / "adapter_config.json").write_text(json.dumps(config))
        (model / "README.md").write_text(STUB)
        return model

    return write


def test_a_model_arrives_whole_and_private_in_one_commit(
    hub: FakeHub, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text(TOKEN)
    done = fnsft(hub, tmp_path, "push", model, "ada/new", "--hub-token", "token", HF_TOKEN=READER)
    assert done.returncode == 0, done.stderr
    repo = hub.repos["ada/new"]
    private = {"data.manifest.json", "optimizer.pt", ".env"}
    sent = {file.name for file in model.iterdir()} - private
    assert repo.private
    assert set(repo.files) == sent | {"README.md"}
    assert all(repo.files[name] == (model / name).read_bytes() for name in sent)
    assert "model.safetensors" in repo.lfs
    assert "config.json" not in repo.lfs
    assert repo.files["README.md"].startswith(b"---\n")
    assert len([path for _, path in hub.seen if "/commit/" in path]) == 1
    listed = [line.strip().split(",")[0] for line in done.stderr.splitlines()[1:-1]]
    assert set(listed) == set(repo.files)


def test_a_branch_is_made_and_written_to(hub: FakeHub, model: Path, tmp_path: Path) -> None:
    words = ["push", str(model), "ada/new", "--revision", "dev", "--public"]
    done = fnsft(hub, tmp_path, *words, HF_TOKEN=TOKEN)
    assert done.returncode == 0, done.stderr
    assert not hub.repos["ada/new"].private
    assert ("POST", "/api/models/ada/new/commit/dev") in hub.seen


def test_nothing_is_sent_when_dry(hub: FakeHub, model: Path, tmp_path: Path) -> None:
    done = fnsft(hub, tmp_path, "push", model, "ada/new", "--dry-run", HF_TOKEN=TOKEN)
    assert done.returncode == 0
    assert done.stdout.startswith("---\n")
    assert "model.safetensors, 158,424 bytes" in done.stderr
    assert not hub.seen


@pytest.mark.parametrize(
    ("repo", "token", "message"),
    [
        ("ada/public", TOKEN, "is public already; say --public"),
        ("bob/new", TOKEN, "the hub forbids it (403, You don't have the rights"),
        ("eve/new", READER, "HF_TOKEN lacks the permission"),
        ("ada/new", "hf_unknown", "refuses the token from environment variable HF_TOKEN (401)"),
    ],
)
def test_what_may_not_be_written_is_refused_before_any_file_goes(
    hub: FakeHub, model: Path, tmp_path: Path, repo: str, token: str, message: str
) -> None:
    hub.repos["ada/public"] = Repo()
    done = fnsft(hub, tmp_path, "push", model, repo, HF_TOKEN=token)
    assert done.returncode == 2
    assert message in done.stderr.splitlines()[-1]
    assert not hub.objects
    assert not any("commit" in path for _, path in hub.seen)


def test_an_adapter_names_a_base_that_others_find(
    hub: FakeHub, adapter: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = adapter("/home/me/model")
    words = ["push", str(folder), "ada/new"]
    done = fnsft(hub, tmp_path, *words, "--base", "org/base", HF_TOKEN=TOKEN)
    assert done.returncode == 0, done.stderr
    files = hub.repos["ada/new"].files
    config = json.loads(files["adapter_config.json"])
    assert config == {"peft_type": "LORA", "base_model_name_or_path": "org/base", "r": 8}
    assert not any(b"/home/me" in content for content in files.values())
    unknown = fnsft(hub, tmp_path, *words, "--base", "org/none", HF_TOKEN=TOKEN)
    assert "base (--base) model org/none: neither here nor on the hub" in unknown.stderr


def base_sent(folder: Path, base: str | None = None) -> Any:
    uploads = {upload.name: upload.content for upload in files_to_upload(folder, base)}
    content = uploads["adapter_config.json"]
    assert isinstance(content, bytes)
    return json.loads(content)["base_model_name_or_path"]


def test_an_adapters_base_from_the_hubs_cache_goes_by_its_name(
    adapter: Callable[[str], Path], tmp_path: Path
) -> None:
    snapshot = tmp_path / f"hub/models--org--base-1.5/snapshots/{'0a' * 20}"
    snapshot.mkdir(parents=True)
    assert base_sent(adapter(str(snapshot))) == "org/base-1.5"


def test_an_adapters_base_that_is_a_name_stays(adapter: Callable[[str], Path]) -> None:
    assert base_sent(adapter("org/base")) == "org/base"


@pytest.mark.parametrize("base", ["/home/me/model", "models/tiny", "../model"])
def test_an_adapter_of_a_local_folder_asks_for_its_bases_name(
    adapter: Callable[[str], Path], tmp_path: Path, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models/tiny").mkdir(parents=True)
    with pytest.raises(InputError, match="give its name on the hub with --base org/name"):
        files_to_upload(adapter(base))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("training.json", '{"run": {"model": "/scratch/me/llama"}}'),
        ("prompt_format.json", '["C:\\\\Users\\\\me\\\\template"]'),
        ("masks.jsonl", '{"file": "{home}/masks"}'),
        ("config.json", '{"_name_or_path": "{folder}/base"}'),
    ],
)
def test_a_path_of_this_machine_is_not_published(model: Path, name: str, text: str) -> None:
    text = text.replace("{home}", str(Path.home())).replace("{folder}", str(model.parent))
    (model / name).write_text(text)
    with pytest.raises(InputError, match=f"tuned/{name}: expected no path of this machine"):
        files_to_upload(model)


def test_a_path_in_the_notes_of_weights_is_found_too(model: Path) -> None:
    import torch
    from safetensors.torch import save_file

    notes = {"source": str(Path.home() / "graph")}
    save_file({"x": torch.zeros(1)}, model / "networks.safetensors", metadata=notes)
    with pytest.raises(InputError, match=r"networks.safetensors: expected no path"):
        files_to_upload(model)


def test_ones_own_card_is_kept_and_an_empty_form_is_not(model: Path) -> None:
    assert own_card(model) is None
    (model / "README.md").write_text(STUB)
    assert own_card(model) is None
    (model / "README.md").write_text("# Mine\n")
    assert own_card(model) == "# Mine\n"


def test_a_missing_shard_is_named(model: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"expected the weights model-2\.safetensors"):
        files_to_upload(model)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{empty}", "ada/new"], "expected a model's or an adapter's folder"),
        (["{empty}/none", "ada/new"], "no such file or folder"),
        (["{model}", "new"], "expected a name on the hub, org/name, found 'new'"),
        (["{model}", "ada/new", "--base", "./x"], "expected a name on the hub"),
    ],
)
def test_bad_input_is_one_line(
    model: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = model.parent / "empty"
    empty.mkdir()
    given = [word.format(empty=empty, model=model) for word in words]
    assert main(["push", *given]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_offline_nothing_is_uploaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="unset it to upload"):
        publish([Upload("a", b"")], "a/b", None, PushSettings(), Token("t0ken", "a test"))
