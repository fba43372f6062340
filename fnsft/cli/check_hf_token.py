"""``fnsft check-hf-token``: whether a token is found, works, and reaches a model."""

import argparse

from fnsft.errors import InputError

SETTINGS = None


def add_paths(parser: argparse.ArgumentParser) -> None:
    """Add the model to reach and the token of uploads."""
    parser.add_argument("--model", metavar="org/name", help="a model that should be reached")
    parser.add_argument(
        "--hub-token", metavar="FILE|VARIABLE", help="check this one, which is to upload with"
    )


def run(arguments: argparse.Namespace, settings: None) -> None:
    """Say what is found, line by line; the first thing that fails ends it."""
    from fnsft.hub.checking import account_of, require_model
    from fnsft.hub.models import HUB_NAME
    from fnsft.hub.tokens import upload_token

    if arguments.model and not HUB_NAME.fullmatch(arguments.model):
        raise InputError(f"model: expected a name on the hub, org/name, found {arguments.model!r}")
    token = upload_token(arguments.hub_token)
    print(f"found    {token.source}")
    account = account_of(token)
    print(f"works    as {account.name}, role {account.role}")
    if arguments.model:
        require_model(arguments.model, token)
        print(f"reaches  {arguments.model}")
