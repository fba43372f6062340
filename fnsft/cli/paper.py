"""``fnsft paper``: tables and figures become one LaTeX document."""

import argparse
import sys
from pathlib import Path

from fnsft.config.stages import PaperSettings

SETTINGS = PaperSettings


def add_paths(parser: argparse.ArgumentParser) -> None:
    """Add the tables, the figures and the document."""
    parser.add_argument(
        "--tables", type=Path, nargs="*", default=[], help="tables of fnsft table, .tex, in order"
    )
    parser.add_argument(
        "--figures", type=Path, nargs="*", default=[], help="figures of fnsft figure, .pdf"
    )
    parser.add_argument(
        "--output", type=Path, required=True, help="the document, .tex; see fnsft typeset"
    )


def run(arguments: argparse.Namespace, settings: PaperSettings) -> None:
    """Read the tables, find the figures, write the document."""
    from fnsft.artifacts.manifest import recorded_stage
    from fnsft.artifacts.storage import read_text, require_suffix, written_whole
    from fnsft.errors import InputError
    from fnsft.reporting.latex import LatexTable
    from fnsft.reporting.paper import figure_of, paper_latex

    output: Path = arguments.output
    require_suffix(output, ".tex")
    files = (*arguments.tables, *arguments.figures)
    if not files:
        raise InputError("expected --tables or --figures, found neither; name some")
    with recorded_stage(settings, {str(path): path for path in files}, output) as record:
        tables = [LatexTable.of(read_text(path), str(path)) for path in arguments.tables]
        figures = [figure_of(path, output.parent) for path in arguments.figures]
        with written_whole(output) as partial:
            partial.write_text(paper_latex(settings, tables, figures))
        record.note(tables=len(tables), figures=len(figures))
    print(f"{output}: {len(tables)} tables, {len(figures)} figures", file=sys.stderr)
