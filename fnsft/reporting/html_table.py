"""A table as a page of its own, from our own Markdown: what a report can show."""

import html
import re
from collections.abc import Iterable

STYLE = """
:root { color-scheme: light dark; }
body { font: 1rem/1.5 system-ui, sans-serif; margin: 1.5rem; max-width: 80rem; }
div { overflow-x: auto; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: 0.25rem 0.8rem 0.25rem 0; text-align: right; border-bottom: 1px solid #8886; }
td { white-space: nowrap; }
th { font-weight: 500; }
th:first-child { text-align: left; }
thead th { border-bottom: 1px solid; vertical-align: bottom; }
tbody th[colspan] { padding-top: 0.8rem; }
""".strip()
MARKUP = (
    (r"&lt;ins&gt;(.+?)&lt;/ins&gt;", r"<ins>\1</ins>"),
    (r"\*\*(.+?)\*\*", r"<strong>\1</strong>"),
    (r"\*(.+?)\*", r"<em>\1</em>"),
)
ESCAPED = re.compile(r"\\(.)")
# A private-use character for every escaped one, so that none of them is taken for markup.
HIDDEN = 0xE000


def html_table(markdown: str) -> str:
    """Return a page of a table that :mod:`fnsft.reporting.markdown` wrote.

    The first paragraph is its caption, lines that begin with a bar are its parts (rows without
    cells span them), a list is its notes.
    """
    caption, *blocks = markdown.strip().split("\n\n")
    title = html.escape(re.sub(r"\\(.)", r"\1", caption.strip("*")))
    body = "\n".join(_block(block.splitlines(), title) for block in blocks)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{title}</title>\n<style>\n{STYLE}\n</style>\n</head>\n<body>\n"
        f"<p>{_marked(caption)}</p>\n{body}\n</body>\n</html>\n"
    )


def _block(lines: list[str], title: str) -> str:
    if lines[0].startswith("|"):
        head, _, *rows = (_cells(line) for line in lines)
        columns = "".join(f'<th scope="col">{cell}</th>' for cell in head)
        body = "\n".join(_row(row) for row in rows)
        return (
            f'<div><table aria-label="{title}">\n<thead><tr>{columns}</tr></thead>\n'
            f"<tbody>\n{body}\n</tbody>\n</table></div>"
        )
    return "<ul>\n" + "\n".join(f"<li>{_marked(line[2:])}</li>" for line in lines) + "\n</ul>"


def _row(cells: list[str]) -> str:
    name, *rest = cells
    if not any(rest):
        return f'<tr><th scope="rowgroup" colspan="{len(cells)}">{name}</th></tr>'
    return f'<tr><th scope="row">{name}</th>{_joined(rest)}</tr>'


def _joined(cells: Iterable[str]) -> str:
    return "".join(f"<td>{cell}</td>" for cell in cells)


def _cells(line: str) -> list[str]:
    """Take a line apart at its bars; one that is escaped belongs to a cell."""
    return [_marked(cell.strip()) for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]


def _marked(text: str) -> str:
    """Return Markdown's bold, italics and underlines as HTML, everything else as text."""
    hidden = ESCAPED.sub(lambda found: chr(HIDDEN + ord(found[1])), text)
    shown = html.escape(hidden)
    for pattern, replacement in MARKUP:
        shown = re.sub(pattern, replacement, shown)
    return re.sub(
        f"[{chr(HIDDEN)}-{chr(HIDDEN + 0x7F)}]",
        lambda found: html.escape(chr(ord(found[0]) - HIDDEN)),
        shown,
    )
