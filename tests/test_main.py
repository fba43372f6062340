"""The command itself: words that it does not know, and interruptions."""

import signal

import pytest

from fnsft.cli.main import main


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
