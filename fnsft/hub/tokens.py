"""Tokens of the hub: where one is found, and how none ever shows.

Tokens are passed to the hub's clients in memory. They are in no argument of a command, no file
that is written and no text that is printed.
"""

import getpass
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fnsft.errors import InputError

VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
HOW_TO_LOG_IN = "log in (hf auth login), set HF_TOKEN, or put HF_TOKEN=… into a file .env"
SHOWN = 5  # characters of a token in a row that may stand in a text: a shorter run is any text's
SECRET = re.compile(r"(hf|api_org|hf_oauth)_[A-Za-z0-9]{16,}|eyJ[\w-]{8,}\.[\w.-]+")
_known: set[str] = set()


@dataclass(frozen=True, repr=False)
class Token:
    """A secret and where it was found, in words such as ``environment variable HF_TOKEN``."""

    value: str
    source: str

    def __post_init__(self) -> None:
        # Anything else would be quoted by the errors of whoever cannot send it as a header.
        if not re.fullmatch(r"[\x21-\x7e]+", self.value):
            raise InputError(f"{self.source}: expected one token on one line, found something else")
        _known.add(self.value)

    def __repr__(self) -> str:
        return "***"


def find_token() -> Token | None:
    """Return the token to read with, or None.

    The environment comes first, then ``.env`` in the working directory (``HF_TOKEN`` alone),
    then the cached login (and what else huggingface_hub knows: ``HF_TOKEN_PATH``, ``HF_HOME``).

    Raises
    ------
    InputError
        When what is found is no single word, or a file cannot be read.
    """
    return next(_candidates(), None)


def upload_token(given: str | None = None, *, interactive: bool = False) -> Token:
    """Return the token to write with: ``given``, else as for reading, else what is typed in.

    Parameters
    ----------
    given
        The path of a file that holds the token, or the name of an environment variable.
    interactive
        Ask for a token, last of all, where a person sits at a terminal.

    Raises
    ------
    InputError
        When ``given`` is neither, or there is no token.
    """
    if given:
        return _given_token(given)
    if (found := find_token()) is not None:
        return found
    if interactive and sys.stdin.isatty() and sys.stderr.isatty():
        typed = getpass.getpass("token of the hub, with the permission to write: ").strip()
        if typed:
            return Token(typed, "what was typed in")
    raise InputError(f"no token found; give --hub-token FILE or VARIABLE, or {HOW_TO_LOG_IN}")


def redacted(text: str) -> str:
    """Return a text in which no run of characters of a known token is left.

    Runs of six and more are taken out wherever they stand: a server may echo a header, or a
    message may have cut it. So is who logs in at an address, ``user:password@``.
    """
    hidden = [False] * len(text)
    for token in _known:
        runs = {token[i : i + SHOWN + 1] for i in range(max(1, len(token) - SHOWN))}
        for run in runs:
            place = text.find(run)
            while place >= 0:
                hidden[place : place + len(run)] = [True] * len(run)
                place = text.find(run, place + 1)
    marked = "".join("\0" if hide else letter for letter, hide in zip(text, hidden, strict=True))
    return re.sub(r"(?<=://)[^\s/]+@", "", re.sub("\0+", "***", marked))


def _candidates() -> Iterator[Token]:
    for name in VARIABLES:
        if value := os.environ.get(name, "").strip():
            yield Token(value, f"environment variable {name}")
    if dotenv := _dotenv_token(Path(".env")):
        yield Token(dotenv, ".env")
    from huggingface_hub import get_token
    from huggingface_hub.errors import OIDCError

    try:
        login = get_token()
    except (OSError, UnicodeDecodeError, OIDCError) as error:
        raise InputError(f"cached login: cannot be read ({redacted(str(error)):.160})") from None
    if login:
        yield Token(login, "cached login")


def _dotenv_token(file: Path) -> str | None:
    from dotenv import dotenv_values

    if not file.is_file():
        return None
    try:
        return (dotenv_values(file, interpolate=False).get("HF_TOKEN") or "").strip() or None
    except UnicodeDecodeError:
        raise InputError(f"{file}: expected text in UTF-8, found other bytes") from None


def _given_token(given: str) -> Token:
    file = Path(given).expanduser()
    if SECRET.fullmatch(given.strip()):
        raise InputError(
            "hub-token: expected a file or the name of an environment variable, found what looks "
            "like a token itself; others can read a command, so put it into a file and name that"
        )
    if value := os.environ.get(given, "").strip():
        return Token(value, f"environment variable {given}")
    if not file.is_file():
        raise InputError(
            "hub-token: expected a file that is there or a variable that is set, found neither "
            "under the name given"
        )
    try:
        value = file.read_text().strip()
    except UnicodeDecodeError:
        value = ""
    if not value:
        raise InputError(f"{file}: expected a token, found nothing or no text")
    return Token(value, f"file {given}")
