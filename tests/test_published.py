"""Published numbers beside ours: hand-made ones against hand-made tables of both forms."""

import csv
import io
from pathlib import Path

import pytest
from test_reporting import RECORDS, SETTINGS, TRAININGS, record, run_of

from fnsft.cli.main import main
from fnsft.config.stages import TableSettings
from fnsft.errors import InputError
from fnsft.reporting.cells import Cell
from fnsft.reporting.csv_table import PUBLISHED_FIELDS, csv_text, grid_csv, read_csv
from fnsft.reporting.grid import Column, Grid, Row
from fnsft.reporting.published import published_text
from fnsft.reporting.table import summarise

BESIDE, OTHERS = "Published beside ours", "Published numbers (not measured here)"


def published(**fields: str) -> dict[str, str]:
    row = dict.fromkeys(PUBLISHED_FIELDS, "") | {"paper": "P", "source": "S", "table": "T"}
    row |= {"model": "A", "method": "collab", "fraction": "0.7", "note": "N"}
    row |= {"benchmark": "gsm8k", "metric": "accuracy", "value": "44.5", "unit": "%"}
    return row | fields


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


OURS = rows_of(csv_text(summarise(RECORDS, TRAININGS, SETTINGS)))


def compared(text: str) -> list[list[str]]:
    """The lines of the comparison, head and all, as words."""
    lines = text.split("\n\n")[0].splitlines()
    assert lines[0].startswith(BESIDE)
    return [[word for word in line.split("  ") if word] for line in lines[1:]]


def test_a_published_percentage_stands_beside_our_share_with_the_difference() -> None:
    head, line = compared(published_text([published()], OURS))
    assert [word.strip() for word in head] == [
        *("model", "method", "benchmark", "published", "ours", "difference"),
    ]
    wanted = ["A", "CollabMask, p = 0.7", "GSM8K, %", "44.5", "41.0±2.0", "-3.5±2.0"]
    assert [word.strip() for word in line] == wanted


def test_a_share_that_was_published_is_the_same_as_its_percentage() -> None:
    one = compared(published_text([published(value="0.445", unit="share")], OURS))
    assert one == compared(published_text([published()], OURS))


@pytest.mark.parametrize(
    "other",
    [
        {"model": "C"},
        {"method": "gmt"},
        {"fraction": "0.6"},
        {"fraction": ""},
        {"benchmark": "mbpp"},
        {"metric": "pass_at_1"},
    ],
)
def test_what_differs_in_one_thing_is_not_compared_but_listed(other: dict[str, str]) -> None:
    text = published_text([published(**other)], OURS)
    assert BESIDE not in text and text.startswith(OTHERS) and "44.5" in text


def test_every_published_number_is_shown_once_with_its_source() -> None:
    rows = [published(source="S1"), published(model="C", source="S2")]
    text = published_text(rows, OURS)
    assert (text.count("S1"), text.count("S2")) == (1, 1)
    assert text.index(BESIDE) < text.index("S1") < text.index(OTHERS) < text.index("S2")


def test_a_grid_is_compared_by_its_rows_and_says_which_column() -> None:
    columns = [Column("GSM8K", name, "accuracy") for name in ("after math", "after code")]
    cells = {c: Cell(v, 0.02, "items", 400, 1) for c, v in zip(columns, (0.6, 0.5), strict=True)}
    grid = Grid(tuple(columns), {"A": [Row("", "CollabMask, p = 0.7", cells)]})
    _, first, second = compared(published_text([published()], rows_of(grid_csv(grid))))
    assert first[2].strip() == "GSM8K, % (after math)" and first[-1] == "+15.5±2.0"
    assert second[2].strip() == "GSM8K, % (after code)" and second[-1] == "+5.5±2.0"


def test_a_cell_that_we_did_not_measure_has_nothing_beside_it() -> None:
    table = summarise([record(run_of("A", "sft", None), 0.5)], [], TableSettings(methods=("sft",)))
    rows = rows_of(csv_text(table)) + [OURS[0] | {"method": "collab", "value": ""}]
    assert BESIDE not in published_text([published(fraction="")], rows)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"unit": "‰"}, "unit: expected one of"),
        ({"unit": ""}, "unit: expected one of %, share, found ''"),
        ({"value": "x"}, "value: "),
        ({"fraction": "abc"}, "fraction: expected a number, found 'abc'"),
    ],
)
def test_what_is_compared_has_to_be_a_number_in_a_known_unit(
    wrong: dict[str, str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        published_text([published(**wrong)], OURS)


def test_a_row_with_too_few_cells_is_named(tmp_path: Path) -> None:
    path = tmp_path / "short.csv"
    path.write_text("a,b\n1,2\n1\n")
    with pytest.raises(InputError, match=r"short\.csv: row 2: expected 2 cells, found 1"):
        read_csv(path, ("a",))


def test_show_compares_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.csv").write_text(csv_text(summarise(RECORDS, TRAININGS, SETTINGS)))
    with (tmp_path / "p.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, PUBLISHED_FIELDS)
        writer.writeheader()
        writer.writerows([published(), published(model="C")])
    assert main(["show", str(tmp_path / "t.csv")]) == 0
    assert "ublished" not in capsys.readouterr().out
    assert main(["show", str(tmp_path / "t.csv"), "--published", str(tmp_path / "p.csv")]) == 0
    shown = capsys.readouterr().out
    assert "-3.5±2.0" in shown and OTHERS in shown
