"""Tables as Markdown, read back cell by cell, and bounds in place of errors of zero."""

import csv
import io
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from score_rows import joined
from test_reporting import RECORDS, SETTINGS, TRAININGS, VALUES, record, run_of, training

from fnsft.artifacts.records import Measurement, Record, write_records
from fnsft.cli.main import main
from fnsft.config.stages import TableSettings
from fnsft.reporting.cells import Cell, bounded
from fnsft.reporting.csv_table import csv_text, grid_csv
from fnsft.reporting.grid import SHARE, Column, Grid, Row, measured_in_words, with_bounds
from fnsft.reporting.latex import grid_latex, latex
from fnsft.reporting.markdown import escaped, grid_markdown, markdown
from fnsft.reporting.notes import notes_of
from fnsft.reporting.score_table import score_grid
from fnsft.reporting.table import summarise
from fnsft.reporting.text_table import grid_text, table_text


def cells_of(line: str) -> list[str]:
    """A row's cells; an escaped bar parts none."""
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def tables_in(text: str) -> list[list[list[str]]]:
    """Every table of a text: its lines' cells, the rule below the head left out."""
    blocks = [b.splitlines() for b in text.split("\n\n") if b.startswith("|")]
    return [[cells_of(line) for i, line in enumerate(block) if i != 1] for block in blocks]


def test_markdown_holds_every_cell_of_a_table_of_methods() -> None:
    table = summarise(RECORDS, TRAININGS, SETTINGS)
    (lines,) = tables_in(markdown(table))
    assert lines[0] == ["", "A, %", "B, %", "Average, %"]
    rows = {line[0]: line[1:] for line in lines[1:]}
    names = {"base": "Base", "sft": "SFT", "highest": "Highest", "collab": "CollabMask"}
    names["shuffled"] = "Shuffled"
    for (model, method, fraction), (value, _) in VALUES.items():
        name = names[method] + ("" if fraction is None else f", p = {fraction:g}")
        assert f"{100 * value:.1f}" in rows[name]["AB".index(model)]
    assert rows["CollabMask, p = 0.5"] == ["**46.0** ± 2.0", "42.0 ± 2.0", "**42.5** ± 2.0"]
    assert rows["CollabMask, p = 0.7"] == [
        "41.0 ± 2.0 †",
        "<ins>44.0</ins> ± 2.0 †",
        "**42.5** ± 2.0",
    ]
    assert rows["*controls*"] == ["", "", ""]
    assert list(rows).index("*controls*") == list(rows).index("Shuffled, p = 0.5") - 1


def test_markdown_says_what_latex_says_of_itself() -> None:
    table = summarise(RECORDS, TRAININGS, SETTINGS)
    text = markdown(table).replace("\\", "")
    assert text.startswith("**Accuracy on gsm8k, in %, task math.**\n")
    assert [line[2:] for line in text.splitlines() if line.startswith("- ")] == notes_of(table)


def test_markdown_holds_every_cell_of_a_grid_and_breaks_it_as_latex_does() -> None:
    grid = score_grid(joined(), [], TableSettings(kind="continual", controls=("shuffled",)))
    tables = tables_in(grid_markdown(grid))
    assert len(tables) == grid_latex(grid).count(r"\midrule\midrule") + 1
    found = [cell for lines in tables for line in lines[1:] for cell in line[1:] if cell]
    printed = re.findall(r"\d+\.\d+", " ".join(found))
    wanted = [c for _, c in grid.cells if c is not None]
    assert len(printed) == sum(1 + (c.uncertainty is not None) for c in wanted)
    assert "** ±" in grid_markdown(grid) and "</ins> ±" in grid_markdown(grid)


def test_lines_of_a_markdown_table_are_as_long_as_each_other() -> None:
    text = markdown(summarise(RECORDS, TRAININGS, SETTINGS))
    assert len({len(line) for line in text.splitlines() if line.startswith("|")}) == 1


def test_names_mean_nothing_to_markdown() -> None:
    assert escaped("a_b|c*<d>\n`e`") == r"a\_b\|c\*\<d\> \`e\`"
    table = summarise([record(run_of("m|_x_", "sft", None), 0.5)], [], TableSettings())
    (lines,) = tables_in(markdown(table))
    assert lines == [["", r"m\|\_x\_, %"], ["SFT", "**50.0** ± 2.0"]]


