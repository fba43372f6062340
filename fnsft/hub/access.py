"""Speaking to the hub: whatever goes wrong becomes one line that says what to do."""

import contextlib
import errno
import logging
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

from fnsft.errors import InputError
from fnsft.hub.tokens import HOW_TO_LOG_IN, Token, redacted

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError


def is_offline() -> bool:
    """Return whether ``HF_HUB_OFFLINE`` (or ``TRANSFORMERS_OFFLINE``) forbids the network."""
    from huggingface_hub.constants import is_offline_mode

    return is_offline_mode()


@contextlib.contextmanager
def hub_access(what: str, token: Token | None, revision: str = "main") -> Iterator[None]:
    """Turn every error of the hub's clients into an ``InputError`` without a secret in it.

    Nothing but calls of the clients belongs inside. Their logs and warnings are silent
    meanwhile: they quote what a server answers.

    Parameters
    ----------
    what
        What is asked for, such as ``model org/name``; messages begin with it.
    token
        The token that is sent, if any; messages name its source.
    revision
        The revision that is asked for, for the message that there is none.
    """
    silenced = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(redacted(f"{what}: {_remedy(what, error, token, revision)}")) from None
    finally:
        logging.disable(silenced)


def _remedy(what: str, error: BaseException, token: Token | None, revision: str) -> str:
    """Say what happened and what to do, from the error or the one behind it that says most."""
    import httpx2
    from huggingface_hub import constants, errors

    chain = [error]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)

    def found(*kinds: type[BaseException]) -> BaseException | None:
        return next((e for e in chain if isinstance(e, kinds)), None)

    answer = found(errors.HfHubHTTPError)
    if isinstance(answer, errors.HfHubHTTPError):
        return _refusal(what, answer, token, revision)
    if full := next((e for e in chain if getattr(e, "errno", None) == errno.ENOSPC), None):
        return f"no space left on the disk of {getattr(full, 'filename', None) or 'the cache'}"
    if is_offline():
        return (
            f"not in the cache {constants.HF_HOME}, and HF_HUB_OFFLINE forbids the network; "
            "fetch it ahead where there is one (fnsft fetch), or name a local file or folder"
        )
    if unreachable := found(httpx2.TransportError, ConnectionError, TimeoutError):
        return (
            f"the hub at {constants.ENDPOINT} cannot be reached ({_first_line(unreachable)}); "
            "check the network, or name a local file or folder"
        )
    return f"{type(error).__name__}: {_first_line(error)}"


def _refusal(what: str, answer: "HfHubHTTPError", token: Token | None, revision: str) -> str:
    """Say what to do about an answer of the hub, by its kind and status."""
    from huggingface_hub import errors
    from huggingface_hub.constants import ENDPOINT

    whose = f"the token from {token.source}" if token else "no token"
    status, name = answer.response.status_code, what.split()[-1]
    said = f", {_first_line(answer.server_message)}" if answer.server_message else ""
    if isinstance(answer, errors.GatedRepoError):
        page = f"{ENDPOINT}/datasets/{name}" if what.startswith("data") else f"{ENDPOINT}/{name}"
        return (
            f"gated, and {f'{whose} has no access' if token else 'no token was sent'}: request "
            f"access at {page}, wait until it is granted, then "
            f"{'try again' if token else HOW_TO_LOG_IN}"
        )
    if isinstance(answer, errors.RepositoryNotFoundError):
        sees = f"{whose} can see" if token else "everybody can see"
        return (
            f"neither here nor on the hub ({ENDPOINT}) is there a {name!r} that {sees}; check the "
            "name or path, or if it is private, "
            f"{'ask its owner for access' if token else HOW_TO_LOG_IN}"
        )
    if isinstance(answer, errors.RevisionNotFoundError):
        return f"the hub has it, but no revision {revision!r} of it; main is the usual one"
    if status == 401:
        return (
            f"the hub refuses {whose} (401); make another at {ENDPOINT}/settings/tokens, then "
            f"{HOW_TO_LOG_IN}"
        )
    if status == 403:
        return (
            f"the hub forbids it (403{said}): {whose} lacks the permission; give it read or, for "
            "an upload, write access to this repository in the hub's settings"
        )
    return f"the hub answers {status}{said}; try again later"


def _first_line(error: BaseException | str) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{lines[0]:.200}" if lines else type(error).__name__
