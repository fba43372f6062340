"""``fnsft push``: upload a tuned model or adapter with its model card."""

import argparse
import sys
from pathlib import Path

from fnsft.config.stages import PushSettings
from fnsft.errors import InputError

SETTINGS = PushSettings


def add_paths(parser: argparse.ArgumentParser) -> None:
    """Add what is uploaded, where to, and with which token."""
    parser.add_argument("folder", type=Path, help="a tuned model's or adapter's folder")
    parser.add_argument("repo", metavar="org/name", help="repository on the hub; made if need be")
    parser.add_argument("--base", metavar="org/name", help="hub name of the base model")
    parser.add_argument(
        "--hub-token",
        metavar="FILE|VARIABLE",
        help="file or environment variable that holds the token, never the token itself",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the card and the files, and send nothing"
    )


def run(arguments: argparse.Namespace, settings: PushSettings) -> None:
    """Choose the files, write the card, say what goes, send it."""
    from fnsft.hub.models import HUB_NAME
    from fnsft.hub.publishing import (
        CARD,
        Upload,
        base_of,
        files_to_upload,
        own_card,
        publish,
        require_no_local_path,
    )
    from fnsft.hub.tokens import upload_token
    from fnsft.reporting.model_card import model_card

    folder, repo = arguments.folder, arguments.repo
    for name in filter(None, (repo, arguments.base)):
        if not HUB_NAME.fullmatch(name):
            raise InputError(f"expected a name on the hub, org/name, found {name!r}")
    uploads = files_to_upload(folder, arguments.base)
    base = base_of(folder, arguments.base)
    card = own_card(folder) or model_card(folder, repo, base)
    uploads.append(Upload(CARD, card.encode()))
    require_no_local_path(folder, uploads[-1])
    visible = "public" if settings.public else "private"
    print(f"{folder}: to {repo} ({visible}, {settings.revision}):", file=sys.stderr)
    for upload in uploads:
        print(f"  {upload.name}, {upload.n_bytes:,} bytes", file=sys.stderr)
    if not arguments.dry_run or arguments.hub_token:
        token = upload_token(arguments.hub_token, interactive=not arguments.dry_run)
    if arguments.dry_run:
        print(card)
        return
    address = publish(uploads, repo, base, settings, token)
    print(f"{folder}: uploaded to {address}", file=sys.stderr)
