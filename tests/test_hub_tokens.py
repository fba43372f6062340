"""Where tokens are found, and that none of them shows anywhere."""

import contextlib
import os
import pty
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_hub import TOKEN, FakeHub, Repo, environment, fnsft, running_hub

from fnsft.cli.main import main
from fnsft.errors import InputError
from fnsft.hub.tokens import VARIABLES, Token, find_token, redacted, upload_token

OTHER = "hf_" + "0a1b2c3d4e5f6g7h8i9j"


@pytest.fixture(autouse=True)
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user in an empty folder who has no token at all."""
    for name in (*VARIABLES, "HF_OIDC_RESOURCE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "login"))
    monkeypatch.setattr("fnsft.hub.tokens._known", set())  # short ones here are parts of words
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with running_hub() as hub:
        yield hub


def found() -> tuple[str, str]:
    token = find_token()
    return (token.value, token.source) if token else ("", "")


def test_the_environment_comes_before_dotenv_and_dotenv_before_the_login(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_token() is None
    (tmp_path / "login").write_text("login\n")
    assert found() == ("login", "cached login")
    (tmp_path / ".env").write_text("HF_TOKEN=dotenv\n")
    assert found() == ("dotenv", ".env")
    monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", "older")
    assert found() == ("older", "environment variable HUGGING_FACE_HUB_TOKEN")
    monkeypatch.setenv("HF_TOKEN", " newer\n")
    assert found() == ("newer", "environment variable HF_TOKEN")


def test_dotenv_gives_one_variable_and_changes_no_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "")
    (tmp_path / ".env").write_text("HUGGING_FACE_HUB_TOKEN=other\nHOME=/nowhere\n")
    before = dict(os.environ)
    assert find_token() is None
    (tmp_path / ".env").write_text("export HF_TOKEN='a${HOME}'\n")
    assert found() == ("a${HOME}", ".env")
    assert dict(os.environ) == before


@pytest.mark.parametrize("value", ["two words", "two\nlines", "naïve"])
def test_what_is_no_token_is_refused_without_being_quoted(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", value)
    with pytest.raises(InputError, match="variable HF_TOKEN: expected one token") as error:
        find_token()
    assert value.split()[0] not in str(error.value)


def test_an_upload_takes_the_given_file_or_variable_before_any_other_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "read")
    monkeypatch.setenv("UPLOADS", "write")
    (tmp_path / "secret.txt").write_text("from-file\n")
    assert upload_token("UPLOADS").value == "write"
    assert upload_token("secret.txt").value == "from-file"
    assert upload_token(None).value == "read"
    for given in ("missing.txt", "UNSET"):
        with pytest.raises(InputError, match="found neither"):
            upload_token(given)


def test_without_any_token_an_upload_says_how_to_give_one() -> None:
    with pytest.raises(InputError, match="no token found; give --hub-token FILE or VARIABLE"):
        upload_token(None, interactive=True)


@pytest.mark.parametrize("given", [OTHER, "api_org_" + OTHER[3:], f" {OTHER}"])
def test_a_secret_in_place_of_a_files_name_is_refused_and_not_echoed(given: str) -> None:
    with pytest.raises(InputError, match="looks like a token itself") as error:
        upload_token(given)
    assert OTHER[3:9] not in str(error.value)


def test_a_token_shows_in_no_representation() -> None:
    token = Token(OTHER, "a test")
    assert OTHER[:8] not in f"{token} {token!r} {[token]} {vars(Token)}"


def runs(token: str) -> set[str]:
    """Every six characters in a row."""
    return {token[i : i + 6] for i in range(len(token) - 5)}


def test_no_run_of_six_characters_of_a_token_survives_and_all_else_does() -> None:
    Token(OTHER, "a test")
    numbers = random.Random(0)
    for _ in range(200):
        start, length = numbers.randrange(len(OTHER)), numbers.randrange(1, len(OTHER))
        piece = OTHER[start : start + length]
        text = f"Bearer {piece}; see {piece!r} and /the/page"
        clean = redacted(text)
        assert not any(run in clean for run in runs(OTHER))
        expected = text.replace(piece, "***") if len(piece) > 5 else text
        assert clean == expected


def test_no_character_run_of_a_token_is_left_behind_by_any_command(
    hub: FakeHub, tmp_path: Path, tiny_model_dir: Path
) -> None:
    """Not in outputs, files or process lists, even when the server quotes the request."""
    model = {file.name: file.read_bytes() for file in tiny_model_dir.iterdir()}
    hub.repos = {"ada/tiny": Repo(model), "org/gated": Repo(model, gated=True)}
    fetch = ["fetch", "--output", "fetched", "--name"]
    push = ["push", str(tiny_model_dir), "ada/new"]
    seen = ""
    for echo, code, words in [
        (False, 0, [*fetch, "ada/tiny"]),
        (False, 2, [*fetch, "org/gated"]),
        (False, 0, push),
        (False, 0, ["check-hf-token", "--model", "ada/tiny"]),
        (True, 2, ["check-hf-token"]),
        (True, 2, [*fetch, "ada/other"]),
        (True, 2, [*push, "--hub-token", "HF_TOKEN"]),
    ]:
        hub.echo = echo
        done = watched(hub, tmp_path, words)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        seen += done.stdout + done.stderr
    assert len([path for _, path in hub.seen if path == "/api/whoami-v2"]) == 2
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert any(file.name == "fetched.manifest.json" for file in files)
    seen += "".join(str(file) + file.read_bytes().decode(errors="ignore") for file in files)
    assert "Bearer ***" in seen
    assert not [run for run in runs(TOKEN) if run in seen]


def watched(hub: FakeHub, folder: Path, words: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command, and add the command lines of its own processes to its output."""
    output, lines = folder / "output", set()
    with output.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "fnsft", *words],
            cwd=folder,
            env=environment(hub, folder, HF_TOKEN=TOKEN, HF_DEBUG="1"),
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
        while process.poll() is None:
            for entry in Path("/proc").glob("[0-9]*"):
                # A process may end while it is looked at; others' are none of our business.
                with contextlib.suppress(OSError):
                    if os.getsid(int(entry.name)) == process.pid:
                        lines.add((entry / "cmdline").read_text())
            time.sleep(0.05)
    assert not Path("/proc").is_dir() or any("fnsft" in line for line in lines)
    text = output.read_text()
    return subprocess.CompletedProcess(words, process.returncode, "\n".join(lines), text)


