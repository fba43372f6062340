"""The paper: hand-made tables and a figure in one document, compiled with the TeX that is there."""

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from test_reporting import RECORDS, SETTINGS, TRAININGS, record, run_of
from tex import article_log, needs_pdflatex
from workflow_runs import SMOKE, copy_tree, snakemake

from fnsft.artifacts.manifest import manifest_path
from fnsft.artifacts.storage import read_json
from fnsft.artifacts.training import write_training
from fnsft.cli.main import main
from fnsft.config.checks import check
from fnsft.config.experiment import Experiment
from fnsft.config.stages import PaperSettings, TableSettings
from fnsft.errors import InputError
from fnsft.reporting import typeset as engines
from fnsft.reporting.cells import Cell
from fnsft.reporting.figures.captions import CAPTIONS
from fnsft.reporting.grid import Column, Grid, Row
from fnsft.reporting.latex import LatexTable, escaped, grid_latex, latex
from fnsft.reporting.notes import caption_of, notes_of
from fnsft.reporting.paper import PREAMBLE, figure_of, paper_latex
from fnsft.reporting.table import summarise
from fnsft.training import installation

TABLE = summarise(RECORDS, TRAININGS, SETTINGS)
LETTERS = " ".join(map(chr, [*range(0x180), *range(0x2010, 0x2030), 0x1F600]))
needs_tex = pytest.mark.skipif(
    not any(map(shutil.which, engines.PASSES)) or not shutil.which("pdftotext"),
    reason="no TeX or no pdftotext: apt-get install texlive-latex-extra poppler-utils",
)


def grid_of(n_columns: int, n_rows: int) -> Grid:
    """A table of a model whose name is special to LaTeX."""
    columns = tuple(Column(f"benchmark {i}", "", "accuracy") for i in range(n_columns))
    cells = {c: Cell(0.5, 0.02, "items", 400, 1) for c in columns}
    rows = [Row("", f"condition_{i}", cells) for i in range(n_rows)]
    return Grid(columns, {"M_1 & 50 %": rows}, f"{n_columns} columns.", ("A note.",))


@pytest.fixture
def figure(tmp_path: Path) -> Path:
    (tmp_path / "figures").mkdir()
    write_training(tmp_path / "run", TRAININGS[0])
    path = tmp_path / "figures" / "validation_perplexity.pdf"
    assert main(["figure", "--inputs", str(tmp_path / "run"), "--output", str(path)]) == 0
    return path


def written(folder: Path, **tables: str) -> list[str]:
    """Write tables; return their paths."""
    for name, text in tables.items():
        (folder / f"{name}.tex").write_text(text)
    return [str(folder / f"{name}.tex") for name in tables]


