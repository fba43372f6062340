"""``fnsft figure``: one figure of a kind, as PDF and PNG."""

import argparse
import sys
from pathlib import Path

from fnsft.config.stages import FigureSettings
from fnsft.errors import InputError

SETTINGS = FigureSettings


def add_paths(parser: argparse.ArgumentParser) -> None:
    """Add what is drawn and the output."""
    parser.add_argument(
        "--inputs",
        type=Path,
        nargs="+",
        required=True,
        help="what the kind draws: runs, measures, histograms, dumps, statistics, clusters, "
        "networks, lesions or records",
    )
    parser.add_argument(
        "--output", type=Path, required=True, help="the figure, .pdf; a .png goes beside it"
    )


def run(arguments: argparse.Namespace, settings: FigureSettings) -> None:
    """Read the inputs, draw, write both formats."""
    output: Path = arguments.output
    if output.suffix != ".pdf":
        raise InputError(f"{output}: expected a name that ends in .pdf; the .png goes beside it")

    from fnsft.artifacts.manifest import recorded_stage
    from fnsft.artifacts.storage import written_whole
    from fnsft.reporting.figures import drawing_of
    from fnsft.reporting.figures.canvas import save

    inputs = {str(path): path for path in arguments.inputs}
    with recorded_stage(settings, inputs, output):
        drawing = drawing_of(arguments.inputs, settings)
        with written_whole(output.with_suffix(".png")) as partial:
            save(drawing.figure, partial, "png")
        with written_whole(output) as partial:
            save(drawing.figure, partial, "pdf")
    print(f"{output}: {drawing.summary}", file=sys.stderr)
