"""``fnsft explore``: an experiment's results as one HTML page that needs nothing else."""

import argparse
import sys
from pathlib import Path

from fnsft.config.stages import ExploreSettings

SETTINGS = ExploreSettings


def add_paths(parser: argparse.ArgumentParser) -> None:
    """Add the results and the output."""
    parser.add_argument("results", type=Path, help="an experiment's folder, results/<experiment>")
    parser.add_argument("--output", type=Path, required=True, help="the page, .html")


def run(arguments: argparse.Namespace, settings: ExploreSettings) -> None:
    """Find what there is, read it, write the page."""
    from fnsft.artifacts.manifest import recorded_stage
    from fnsft.artifacts.storage import require_suffix, written_whole
    from fnsft.reporting.explore.files import result_files
    from fnsft.reporting.explore.fit import fitted_page
    from fnsft.reporting.explore.gather import gather

    output: Path = arguments.output
    require_suffix(output, ".html")
    files = result_files(arguments.results)
    with recorded_stage(settings, {str(path): path for path in files.read}, output) as stage_run:
        fitted = fitted_page(files, gather(files, settings), settings.max_megabytes)
        with written_whole(output) as partial:
            partial.write_text(fitted.text, encoding="utf-8")
        stage_run.note(
            megabytes=round(fitted.megabytes, 3), neurons_shown=fitted.shown, neurons=fitted.all
        )
    print(
        f"{output}: {fitted.megabytes:.1f} MB, showing {fitted.shown:,} of {fitted.all:,} neurons",
        file=sys.stderr,
    )
