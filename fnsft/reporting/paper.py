r"""A document of all tables and figures, one after the other: LaTeX measures each of them.

What fits a column has the width of one, and two such neighbours stand side by side; what is
wider spans the page, scaled where it is wider than that; what would shrink below 70 % is turned.
Nothing is higher than a page. Notes and captions are as wide as what they belong to. There are
no floats: their queue would part headings from what they head, and leave pages empty.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fnsft.artifacts.storage import existing, manifest_path, read_json
from fnsft.config.stages import PaperSettings
from fnsft.errors import InputError
from fnsft.reporting.figures.captions import CAPTIONS
from fnsft.reporting.latex import LatexTable, escaped
from fnsft.reporting.notes import numbered

PREAMBLE = r"""% Made by `fnsft paper`; do not edit.
\documentclass[10pt]{article}
\usepackage[a4paper,margin=16mm,bottom=22mm,footskip=9mm]{geometry}
\usepackage{booktabs,multirow,graphicx}
\raggedbottom
\setlength{\abovecaptionskip}{1.5mm}\setlength{\belowcaptionskip}{1.5mm}
\newlength{\column}\setlength{\column}{85mm}
\newsavebox{\content}\newsavebox{\whole}
\newcommand{\shown}{\ifdim\wd\content>\linewidth
  \resizebox{\linewidth}{!}{\usebox{\content}}\else\usebox{\content}\fi}
\makeatletter
% \placed{table or figure}{caption, \shown for what \content holds, notes}
\newcommand{\placed}[2]{%
  \ifdim\wd\content>1.01\column\let\across\textwidth\else\let\across\column\fi
  \def\turned{0}%
  \ifdim\wd\content>1.4\textwidth\def\turned{90}\let\across\textheight\fi
  \sbox{\whole}{\rotatebox{\turned}{%
    \begin{minipage}[t]{.999\across}\vspace{0pt}\centering\def\@captype{#1}#2\end{minipage}}}%
  \ifdim\wd\whole>\textwidth
    \sbox{\whole}{\resizebox{\textwidth}{!}{\usebox{\whole}}}\fi
  \ifdim\dimexpr\ht\whole+\dp\whole\relax>.97\textheight
    \sbox{\whole}{\resizebox*{!}{.97\textheight}{\usebox{\whole}}}\fi
  \ifnum\turned=90 \sbox{\whole}{\makebox[\textwidth]{\usebox{\whole}}}\fi
  \usebox{\whole}\hskip 7mm\ignorespaces}
\makeatother
\newenvironment{listed}{\par\bigskip\centering\noindent\lineskip=6mm\lineskiplimit=6mm\ignorespaces}
  {\unskip\par}
% Without a date in it the same document is the same file.
\ifdefined\pdftrailerid\pdftrailerid{}\fi
\date{}
"""
TABLES = (
    "Every number is made from metric records. What ± means, how many items and seeds there are, "
    "and what is marked stands below each table; controls do not compete for marks."
)
FIGURES = (
    "Below each figure stands what it shows and what to read from it; where a control belongs to "
    "it, the control is drawn beside."
)


UNNAMEABLE = set('%#{}\\"')


@dataclass(frozen=True)
class PaperFigure:
    """A figure's file, as the document finds it, and its caption in plain text."""

    path: str
    caption: str


def paper_latex(
    settings: PaperSettings, tables: Sequence[LatexTable], figures: Sequence[PaperFigure]
) -> str:
    """Write the document: what it is of, a section of tables, and one of figures."""
    author = f"experiment {settings.experiment}" if settings.experiment else ""
    lines = [
        PREAMBLE + rf"\title{{{escaped(settings.title)}}}",
        rf"\author{{{escaped(author)}}}",
        r"\begin{document}",
        r"\maketitle",
        escaped(_about(settings, len(tables), len(figures))),
    ]
    if tables:
        lines += [r"\section{Tables}", escaped(TABLES), _listed(map(_table, tables))]
    if figures:
        lines += [r"\section{Figures}", escaped(FIGURES), _listed(map(_figure, figures))]
    return "\n".join([*lines, r"\end{document}"]) + "\n"


def figure_of(path: Path, folder: Path) -> PaperFigure:
    """Return a figure for a document in ``folder``; its manifest says what kind it is of.

    Raises
    ------
    InputError
        When the figure is missing, its manifest is none of a figure, or LaTeX could not find it by
        its name.
    """
    manifest = manifest_path(existing(path))
    kind: Any = _kind_in(manifest) if manifest.exists() else None
    name, shown = path.stem.replace("_", " ").capitalize(), CAPTIONS.get(kind, "")
    caption = shown if shown.startswith(name) else f"{name}. {shown}".strip()
    relative = Path(os.path.relpath(path, folder)).as_posix()
    if found := sorted(set(relative) & UNNAMEABLE):
        raise InputError(f"{path}: expected a name without {found[0]}, which TeX takes; rename it")
    return PaperFigure(relative, caption)


def _kind_in(manifest: Path) -> str | None:
    made: Any = read_json(manifest)
    settings = made.get("settings", {}) if isinstance(made, dict) else made
    kind = settings.get("kind") if isinstance(settings, dict) else settings
    if not isinstance(settings, dict) or not isinstance(kind, str | None):
        raise InputError(f"{manifest}: expected a figure's manifest, found another; draw it anew")
    return kind


def _about(settings: PaperSettings, n_tables: int, n_figures: int) -> str:
    """Say what the document holds, and of which models and seeds."""
    words = f"This document holds {numbered(n_tables, 'table')} and {numbered(n_figures, 'figure')}"
    if settings.models:
        words += f" of {', '.join(settings.models)}"
    if settings.seeds:
        noun = "seeds" if len(settings.seeds) > 1 else "seed"
        words += f", {noun} {', '.join(map(str, settings.seeds))}"
    return f"{words}, where a caption or a note says nothing else."


def _table(table: LatexTable) -> str:
    notes = "\\par\n".join(table.notes)
    return _placed(
        "table",
        rf"\footnotesize\setlength{{\tabcolsep}}{{2.8pt}}{table.tabular}",
        [rf"\caption{{{table.caption}}}", r"\shown\par\smallskip", _small(notes)],
    )


def _figure(figure: PaperFigure) -> str:
    content = rf"\includegraphics{{\detokenize{{{figure.path}}}}}"
    return _placed("figure", content, [r"\shown", rf"\caption{{{escaped(figure.caption)}}}"])


def _small(notes: str) -> str:
    return rf"{{\raggedright\scriptsize {notes}\par}}"


def _placed(kind: str, content: str, parts: Iterable[str]) -> str:
    body = "%\n".join(parts)
    return f"\\sbox{{\\content}}{{{content}}}%\n\\placed{{{kind}}}{{%\n{body}%\n}}"


def _listed(placed: Iterable[str]) -> str:
    return "\n".join([r"\begin{listed}", *placed, r"\end{listed}"])
