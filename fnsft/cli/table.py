"""``fnsft table``: metric records become a table, as LaTeX, CSV, Markdown and HTML."""

import argparse
import sys
from pathlib import Path

from fnsft.config.stages import TableSettings

SETTINGS = TableSettings


def add_paths(parser: argparse.ArgumentParser) -> None:
    """Add the records, the training records and the outputs."""
    parser.add_argument(
        "--records",
        type=Path,
        nargs="+",
        required=True,
        help="records of fnsft evaluate, score or transfer, of fnsft lesion (kind networks) or of "
        "fnsft similarity (its kinds), .jsonl",
    )
    parser.add_argument(
        "--training",
        type=Path,
        nargs="*",
        default=[],
        help="training.json files or folders: validation chooses p for the average, and what "
        "runs cost stands in the notes",
    )
    parser.add_argument(
        "--items",
        type=Path,
        nargs="*",
        default=[],
        help="continual, benchmarks: item scores of fnsft score, their records beside them, for "
        "paired differences",
    )
    parser.add_argument("--output", type=Path, required=True, help="the table, .tex")
    parser.add_argument("--csv", type=Path, required=True, help="the same cells, .csv")
    parser.add_argument("--markdown", type=Path, help="the same table, .md")
    parser.add_argument("--html", type=Path, help="the same table as a page, .html")


def run(arguments: argparse.Namespace, settings: TableSettings) -> None:
    """Read the records, fill the table, write it in every format."""
    from fnsft.artifacts.manifest import recorded_stage
    from fnsft.artifacts.storage import require_suffix, written_whole
    from fnsft.reporting.html_table import html_table
    from fnsft.reporting.tables import printed_table

    require_suffix(arguments.output, ".tex")
    require_suffix(arguments.csv, ".csv")
    if arguments.markdown:
        require_suffix(arguments.markdown, ".md")
    if arguments.html:
        require_suffix(arguments.html, ".html")

    files = (*arguments.records, *arguments.training, *arguments.items)
    inputs = {str(path): path for path in files}
    with recorded_stage(settings, inputs, arguments.output) as record:
        table = printed_table(arguments.records, arguments.training, settings, arguments.items)
        with written_whole(arguments.csv) as partial:
            partial.write_text(table.csv)
        if arguments.markdown:
            with written_whole(arguments.markdown) as partial:
                partial.write_text(table.markdown)
        if arguments.html:
            with written_whole(arguments.html) as partial:
                partial.write_text(html_table(table.markdown))
        with written_whole(arguments.output) as partial:
            partial.write_text(table.latex)
        record.note(records=table.rows, cells=table.cells, missing_cells=table.missing)
    print(f"{arguments.output}: {table.cells} cells, {table.missing} missing", file=sys.stderr)
