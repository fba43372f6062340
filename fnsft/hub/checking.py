"""Whether a token works, and what it reaches."""

from dataclasses import dataclass
from typing import Any

from fnsft.errors import InputError
from fnsft.hub.access import hub_access, is_offline
from fnsft.hub.tokens import Token, redacted

ROLES = {"read": "read", "write": "write", "fineGrained": "fine-grained"}


@dataclass(frozen=True)
class Account:
    """Whose a token is, and what it may do: read, write, or what was chosen for it."""

    name: str
    role: str


def account_of(token: Token) -> Account:
    """Ask the hub whose token this is.

    Raises
    ------
    InputError
        When the hub refuses it or cannot be asked.
    """
    from huggingface_hub import HfApi

    if is_offline():
        raise InputError("HF_HUB_OFFLINE forbids asking the hub; unset it to check the token")
    with hub_access("token", token):
        found: dict[str, Any] = HfApi().whoami(token=token.value)
    role = found.get("auth", {}).get("accessToken", {}).get("role", "unknown")
    return Account(redacted(str(found.get("name"))), redacted(ROLES.get(role, str(role))))


def require_model(name: str, token: Token) -> None:
    """Refuse when a model of the hub cannot be read: not there, private, or gated."""
    from huggingface_hub import HfApi

    with hub_access(f"model {name}", token):
        HfApi().auth_check(name, token=token.value)
