"""The tables of every kind: from files to what is printed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fnsft.artifacts.lesions import read_lesions
from fnsft.artifacts.records import read_records
from fnsft.artifacts.similarity import read_similarity
from fnsft.artifacts.training import read_training
from fnsft.config.stages import TableSettings
from fnsft.errors import InputError
from fnsft.reporting.csv_table import csv_text, grid_csv
from fnsft.reporting.grid import with_bounds
from fnsft.reporting.labels import ModelLabels
from fnsft.reporting.latex import grid_latex, latex
from fnsft.reporting.markdown import grid_markdown, markdown
from fnsft.reporting.network_table import networks_grid
from fnsft.reporting.notes import missing_cells
from fnsft.reporting.run_items import item_files
from fnsft.reporting.score_table import score_grid
from fnsft.reporting.selective_table import selective_grid
from fnsft.reporting.similarity_table import similarity_grid
from fnsft.reporting.table import summarise
from fnsft.reporting.transfer_table import transfer_grid

ITEM_KINDS = ("continual", "benchmarks")


@dataclass(frozen=True)
class PrintedTable:
    """A table in every format, from ``rows`` lines; of its cells some may be missing."""

    latex: str
    csv: str
    markdown: str
    rows: int
    cells: int
    missing: int


def printed_table(
    paths: Sequence[Path],
    training_paths: Sequence[Path],
    settings: TableSettings,
    item_paths: Sequence[Path] = (),
) -> PrintedTable:
    """Read metric records, training records and items, and print the table.

    In place of metric records kind networks has lesions, and its two kinds similarities.

    Raises
    ------
    InputError
        When the kind of table compares nothing item by item and ``item_paths`` are given; what
        reading the files and filling the table raise.
    """
    if item_paths and settings.kind not in ITEM_KINDS:
        raise InputError(
            f"--items: expected none for --kind {settings.kind}, found {len(item_paths)}; "
            f"{' and '.join(ITEM_KINDS)} compare items"
        )
    labels = ModelLabels.of(settings)
    labelled = labels.settings(settings)
    if settings.kind == "networks":
        lesions = [labels.row(row) for row in read_lesions(paths)]
        grid, rows = networks_grid(lesions, labelled), len(lesions)
    elif settings.kind in ("similarity", "similarity-layers"):
        similarities = [labels.row(row) for row in read_similarity(paths)]
        grid, rows = similarity_grid(similarities, labelled), len(similarities)
    else:
        records = [labels.row(row) for row in read_records(paths)]
        trainings = [labels.training(read_training(path)) for path in training_paths]
        rows = len(records)
        if settings.kind == "methods":
            table = summarise(records, trainings, labelled)
            texts = latex(table), csv_text(table), markdown(table)
            return PrintedTable(*texts, rows, len(table.cells), missing_cells(table))
        if settings.kind == "selective":
            grid = selective_grid(records, trainings, labelled)
        elif settings.kind == "transfer":
            grid = transfer_grid(records, labelled)
        else:
            files = [replace(f, run=labels.row(f.run)) for f in item_files(item_paths)]
            grid = score_grid(records, files, labelled)
    grid = with_bounds(grid)
    texts = grid_latex(grid), grid_csv(grid), grid_markdown(grid)
    return PrintedTable(*texts, rows, len(grid.cells) - grid.missing, grid.missing)
