"""``fnsft merge``: an adapter or a mask on the forward pass becomes part of plain weights."""

import argparse
import sys
from pathlib import Path

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
    from fnsft.artifacts.manifest import recorded_stage
    from fnsft.artifacts.model_files import require_elsewhere
    from fnsft.training.merging import parts_of, write_plain

    require_elsewhere(arguments.output, arguments.model)
    if not parts_of(arguments.model):
        raise InputError(
            f"{arguments.model}: nothing to merge: expected an adapter or a mask on the forward "
            "pass, found neither; use fnsft export"
        )
    with recorded_stage(settings, {"model": arguments.model}, arguments.output) as record:
        done = write_plain(arguments.model, arguments.output, arguments.base, settings.dtype)
        record.note(merged=list(done.parts), parameters=done.n_parameters)
    print(
        f"{arguments.output}: {done.n_parameters:,} parameters in {done.dtype}, with the "
        f"{' and the '.join(done.parts)} merged",
        file=sys.stderr,
    )
