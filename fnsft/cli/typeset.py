"""``fnsft typeset``: a LaTeX document as PDF."""

import argparse
import dataclasses
import sys
from pathlib import Path

from fnsft.config.stages import TypesetSettings

SETTINGS = TypesetSettings


def add_paths(parser: argparse.ArgumentParser) -> None:
    """Add the document and its PDF."""
    parser.add_argument("document", type=Path, help="the document, .tex")
    parser.add_argument(
        "--output", type=Path, required=True, help="its PDF; the engine's .log goes beside it"
    )


def run(arguments: argparse.Namespace, settings: TypesetSettings) -> None:
    """Compile, and say what it came to."""
    from fnsft.artifacts.manifest import recorded_stage
    from fnsft.artifacts.storage import require_suffix
    from fnsft.reporting.typeset import typeset

    document, output = arguments.document, arguments.output
    require_suffix(document, ".tex")
    require_suffix(output, ".pdf")
    with recorded_stage(settings, {"document": document}, output) as record:
        made = typeset(document, output)
        record.note(**dataclasses.asdict(made))
    print(f"{output}: {made.pages} pages by {made.engine}", file=sys.stderr)