def compiled(folder: Path) -> tuple[str, dict]:
    """The words of the compiled paper, and what its manifest notes."""
    output = folder / "paper.pdf"
    assert main(["typeset", str(folder / "paper.tex"), "--output", str(output)]) == 0
    command = ["pdftotext", "-layout", str(output), "-"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return text, read_json(manifest_path(output))["notes"]


def test_a_table_of_ours_is_taken_apart_as_it_was_put_together() -> None:
    parts = LatexTable.of(latex(TABLE), "t.tex")
    assert parts.caption == escaped(caption_of(TABLE))
    assert parts.notes == tuple(map(escaped, notes_of(TABLE)))
    assert parts.tabular.startswith(r"\begin{tabular}") and parts.tabular in latex(TABLE)


def test_the_document_holds_every_table_and_figure_in_the_order_given(figure: Path) -> None:
    tables = [LatexTable.of(grid_latex(grid_of(n, 2)), "t") for n in (3, 2)]
    shown = figure_of(figure, figure.parent.parent)
    text = paper_latex(PaperSettings(title="A & B", models=("M_1",)), tables, [shown])
    assert text.index("3 columns.") < text.index("2 columns.") < text.index(r"\includegraphics")
    assert r"\title{A \& B}" in text and r"M\_1" in text
    assert shown.path == "figures/validation_perplexity.pdf"
    assert shown.caption == CAPTIONS["perplexity"]
    renamed = figure.rename(figure.with_name("another.pdf"))
    assert figure_of(renamed, figure.parent).caption == "Another."
    manifest_path(figure).rename(manifest_path(renamed))
    assert figure_of(renamed, figure.parent).caption == f"Another. {CAPTIONS['perplexity']}"


def test_what_no_latex_knows_is_shown_by_its_number() -> None:
    assert escaped("a中é–\n\x7f\u0142ą") == "aU+4E2Dé--  łU+0105"


@needs_tex
def test_the_paper_compiles_and_says_what_its_parts_say(tmp_path: Path, figure: Path) -> None:
    wide, special = grid_of(9, 12), record(run_of("x^~_{}#$%&\\中", "sft", None), 0.5)
    tables = written(
        tmp_path,
        methods=latex(TABLE),
        wide=grid_latex(wide),
        special=latex(summarise([special], [], TableSettings(title=LETTERS))),
    )
    words = ["paper", "--tables", *tables, "--figures", str(figure), "--title", "On neurons & 5 %"]
    words += ["--experiment", "a_b", "--models", "A", "B", "--seeds", "0", "1"]
    assert main([*words, "--output", str(tmp_path / "paper.tex")]) == 0
    text, notes = compiled(tmp_path)
    text = re.sub(" +", " ", text)  # an underscore of LaTeX is a rule, and no character
    about = ("On neurons & 5 %", "experiment a b", "3 tables and 1 figure of A, B, seeds 0, 1")
    named = ("M 1 & 50 %", "condition 11", "CollabMask", "46.0", "1 Tables")
    captions = ("Table 1:", "Table 2:", "Table 3:", "Figure 1: Validation perplexity over")
    assert [words for words in (*about, *named, *captions) if words not in text] == []
    assert re.search(r"x.+\{\}#\$%&\\U\+4E2D", text)  # a model's name
    assert "Optimizer steps of every run: 189." in text
    assert notes["pages"] >= 1 and notes["widest_overfull_points"] < 3


@needs_tex
def test_figures_are_found_whatever_they_are_called_or_it_is_said_that_they_are_not(
    tmp_path: Path, figure: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = figure.rename(figure.with_name("a b_c&d~e^$é.pdf"))
    words = ["paper", "--output", str(tmp_path / "paper.tex"), "--figures"]
    assert main([*words, str(odd)]) == 0
    assert "Figure 1: A b" in re.sub(" +", " ", compiled(tmp_path)[0])
    wrong = odd.rename(odd.with_name("50%.pdf"))
    assert main([*words, str(wrong)]) == 2
    assert "50%.pdf: expected a name without %, which TeX takes" in capsys.readouterr().err


@needs_tex
@pytest.mark.parametrize(("n_columns", "n_rows"), [(2, 3), (2, 150), (10, 4), (10, 150), (1, 9)])
def test_nothing_is_wider_or_higher_than_the_page(
    tmp_path: Path, n_columns: int, n_rows: int
) -> None:
    grid = grid_of(n_columns, n_rows)
    long = Column("a heading that is far too long for any page " * 4, "", "accuracy")
    if n_columns == 1:
        grid = Grid((*grid.columns, long), grid.blocks, "Long.")
    tables = written(tmp_path, one=grid_latex(grid), two=grid_latex(grid_of(2, 3)))
    assert main(["paper", "--tables", *tables, "--output", str(tmp_path / "paper.tex")]) == 0
    _, notes = compiled(tmp_path)
    log = (tmp_path / "paper.log").read_text()
    assert notes["widest_overfull_points"] < 3 and r"Overfull \vbox" not in log
    boxes = subprocess.run(
        ["pdftotext", "-bbox", str(tmp_path / "paper.pdf"), "-"], capture_output=True, text=True
    ).stdout
    width, height = map(
        float, re.search(r'page width="([\d.]+)" height="([\d.]+)"', boxes).groups()
    )
    found = re.findall(r'xMin="([\d.-]+)" yMin="([\d.-]+)" xMax="([\d.]+)" yMax="([\d.]+)"', boxes)
    left, top, right, bottom = (list(map(float, side)) for side in zip(*found, strict=True))
    assert min(left) > 40 and min(top) > 30 and max(right) < width - 40
    assert max(bottom) < height - 30  # the page's number stands lowest


@needs_pdflatex
def test_a_table_fits_the_page_of_another_article(tmp_path: Path) -> None:
    sizes = {"small": (2, 3), "wide": (10, 4), "long": (2, 150), "both": (10, 150)}
    log = article_log(tmp_path, {name: grid_latex(grid_of(*size)) for name, size in sizes.items()})
    assert "Overfull" not in log and "Float too large" not in log


@needs_tex
def test_the_same_document_is_the_same_pdf(tmp_path: Path) -> None:
    tables = written(tmp_path, one=latex(TABLE))
    made = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        assert main(["paper", "--tables", *tables, "--output", str(folder / "paper.tex")]) == 0
        compiled(folder)
        made.append((folder / "paper.pdf").read_bytes())
        assert {path.name for path in folder.iterdir()} == {
            *("paper.tex", "paper.tex.manifest.json", "paper.log"),
            *("paper.pdf", "paper.pdf.manifest.json"),
        }
    assert made[0] == made[1]


@needs_tex
def test_a_document_that_does_not_compile_leaves_its_log_and_no_pdf(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "paper.tex").write_text(r"\documentclass{article}\begin{document}\nonsense")
    words = ["typeset", str(tmp_path / "paper.tex"), "--output", str(tmp_path / "paper.pdf")]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "Undefined control sequence" in error
    assert "Undefined control sequence" in (tmp_path / "paper.log").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"paper.tex", "paper.log"}


@needs_tex
def test_a_document_runs_no_commands(tmp_path: Path) -> None:
    body = rf"\immediate\write18{{touch {tmp_path}/ran}}x"
    text = rf"\documentclass{{article}}\begin{{document}}{body}\end{{document}}"
    (tmp_path / "paper.tex").write_text(text)
    main(["typeset", str(tmp_path / "paper.tex"), "--output", str(tmp_path / "paper.pdf")])
    assert (tmp_path / "paper.pdf").exists() and not (tmp_path / "ran").exists()


def test_a_document_that_is_not_there_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["typeset", str(tmp_path / "x.tex"), "--output", str(tmp_path / "new" / "x.pdf")]
    assert main(words) == 2
    assert "x.tex: no such file or folder" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@needs_tex
def test_a_pdf_may_go_to_a_new_folder(tmp_path: Path) -> None:
    (tmp_path / "x.tex").write_text(r"\documentclass{article}\begin{document}x\end{document}")
    words = ["typeset", str(tmp_path / "x.tex"), "--output", str(tmp_path / "new" / "y.pdf")]
    assert main(words) == 0
    assert {path.name for path in (tmp_path / "new").iterdir()} == {
        *("y.pdf", "y.log", "y.pdf.manifest.json"),
    }


def test_without_an_engine_it_is_said_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "paper.tex").write_text("x")
    words = ["typeset", str(tmp_path / "paper.tex"), "--output", str(tmp_path / "paper.pdf")]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "expected latexmk, pdflatex, tectonic on the PATH, found none; apt-get install" in error


