"""A table as a page: what our Markdown says, cell by cell, and nothing of it as markup."""

import html
import re
from pathlib import Path

from score_rows import joined

from fnsft.artifacts.records import write_records
from fnsft.cli.main import main
from fnsft.reporting.cells import Cell
from fnsft.reporting.grid import Column, Grid, Row, mark_best
from fnsft.reporting.html_table import html_table
from fnsft.reporting.markdown import grid_markdown

MARKDOWN = r"""**A caption \<b\> & more.**

|             |  a \| b |       c |
| ----------- | ------: | ------: |
| **Model**   |         |         |
| SFT \*      | **1.0** | <ins>2</ins> ± 0.1 |
| *controls*  |         |         |
| x \<img\>   |       – |   3 † |

- Items: 400 \* 2.
- Bold: best.
"""


def texts(page: str, tag: str) -> list[str]:
    return [
        html.unescape(re.sub(r"<[^>]+>", "", cell))
        for cell in re.findall(rf"<{tag}\b[^>]*>(.*?)</{tag}>", page, re.S)
    ]


def test_cells_heads_and_notes_are_those_of_the_markdown() -> None:
    page = html_table(MARKDOWN)
    assert texts(page, "th") == ["", "a | b", "c", "Model", "SFT *", "controls", "x <img>"]
    assert texts(page, "td") == ["1.0", "2 ± 0.1", "–", "3 †"]
    assert texts(page, "li") == ["Items: 400 * 2.", "Bold: best."]
    assert texts(page, "title") == ["A caption <b> & more."]
    assert "<strong>1.0</strong>" in page and "<ins>2</ins>" in page and "<em>controls</em>" in page
    assert page.count('scope="rowgroup"') == 2 and page.count('scope="row"') == 2


def test_best_and_second_are_marked_as_our_markdown_marks_them() -> None:
    column = Column("gsm8k", "", "accuracy")
    cells = [{column: Cell(value, 0.01, "items", 400, 1)} for value in (0.5, 0.25)]
    mark_best(cells, [[column]])
    rows = [Row("", name, own) for name, own in zip("ab", cells, strict=True)]
    page = html_table(grid_markdown(Grid((column,), {"": rows}, "Two.")))
    assert "<strong>50.0</strong>" in page and "<ins>25.0</ins>" in page and "&lt;" not in page


def test_text_is_never_markup() -> None:
    page = html_table(MARKDOWN)
    assert "<img" not in page and "<b>" not in page
    unescaped = html_table("**A & b**\n\n| x | y |\n| - | - |\n| <img src=x> | <i>1</i> |\n")
    assert "<img" not in unescaped and "<i>" not in unescaped and "A &amp; b" in unescaped


def test_a_table_is_written_as_a_page_with_every_cell(tmp_path: Path) -> None:
    write_records(tmp_path / "records.jsonl", joined())
    files = {name: tmp_path / f"table.{name}" for name in ("tex", "csv", "md", "html")}
    arguments = ["table", "--records", str(tmp_path / "records.jsonl"), "--kind", "transfer"]
    arguments += ["--output", str(files["tex"]), "--csv", str(files["csv"])]
    arguments += ["--markdown", str(files["md"]), "--html", str(files["html"])]
    assert main(arguments) == 0
    page = files["html"].read_text()
    rows = [line for line in files["md"].read_text().splitlines() if line.startswith("| ")]
    numbers = re.findall(r"\d+\.\d+", " ".join(rows))
    shown = re.sub(r"<[^>]+>", " ", " ".join(re.findall(r"<tr>.*?</tr>", page, re.S)))
    assert numbers and re.findall(r"\d+\.\d+", shown) == numbers
