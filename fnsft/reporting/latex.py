r"""A table as LaTeX to ``\input``: booktabs, multirow and threeparttable."""

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fnsft.errors import InputError
from fnsft.reporting.cells import Cell
from fnsft.reporting.grid import Column, Grid, measured_in_words, parts_of
from fnsft.reporting.labels import MetricStyle, label_of, style_of
from fnsft.reporting.notes import caption_of, notes_of
from fnsft.reporting.table import Table

HEADER = r"""% Made by `fnsft table` from metric records; do not edit. The document needs
% \usepackage{booktabs,multirow,threeparttable,adjustbox}
"""
LATIN_END, PUNCTUATION = "\u017e", "‘’“”…—²³·"
NO_TEX_LETTERS = "«»ÐÞðþĄąĐđĘęĦħĮįĸĿŀŉŊŋŦŧŲų"  # of LaTeX's first encoding, OT1

_ESCAPES = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "|": r"\textbar{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "−": "$-$",
    "±": r"$\pm$",
    "–": "--",
    "†": r"$^{\dagger}$",
    "‡": r"$^{\ddagger}$",
    "λ": r"$\lambda$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "×": r"$\times$",
    "→": r"$\rightarrow$",
    "α": r"$\alpha$",
    "β": r"$\beta$",
}


_TABLE = re.compile(
    r"\\caption\{([^\n]*)\}\n(\\begin\{tabular\}.*?\\end\{tabular\})\n"
    r"\\begin\{tablenotes\}[^\n]*\n(.*?)\\end\{tablenotes\}",
    re.S,
)


def escaped(text: str) -> str:
    """Return text with LaTeX's special characters, and those of ours, written out.

    Of others, letters of European languages and customary punctuation are left to LaTeX; what
    no pdflatex knows is shown by its number, as ``U+4E2D``.
    """
    return "".join(_ESCAPES.get(character) or _known(character) for character in text)


def _known(character: str) -> str:
    if not character.isprintable():
        return " "
    known = character <= LATIN_END and character not in NO_TEX_LETTERS
    return character if known or character in PUNCTUATION else f"U+{ord(character):04X}"


def latex(table: Table) -> str:
    """Write the table as a ``table`` environment."""
    body = _methods_as_rows if table.settings.layout == "rows" else _methods_as_columns
    return _environment(caption_of(table), *body(table), notes_of(table))


def grid_latex(grid: Grid) -> str:
    """Write a grid as a ``table`` environment; columns that do not fit stand below the others."""
    parts = parts_of(grid)
    width = 1 + max(map(len, parts))
    lines: list[str] = []
    for columns in parts:
        lines += [r"\midrule\midrule"] if lines else []
        lines += _part(grid, columns, width)
    notes = [*grid.notes, *measured_in_words(grid)]
    return _environment(grid.caption, "l" + "c" * (width - 1), lines, notes)


def _part(grid: Grid, columns: Sequence[Column], width: int) -> list[str]:
    """Return the lines of some columns: a line above every block and every section."""
    lines = [*_heads(columns), r"\midrule"]
    for place, (model, rows) in enumerate(grid.blocks.items()):
        lines += [r"\midrule"] if place else []
        lines.append(_row([rf"\multicolumn{{{width}}}{{l}}{{\textbf{{{escaped(model)}}}}}"]))
        for section, members in itertools.groupby(rows, key=lambda row: row.section):
            if section:
                lines.append(rf"\cmidrule{{1-{width}}}")
                lines.append(
                    _row([rf"\multicolumn{{{width}}}{{l}}{{\emph{{{escaped(section)}}}}}"])
                )
            for row in members:
                cells = [_cell(style_of(c.metric), row.cells.get(c)) for c in columns]
                lines.append(_row([escaped(row.name), *cells]))
    return lines


def _heads(columns: Sequence[Column]) -> list[str]:
    """Return the groups with a rule below each, and the columns' names if they have any."""
    groups, rules, first = [""], [], 2
    for heading, members in itertools.groupby(columns, key=lambda column: column.heading):
        width = len(list(members))
        groups.append(rf"\multicolumn{{{width}}}{{c}}{{{escaped(heading)}}}")
        rules.append(rf"\cmidrule(lr){{{first}-{first + width - 1}}}")
        first += width
    names = [escaped(column.name) for column in columns]
    return [_row(groups), "".join(rules), *([_row(["", *names])] if any(names) else [])]


@dataclass(frozen=True)
class LatexTable:
    """What a table of ours consists of, in LaTeX."""

    caption: str
    tabular: str
    notes: tuple[str, ...]

    @classmethod
    def of(cls, text: str, where: str) -> "LatexTable":
        """Take a table that this module wrote apart; ``where`` names it.

        Raises
        ------
        InputError
            When the text is no such table.
        """
        found = _TABLE.search(text)
        if not found:
            raise InputError(f"{where}: expected a table of fnsft table, found other LaTeX")
        caption, tabular, items = found.groups()
        return cls(caption, tabular, tuple(re.findall(r"^\\item (.*)$", items, re.M)))