def test_the_doctor_looks_for_the_engines_and_packages_of_the_paper() -> None:
    assert tuple(engines.PASSES) == installation.TEX_PROGRAMS
    used = re.search(r"\\usepackage\{(.*)\}", PREAMBLE)[1].split(",")
    assert {*used, "geometry"} <= {*installation.TEX_PACKAGES}


@pytest.mark.parametrize("engine", engines.PASSES)
def test_every_engine_is_called_where_it_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    for name in list(engines.PASSES)[list(engines.PASSES).index(engine) :]:
        (tmp_path / name).write_text("")
        os.chmod(tmp_path / name, 0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert engines.engine_there() == engine


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tables", "{}/none.tex"], "none.tex: no such file or folder"),
        (["--figures", "{}/none.pdf"], "none.pdf: no such file or folder"),
        (["--tables", "{}/other.tex"], "other.tex: expected a table of fnsft table, found other"),
        ([], "expected --tables or --figures, found neither"),
    ],
)
def test_what_is_missing_or_no_table_is_named_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    (tmp_path / "other.tex").write_text("other")
    words = [word.format(tmp_path) for word in words]
    assert main(["paper", *words, "--output", str(tmp_path / "paper.tex")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "paper.tex").exists()


@pytest.mark.parametrize("manifest", ["[1]", '{"settings": [1]}', '{"settings": {"kind": [1]}}'])
def test_a_figures_manifest_that_is_none_is_refused(tmp_path: Path, manifest: str) -> None:
    (tmp_path / "a.pdf").write_text("")
    manifest_path(tmp_path / "a.pdf").write_text(manifest)
    with pytest.raises(InputError, match=r"a\.pdf\.manifest\.json: expected a figure's manifest"):
        figure_of(tmp_path / "a.pdf", tmp_path)


def test_an_engine_that_takes_too_long_ends_with_all_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = tmp_path / "latexmk"
    engine.write_text(f"#!/bin/sh\nsleep 120 &\necho $! > {tmp_path}/child\nwait\n")
    engine.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(engines, "LIMIT_SECONDS", 1)
    (tmp_path / "paper.tex").write_text("x")
    began = time.monotonic()
    with pytest.raises(InputError, match="latexmk to end within 1 s"):
        engines.typeset(tmp_path / "paper.tex", tmp_path / "paper.pdf")
    assert time.monotonic() - began < 100
    child = Path("/proc", (tmp_path / "child").read_text().strip(), "stat")
    while time.monotonic() - began < 100 and child.exists() and child.read_text().split()[2] != "Z":
        time.sleep(0.05)  # it is killed, and dies when it is next scheduled
    assert not child.exists() or child.read_text().split()[2] == "Z"


def configuration(repository: Path, **paper: object) -> Experiment:
    config = yaml.safe_load((repository / "config.yaml").read_text())
    return Experiment(config | {"paper": config["paper"] | paper})


def test_the_paper_holds_all_of_the_catalogues_but_what_trains_too_much(repository: Path) -> None:
    experiment = configuration(repository)
    check(experiment)
    paper, config = experiment.paper(), experiment.config
    assert set(config["tables"]) - set(paper.tables) == {"table1_extended", "table2_extended"}
    assert set(config["figures"]) - set(paper.figures) == {"learning_retention"}


@pytest.mark.parametrize(
    ("paper", "message"),
    [
        ({"tables": ["tabel1"]}, "paper.tables: 'tabel1' is none of tables; did you mean 'table1'"),
        ({"figures": ["table1"]}, "paper.figures: 'table1' is none of figures"),
        ({"tables": ["table1"] * 2}, "paper.tables: expected each once, found 'table1' twice"),
        ({"pages": 3}, "paper: unknown key 'pages'"),
        ({"tables": [], "figures": []}, "paper: expected tables or figures, found neither"),
    ],
)
def test_a_name_that_is_none_is_refused(
    repository: Path, paper: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        check(configuration(repository, **paper))


@pytest.mark.parametrize("name", ["paper", "explore"])
def test_a_table_may_not_have_the_name_of_a_file_beside_it(repository: Path, name: str) -> None:
    experiment = configuration(repository)
    experiment.config["tables"][name] = experiment.config["tables"]["table1"]
    with pytest.raises(InputError, match=f"tables: expected another name than '{name}'"):
        check(experiment)


@pytest.mark.workflow
def test_one_target_plans_every_table_and_figure_and_the_paper(
    repository: Path, tmp_path: Path
) -> None:
    tree = copy_tree(repository, tmp_path / "tree")
    done = snakemake(tree, "-n", "--profile", "cpu", "--", "paper")
    assert done.returncode == 0, done.stderr
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", done.stderr + done.stdout, re.M))
    paper = configuration(repository).paper()
    assert int(jobs["publish_table"]) == int(jobs["table"]) == len(paper.tables)
    assert int(jobs["publish_figure"]) == int(jobs["figure"]) == len(paper.figures)
    assert all(jobs[rule] == "1" for rule in ("write_paper", "typeset", "publish_paper", "paper"))
    one = snakemake(
        tree, "-n", "--profile", "cpu", "--configfile", *SMOKE, "--", "results/paper.pdf"
    )
    assert "publish_paper" in one.stdout + one.stderr
    assert "fetch" not in "".join(jobs)
