"""``fnsft fetch``: models and data sets come to local folders, ahead of a run without a network."""

import argparse
import sys
from pathlib import Path

from fnsft.artifacts.manifest import recorded_stage
from fnsft.config.stages import FetchSettings

SETTINGS = FetchSettings


def add_paths(parser: argparse.ArgumentParser) -> None:
    """Add what is fetched and where to."""
    parser.add_argument("--output", type=Path, required=True, help="folder, or .jsonl file")
    parser.add_argument(
        "--registry", type=Path, help="names of local data files; data/registry.yaml when absent"
    )


def run(arguments: argparse.Namespace, settings: FetchSettings) -> None:
    """Fetch one model, data split or wheel."""
    from fnsft.data.sources import fetch

    with recorded_stage(settings, {}, arguments.output):
        fetch(settings, arguments.output, arguments.registry)
    print(f"{arguments.output}: fetched {settings.name}", file=sys.stderr)