def test_at_a_terminal_an_upload_asks_for_a_token_and_does_not_show_it(
    hub: FakeHub, tmp_path: Path, tiny_model_dir: Path
) -> None:
    words = [sys.executable, "-m", "fnsft", "push", str(tiny_model_dir), "ada/typed"]
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(tmp_path)
        os.execve(sys.executable, words, environment(hub, tmp_path))
    shown = b""
    while b"token of the hub" not in shown:
        shown += os.read(terminal, 1_000)
    time.sleep(0.1)  # until the terminal's echo is off
    os.write(terminal, TOKEN.encode() + b"\n")
    try:
        while piece := os.read(terminal, 1_000):
            shown += piece
    except OSError:
        pass  # the child has closed its end
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, shown
    assert "ada/typed" in hub.repos
    assert TOKEN[3:9] not in shown.decode()


def test_away_from_a_terminal_nothing_is_asked(
    hub: FakeHub, tmp_path: Path, tiny_model_dir: Path
) -> None:
    done = fnsft(hub, tmp_path, "push", tiny_model_dir, "ada/new")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("fnsft push: no token found")


def test_a_token_behind_a_wrong_flag_is_not_echoed(capsys: pytest.CaptureFixture[str]) -> None:
    secret = "hf_" + "Ab3" * 8
    with pytest.raises(SystemExit, match="2"):
        main(["push", "folder", "me/model", "--token", secret])
    error = capsys.readouterr().err
    assert "--token ***" in error
    assert secret[:9] not in error


@pytest.mark.parametrize(
    "words",
    [
        ["push", "{folder}", "{token}"],
        ["push", "{token}", "me/model"],
        ["generate", "{token}", "--prompt", "x"],
        ["check-hf-token", "--model", "{token}"],
        ["show", "{token}/table.csv"],
    ],
)
def test_a_token_in_the_place_of_a_name_is_not_echoed(
    words: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", "another")
    assert main([word.format(folder=tmp_path, token=OTHER) for word in words]) == 2
    error = capsys.readouterr().err
    assert "***" in error
    assert OTHER[3:9] not in error


def test_a_token_in_the_place_of_an_outputs_name_is_not_echoed(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor where the operating system says what is wrong."""
    (tmp_path / "file").touch()
    output = tmp_path / "file" / OTHER / "out"
    assert main(["export", str(tiny_model_dir), "--output", str(output)]) == 2
    error = capsys.readouterr().err
    assert "***" in error
    assert OTHER[3:9] not in error


def test_a_folder_that_begins_like_a_token_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "hf_downloads/table.csv"]) == 2
    assert "hf_downloads/table.csv" in capsys.readouterr().err
