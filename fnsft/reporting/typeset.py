"""A LaTeX document as PDF, with whichever engine is there, without shell escapes or questions."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from fnsft.artifacts.storage import existing, written_whole
from fnsft.errors import InputError

# In the order of preference: tectonic is last, for it may ask a network for its packages. Two
# passes settle the numbers of floats; latexmk and tectonic count passes themselves.
STEADY = ("-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape")
PASSES: dict[str, list[tuple[str, ...]]] = {
    "latexmk": [("-norc", "-pdf", *STEADY, "-outdir={build}")],
    "pdflatex": [(*STEADY, "-output-directory={build}")] * 2,
    "tectonic": [("--untrusted", "--keep-logs", "--outdir={build}")],
}
INSTALL = "apt-get install texlive-latex-extra, or conda install -c conda-forge tectonic"
LIMIT_SECONDS = 600
OVERFULL = re.compile(r"^Overfull \\hbox \(([0-9.]+)pt too wide\)", re.M)


@dataclass(frozen=True)
class Typeset:
    """How a document was compiled, and by how much its widest line is too wide, in points."""

    engine: str
    pages: int | None
    widest_overfull_points: float


def typeset(document: Path, output: Path) -> Typeset:
    """Compile a document to ``output``; the engine's log is kept beside it as ``.log``.

    Raises
    ------
    InputError
        When no engine is there, and when the document does not compile.
    """
    engine = engine_there()
    existing(document)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.stem}.build-") as build:
        for arguments in PASSES[engine]:
            words = [argument.format(build=Path(build).resolve()) for argument in arguments]
            said, code = _run([engine, *words, f"./{document.name}"], document)
            if code:
                break
        log = Path(build, f"{document.stem}.log")
        text = log.read_text(errors="replace") if log.exists() else said
        kept = output.with_suffix(".log")
        kept.write_text(text)
        pdf = Path(build, f"{document.stem}.pdf")
        if code or not pdf.exists():
            raise InputError(
                f"{document}: expected a document that {engine} compiles, found "
                f"{_complaint(text or said)!r}; the whole log is {kept}"
            )
        with written_whole(output) as partial:
            shutil.copyfile(pdf, partial)
    pages = re.search(r"^Output written on .*?\((\d+) page", text, re.M | re.S)
    widest = max(map(float, OVERFULL.findall(text)), default=0.0)
    return Typeset(engine, int(pages[1]) if pages else None, widest)


def engine_there() -> str:
    """Return the first engine that is installed."""
    for engine in PASSES:
        if shutil.which(engine):
            return engine
    raise InputError(f"expected {', '.join(PASSES)} on the PATH, found none; {INSTALL}")


def _run(command: list[str], document: Path) -> tuple[str, int]:
    """Run in the document's folder, from which its figures are found."""
    environment = os.environ | {
        "SOURCE_DATE_EPOCH": "0",
        "FORCE_SOURCE_DATE": "1",
        "max_print_line": "1000",  # or the log's lines break within a path
    }
    with subprocess.Popen(
        command,
        cwd=document.parent,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as engine:
        try:
            said, _ = engine.communicate(timeout=LIMIT_SECONDS)
        except BaseException as error:
            # latexmk's own child holds the pipe and would go on: the whole group has to end.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(engine.pid, signal.SIGKILL)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            late = f"{document}: expected {command[0]} to end within {LIMIT_SECONDS} s"
            raise InputError(f"{late}, found it running; look for a loop in the document") from None
    return said, engine.returncode


def _complaint(text: str) -> str:
    """Return the first line in which TeX complains, or the last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["nothing"]
    return next((line for line in lines if line.startswith(("!", "error:"))), lines[-1])
