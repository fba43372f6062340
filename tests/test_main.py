"""The command itself: words that it does not know, and interruptions."""

import errno
import signal

import pytest

from fnsft.cli.main import entry_point, main


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_a_misspelt_flag_is_named_with_its_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "--model", "m", "--output", "o", "--metod", "lora"]
    assert "fnsft train: unknown argument --metod lora; did you mean --method?" in refusal(
        words, capsys
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "fnsft: the following arguments are required: stage; see fnsft --help"),
        (["trian"], "invalid choice: 'trian'"),
        (["train", "--learning-rate", "abc"], "fnsft train: argument --learning-rate"),
        (["show", "t.csv", "more"], "fnsft show: unknown argument more;"),
    ],
)
def test_words_that_do_not_fit_give_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refusal(words, capsys)


@pytest.mark.parametrize(
    ("words", "form"),
    [(["--help"], "LaTeX, CSV, Markdown and HTML"), (["describe", "--help"], ".jsonl.gz: import")],
)
def test_help_names_every_form_of_a_file(
    words: list[str], form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(words)
    assert form in " ".join(capsys.readouterr().out.split())


def test_an_output_without_a_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["world", "--output", "."]) == 2
    assert "output: expected a new file or folder, found '.'" in capsys.readouterr().err


def test_an_interrupt_ends_with_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(arguments: object, settings: object) -> None:
        signal.raise_signal(signal.SIGINT)

    # A shell starts what it puts in the background with the signal ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr("fnsft.cli.show.run", interrupted)
    try:
        assert main(["show", "table.csv"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == "fnsft show: interrupted; the same command goes on\n"


def test_sigterm_ends_with_one_line_and_its_own_code(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fnsft.cli.show.run", lambda *_: signal.raise_signal(signal.SIGTERM))
    monkeypatch.setattr("sys.argv", ["fnsft", "show", "table.csv"])
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as ended:
            entry_point()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended.value.code == 143
    assert capsys.readouterr().err == "fnsft show: interrupted; the same command goes on\n"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MemoryError(), "memory ran out (MemoryError); give it more"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"), "memory ran out ("),
        (RuntimeError("[enforce fail at inline_container.cc:1] . unexpected pos"), "has no room"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
    ],
)
def test_a_machine_that_is_too_small_is_told_in_one_line(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    line: str,
) -> None:
    def run(*_: object) -> None:
        raise error

    monkeypatch.setattr("fnsft.cli.show.run", run)
    assert main(["show", "table.csv"]) == 2
    said = capsys.readouterr().err
    assert line in said and said.count("\n") == 1


def test_a_defect_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object) -> None:
        raise RuntimeError("PytorchStreamReader failed reading zip archive")

    monkeypatch.setattr("fnsft.cli.show.run", run)
    with pytest.raises(RuntimeError, match="PytorchStreamReader"):
        main(["show", "table.csv"])
