"""``fnsft show``: print a table's CSV as text."""

import argparse
from pathlib import Path

SETTINGS = None


def add_paths(parser: argparse.ArgumentParser) -> None:
    """Add the table and the published numbers."""
    parser.add_argument("table", type=Path, help="a table of fnsft table, .csv")
    parser.add_argument(
        "--published",
        type=Path,
        help="published numbers, .csv: those of what the table measures beside ours, with the "
        "difference, the others listed below",
    )


def run(arguments: argparse.Namespace, settings: None) -> None:
    """Read, lay out, print."""
    from fnsft.reporting.csv_table import PUBLISHED_FIELDS, read_csv
    from fnsft.reporting.published import published_text
    from fnsft.reporting.text_table import any_text

    texts = [any_text(arguments.table)]
    if arguments.published:
        published = read_csv(arguments.published, PUBLISHED_FIELDS)
        texts.append(published_text(published, read_csv(arguments.table, ("model",))))
    print("\n\n".join(texts))
