"""The documents: every command that they show has the flags that they show."""

import re
import shlex
from pathlib import Path

import pytest

from fnsft.cli.main import STAGES, _parser

DOCUMENTS = (
    *("README.md", "docs/train-your-own.md", "docs/continual.md", "docs/export.md"),
    *("docs/adding-a-method.md", "docs/scale.md", "profiles/README.md"),
)


def commands_in(text: str) -> list[list[str]]:
    """Return the ``fnsft`` command lines of a document's code, without comments."""
    blocks = "\n".join(re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S)).replace("\\\n", " ")
    inline = [code.replace("\n", " ") for code in re.findall(r"(?<!`)`(fnsft [^`]+)`", text)]
    lines = [line.split("#")[0].split("|")[0] for line in [*blocks.splitlines(), *inline]]
    return [shlex.split(line)[1:] for line in lines if line.strip().startswith("fnsft ")]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_that_is_shown_has_its_flags(repository: Path, document: str) -> None:
    shown = commands_in((repository / document).read_text())
    assert shown
    for stage, *words in shown:
        if stage.startswith(("<", "-")):
            continue
        assert stage in STAGES, (document, stage)
        subparsers = next(a for a in _parser(stage)._actions if a.dest == "stage")
        known = {flag for a in subparsers.choices[stage]._actions for flag in a.option_strings}
        asked = {word for word in words if word.startswith("--")} - {"--"}
        assert asked <= known, (document, stage, asked - known)


def test_a_flag_that_is_not_there_would_be_found() -> None:
    text = "```sh\nfnsft train --model M \\\n  --wrong x  # why\n```\nand `fnsft show t.csv`"
    assert commands_in(text) == [["train", "--model", "M", "--wrong", "x"], ["show", "t.csv"]]
