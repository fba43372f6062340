"""``fnsft merge``: an adapter or a mask on the forward pass becomes part of plain weights."""

import argparse
from pathlib import Path

from fnsft.cli.export import write_safetensors
from fnsft.config.stages import MergeSettings
from fnsft.errors import InputError

SETTINGS = MergeSettings


def add_paths(parser: argparse.ArgumentParser) -> None:
    """Add the tuned model, its base and the output."""
    parser.add_argument("model", type=Path, metavar="FOLDER", help="tuned model or adapter")
    parser.add_argument("--output", type=Path, required=True, help="folder of the merged model")
    parser.add_argument(
        "--base", help="folder or hub name of an adapter's base (default: the one that it names)"
    )


def run(arguments: argparse.Namespace, settings: MergeSettings) -> None:
    """Merge in float32, round to the type that is asked for, and write a plain folder."""
    from fnsft.training.merging import parts_of

    if not parts_of(arguments.model):
        raise InputError(
            f"{arguments.model}: nothing to merge: expected an adapter or a mask on the forward "
            "pass, found neither; use fnsft export"
        )
    write_safetensors(arguments, settings)