def cell(value: float, n: int | None = 400, stderr: float | None = 0.0) -> Cell:
    return Cell(value, stderr, "items", n, 1)


@pytest.mark.parametrize("n", [1, 20, 400])
def test_none_of_n_has_the_share_at_which_none_comes_once_in_twenty_times(n: int) -> None:
    none, every = bounded(cell(0.0, n)), bounded(cell(1.0, n))
    assert none.bound is not None and every.bound is not None
    assert (none.bound[0], every.bound[0]) == ("≤", "≥")
    assert math.isclose((1 - none.bound[1]) ** n, 0.05)  # that all n fail, each with 1 − p
    assert math.isclose(every.bound[1] ** n, 0.05)
    assert none.uncertainty is None and every.uncertainty is None


@pytest.mark.parametrize(
    "kept", [cell(0.5), cell(0.0, stderr=0.1), cell(0.0, stderr=None), cell(0.0, n=None)]
)
def test_other_cells_keep_their_error(kept: Cell) -> None:
    assert bounded(kept) is kept


def test_every_format_of_a_table_shows_bounds_and_explains_them() -> None:
    values = {"sft": 0.0, "lora": 1.0, "projections-only": 0.5}
    records = [record(run_of("A", m, None), v, stderr=float(v == 0.5)) for m, v in values.items()]
    table = summarise(records, [], TableSettings())
    assert "0.0 (≤ 0.7)" in markdown(table) and "100.0** (≥ 99.3)" in markdown(table)
    assert r"0.0{\tiny\,($\leq$0.7)}" in latex(table)
    assert "≤, ≥: beside a share of no or of all items" in " ".join(notes_of(table))
    rows = list(csv.DictReader(io.StringIO(csv_text(table))))
    assert [(r["uncertainty"], bool(r["low"]), bool(r["high"])) for r in rows[:3]] == [
        ("", False, True),
        ("", True, False),
        ("1", False, False),
    ]
    text = table_text(rows)
    assert "0.0 (≤0.7)" in text and "100.0 (≥99.3)*" in text and "95 % bound" in text


def test_every_format_of_a_grid_shows_bounds_of_shares_alone() -> None:
    columns = {name: Column("b", name, name) for name in ("accuracy", "kl_forward", SHARE)}
    row = Row("", "r", {column: cell(0.0) for column in columns.values()})
    grid = with_bounds(Grid(tuple(columns.values()), {"M": [row]}))
    (shown,) = grid.blocks["M"]
    bounds = {name: shown.cells[column].bound is not None for name, column in columns.items()}
    assert bounds == {"accuracy": True, "kl_forward": False, SHARE: False}
    for text in (grid_markdown(grid), grid_text(grid), grid_csv(grid), grid_latex(grid)):
        assert text.count("0.7") + text.count("0.0074") == 1
    assert "≤, ≥: beside a share" in " ".join(measured_in_words(grid))


def test_a_perplexity_of_one_is_no_share_of_all_items() -> None:
    item = Measurement("perplexity", "perplexity", 1.0, 0.0, 9)
    settings = TableSettings(benchmark="perplexity", metric="perplexity")
    table = summarise([Record.of(run_of("A", "sft", None), item)], [], settings)
    assert table.cells["A", "sft", None].bound is None


def test_an_average_with_a_bound_among_its_parts_has_no_error() -> None:
    records = [
        record(run_of("A", "sft", None), 0.0, stderr=0.0),
        record(run_of("B", "sft", None), 0.4),
    ]
    runs = [training(item.run, 1.5) for item in TRAININGS if item.run.method == "sft"]
    table = summarise(records, runs, replace(SETTINGS, methods=("sft",), controls=()))
    assert table.averages["validation", "sft"].uncertainty is None


def test_the_command_writes_markdown_where_it_is_asked_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_records(tmp_path / "r.jsonl", RECORDS)
    words = ["table", "--records", str(tmp_path / "r.jsonl"), "--output", str(tmp_path / "t.tex")]
    words += ["--csv", str(tmp_path / "t.csv")]
    assert main(words) == 0 and not (tmp_path / "t.md").exists()
    assert main([*words, "--markdown", str(tmp_path / "t.md")]) == 0
    assert (tmp_path / "t.md").read_text().startswith("**Accuracy on gsm8k")
    capsys.readouterr()
    assert main([*words, "--markdown", str(tmp_path / "t.txt")]) == 2
    assert "t.txt: expected a name that ends in .md" in capsys.readouterr().err
