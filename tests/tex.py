"""Tables on the pages of a plain article, as LaTeX sets them."""

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

needs_pdflatex = pytest.mark.skipif(
    not shutil.which("pdflatex"), reason="no pdflatex: apt-get install texlive-latex-extra"
)
PACKAGES = "booktabs,multirow,threeparttable,adjustbox"


def article_log(folder: Path, tables: Mapping[str, str]) -> str:
    """Set tables, texts by name, and return LaTeX's log; an error of it fails the test."""
    for name, text in tables.items():
        (folder / f"{name}.tex").write_text(text)
    inputs = "".join(rf"\input{{{name}}}" for name in tables)
    head = rf"\documentclass{{article}}\usepackage{{{PACKAGES}}}\begin{{document}}"
    (folder / "article.tex").write_text(rf"{head}{inputs}\end{{document}}")
    command = ["pdflatex", "-halt-on-error", "-interaction=batchmode", "article.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, timeout=600)
    log = (folder / "article.log").read_text(errors="replace")
    assert done.returncode == 0, log[-2_000:]
    return log
