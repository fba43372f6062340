r"""A table as LaTeX to ``\input``: booktabs, multirow and threeparttable."""

from collections.abc import Sequence

from fnsft.reporting.cells import Cell
from fnsft.reporting.labels import label_of
from fnsft.reporting.notes import caption_of, notes_of
from fnsft.reporting.table import Table

HEADER = r"""% Made by `fnsft table` from metric records; do not edit. The document needs
% \usepackage{booktabs,multirow,threeparttable}
"""

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
    "±": r"$\pm$",
    "–": "--",
    "†": r"$^{\dagger}$",
    "λ": r"$\lambda$",
    "α": r"$\alpha$",
    "β": r"$\beta$",
}


def escaped(text: str) -> str:
    """Return text with LaTeX's special characters, and those of ours, written out."""
    return "".join(_ESCAPES.get(character, character) for character in text)


def latex(table: Table) -> str:
    """Write the table as a ``table`` environment."""
    body = _methods_as_rows if table.settings.layout == "rows" else _methods_as_columns
    columns, lines = body(table)
    lines = [
        r"\begin{table}[t]",
        r"\centering\footnotesize\setlength{\tabcolsep}{2.8pt}",
        r"\begin{threeparttable}",
        rf"\caption{{{escaped(caption_of(table))}}}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        *lines,
        r"\bottomrule",
        r"\end{tabular}",
        r"\begin{tablenotes}[flushleft]\scriptsize\setlength{\labelsep}{0pt}",
        *(rf"\item {escaped(note)}" for note in notes_of(table)),
        r"\end{tablenotes}",
        r"\end{threeparttable}",
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
                _row([escaped(label_of(method)), share, *(_cell(table, c) for c in cells)])
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
                row.append(_cell(table, table.cells.get((model, method, fraction))))
            else:
                text = _cell(table, table.cells.get((model, method, None)))
                row.append(_spanning(text, height, place))
        rows.append(_row(row))
    return rows


def _average(table: Table) -> str:
    cells = [_cell(table, table.averages.get(("validation", m))) for m in table.columns]
    return _row(["Average", r"$\dagger$" if len(table.fractions) > 1 else "", *cells])


def _spanning(text: str, height: int, place: int) -> str:
    if height == 1:
        return text
    return rf"\multirow{{{height}}}{{*}}{{{text}}}" if place == 0 else ""


def _cell(table: Table, cell: Cell | None) -> str:
    """Return value, mark, dagger and the uncertainty beside them."""
    if cell is None:
        return "--"
    printed = table.style.printed
    command = {"best": r"\textbf{%s}", "second": r"\underline{%s}", "": "%s"}[cell.mark]
    text = command % printed(cell.value)
    if cell.uncertainty is not None:
        text += rf"{{\tiny$\,\pm${printed(cell.uncertainty)}}}"
    return text + (r"\rlap{$^{\dagger}$}" if cell.chosen and len(table.fractions) > 1 else "")


def _row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"