def _environment(caption: str, columns: str, lines: Iterable[str], notes: Iterable[str]) -> str:
    """Put the lines between a caption and notes, both plain text, on one page at most."""
    lines = [
        r"\begin{table}[tp]",
        r"\centering\footnotesize\setlength{\tabcolsep}{2.8pt}",
        r"\begin{adjustbox}{max totalsize={\linewidth}{.97\textheight}}",
        r"\begin{threeparttable}",
        rf"\caption{{{escaped(caption)}}}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        *lines,
        r"\bottomrule",
        r"\end{tabular}",
        r"\begin{tablenotes}[flushleft]\scriptsize\setlength{\labelsep}{0pt}",
        *(rf"\item {escaped(note)}" for note in notes),
        r"\end{tablenotes}",
        r"\end{threeparttable}",
        r"\end{adjustbox}",
        r"\end{table}",
    ]
    return HEADER + "\n".join(lines) + "\n"


def _methods_as_columns(table: Table) -> tuple[str, list[str]]:
    """Return the columns and the lines of a table with one block a model."""
    columns = "ll" + "c" * len(table.methods)
    columns += "|" + "c" * len(table.controls) if table.controls else ""
    lines = [_row(["Model", "$p$", *map(_heading, table.columns)]), r"\midrule"]
    for model in table.models:
        lines += [*_block(table, model), r"\midrule"]
    return columns, [*lines, _average(table)]


def _methods_as_rows(table: Table) -> tuple[str, list[str]]:
    """Return the columns and the lines of a table with one column a model, controls last."""
    averaged = len(table.models) > 1
    heads = ["Method", "$p$", *map(escaped, table.models), *(["Average"] if averaged else [])]
    lines = [_row(heads), r"\midrule"]
    for method in table.columns:
        if method == next(iter(table.controls), None):
            lines.append(r"\midrule")
        for fraction in table.fractions_of(method):
            share = "--" if fraction is None else f"{fraction:g}"
            cells = [table.cells.get((model, method, fraction)) for model in table.models]
            if averaged:
                cells.append(table.averages.get(("validation", method)))
            lines.append(
                _row([escaped(label_of(method)), share, *(_method_cell(table, c) for c in cells)])
            )
    return "ll" + "c" * (len(table.models) + averaged), lines


def _heading(method: str) -> str:
    words = escaped(label_of(method)).split(" ")
    return r"\shortstack{" + r" \\ ".join(words) + "}" if len(words) > 1 else words[0]


def _block(table: Table, model: str) -> list[str]:
    """Return a model's rows; cells without a fraction span them all."""
    height = len(table.fractions)
    rows = []
    for place, fraction in enumerate(table.fractions):
        row = [_spanning(escaped(model), height, place)]
        row.append("--" if fraction is None else f"{fraction:g}")
        for method in table.columns:
            if method in table.masked:
                row.append(_method_cell(table, table.cells.get((model, method, fraction))))
            else:
                text = _method_cell(table, table.cells.get((model, method, None)))
                row.append(_spanning(text, height, place))
        rows.append(_row(row))
    return rows


def _average(table: Table) -> str:
    cells = [_method_cell(table, table.averages.get(("validation", m))) for m in table.columns]
    return _row(["Average", r"$\dagger$" if len(table.fractions) > 1 else "", *cells])


def _spanning(text: str, height: int, place: int) -> str:
    if height == 1:
        return text
    return rf"\multirow{{{height}}}{{*}}{{{text}}}" if place == 0 else ""


def _cell(style: MetricStyle, cell: Cell | None, dagger: bool = False) -> str:
    """Return value, mark, the uncertainty beside them, and a dagger."""
    if cell is None:
        return "--"
    command = {"best": r"\textbf{%s}", "second": r"\underline{%s}"}.get(cell.mark, "%s")

    def number(value: float, beside: float | None = None) -> str:
        text = style.printed(value, beside)
        return text.replace("-", "$-$") if style.signed else text

    text = command % number(cell.value)
    if cell.uncertainty is not None:
        text += rf"{{\tiny$\,\pm${number(cell.uncertainty, cell.value)}}}"
    if cell.interval:
        text += rf"{{\tiny\,[{', '.join(map(number, cell.interval))}]}}"
    if cell.bound:
        sign, end = cell.bound
        text += rf"{{\tiny\,({escaped(sign)}{number(end)})}}"
    marks = {"beyond": r"\rlap{$^{\dagger}$}", "differs": r"\rlap{$^{\ddagger}$}"}
    return text + marks.get("beyond" if dagger else cell.mark, "")


def _method_cell(table: Table, cell: Cell | None) -> str:
    chosen = cell is not None and cell.chosen and len(table.fractions) > 1
    return _cell(table.style, cell, chosen)


def _row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"
