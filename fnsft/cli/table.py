"""``fnsft table``: metric records become a table, as LaTeX and as CSV."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from fnsft.config.stages import TableSettings

SETTINGS = TableSettings


def add_paths(parser: argparse.ArgumentParser) -> None:
    """Add the records, the training records and the two outputs."""
    parser.add_argument(
        "--records", type=Path, nargs="+", required=True, help="records of fnsft evaluate, .jsonl"
    )
    parser.add_argument(
        "--training",
        type=Path,
        nargs="*",
        default=[],
        help="training.json files or folders: validation chooses p for the average",
    )
    parser.add_argument("--output", type=Path, required=True, help="the table, .tex")
    parser.add_argument("--csv", type=Path, required=True, help="the same cells, .csv")


def run(arguments: argparse.Namespace, settings: TableSettings) -> None:
    """Read the records, fill the table, write it twice."""
    from fnsft.artifacts.manifest import recorded_stage
    from fnsft.artifacts.records import read_records
    from fnsft.artifacts.storage import written_whole
    from fnsft.artifacts.training import read_training
    from fnsft.reporting.csv_table import csv_text
    from fnsft.reporting.labels import ModelLabels
    from fnsft.reporting.latex import latex
    from fnsft.reporting.notes import missing_cells
    from fnsft.reporting.table import summarise

    inputs = {str(path): path for path in (*arguments.records, *arguments.training)}
    with recorded_stage(settings, inputs, arguments.output) as record:
        labels = ModelLabels.of(settings)
        records = [labels.record(found) for found in read_records(arguments.records)]
        trainings = [labels.training(read_training(path)) for path in arguments.training]
        labelled = replace(settings, models=labels.models(settings.models), model_labels=())
        table = summarise(records, trainings, labelled)
        with written_whole(arguments.csv) as partial:
            partial.write_text(csv_text(table))
        with written_whole(arguments.output) as partial:
            partial.write_text(latex(table))
        missing = missing_cells(table)
        record.note(records=len(records), cells=len(table.cells), missing_cells=missing)
    print(f"{arguments.output}: {len(table.cells)} cells, {missing} missing", file=sys.stderr)
