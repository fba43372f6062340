"""Tables and figures: hand-made records whose table is known, cell by cell."""

import csv
import io
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from tex import article_log, needs_pdflatex

from fnsft.artifacts.records import Measurement, Record, write_records
from fnsft.artifacts.training import Run, TrainingRecord, write_training
from fnsft.cli.main import main
from fnsft.config.stages import FRACTION_METHODS, FigureSettings, TableSettings
from fnsft.errors import InputError
from fnsft.reporting.cells import Cell
from fnsft.reporting.csv_table import FIELDS, PUBLISHED_FIELDS, csv_text, read_csv
from fnsft.reporting.curves import panels_of
from fnsft.reporting.labels import label_of
from fnsft.reporting.latex import escaped, latex
from fnsft.reporting.notes import caption_of, missing_cells, notes_of
from fnsft.reporting.published import published_text
from fnsft.reporting.table import RULES, Table, _chosen_fraction, summarise
from fnsft.reporting.text_table import table_text

SETTINGS = TableSettings(
    models=("A", "B"),
    methods=("base", "sft", "highest", "collab"),
    controls=("shuffled",),
)
# Values, and validation perplexities in brackets; on A the p chosen on validation is for
# neither method the one that is best on test.
#         p     A            B
# base          .30          .20
# sft           .40          .45
# highest .5    .42 (1.5)    .40 (1.4)
#         .7    .45 (1.6)    .36 (1.7)
# collab  .5    .46 (1.4)    .42 (1.6)
#         .7    .41 (1.3)    .44 (1.5)
# shuffled .5   .60 (1.4)    .50 (1.4)
#         .7    .61 (1.5)    .51 (1.5)
VALUES = {
    ("A", "base", None): (0.30, None),
    ("B", "base", None): (0.20, None),
    ("A", "sft", None): (0.40, 1.5),
    ("B", "sft", None): (0.45, 1.5),
    ("A", "highest", 0.5): (0.42, 1.5),
    ("A", "highest", 0.7): (0.45, 1.6),
    ("B", "highest", 0.5): (0.40, 1.4),
    ("B", "highest", 0.7): (0.36, 1.7),
    ("A", "collab", 0.5): (0.46, 1.4),
    ("A", "collab", 0.7): (0.41, 1.3),
    ("B", "collab", 0.5): (0.42, 1.6),
    ("B", "collab", 0.7): (0.44, 1.5),
    ("A", "shuffled", 0.5): (0.60, 1.4),
    ("A", "shuffled", 0.7): (0.61, 1.5),
    ("B", "shuffled", 0.5): (0.50, 1.4),
    ("B", "shuffled", 0.7): (0.51, 1.5),
}


def run_of(model: str, method: str, fraction: float | None, seed: int | None = 0) -> Run:
    if method == "base":
        return Run(model, "math", "base")
    return Run(model, "math", method, fraction, stage=1, seed=seed, learning_rate=1e-3)


def record(run: Run, value: float, stderr: float | None = 0.02, n: int = 400) -> Record:
    return Record.of(run, Measurement("gsm8k", "accuracy", value, stderr, n))


def training(run: Run, perplexity: float, steps: int = 189) -> TrainingRecord:
    points = [
        {"step": i, "epoch": i / 2, "loss": 0.0, "perplexity": perplexity + 3 / (1 + i)}
        for i in range(5)
    ]
    return TrainingRecord(run, points, [], 2, 4, perplexity, steps, None, 1.0, 1.0)


RECORDS = [record(run_of(*key), value) for key, (value, _) in VALUES.items()]
TRAININGS = [training(run_of(*key), ppl) for key, (_, ppl) in VALUES.items() if ppl is not None]


def rows_of(table: Table) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(csv_text(table))))


@pytest.fixture
def table() -> Table:
    return summarise(RECORDS, TRAININGS, SETTINGS)


def test_best_and_second_are_over_all_cells_of_a_model_and_controls_do_not_compete(
    table: Table,
) -> None:
    marks = {key: cell.mark for key, cell in table.cells.items() if cell.mark}
    assert marks == {
        ("A", "collab", 0.5): "best",
        ("A", "highest", 0.7): "second",
        ("B", "sft", None): "best",
        ("B", "collab", 0.7): "second",
    }


def test_values_that_print_alike_share_their_mark() -> None:
    values = {"base": 0.1, "sft": 0.4501, "lora": 0.4499, "projections-only": 0.44}
    records = [record(run_of("A", method, None), value) for method, value in values.items()]
    table = summarise(records, [], TableSettings())
    marks = {method: table.cells["A", method, None].mark for method in values}
    assert marks == {"base": "", "sft": "best", "lora": "best", "projections-only": "second"}


def test_lower_perplexity_is_better_and_is_not_a_percentage() -> None:
    records = [
        Record.of(run_of("A", m, None), Measurement("perplexity", "perplexity", v, 0.01, 9))
        for m, v in {"base": 3.0, "sft": 1.5}.items()
    ]
    table = summarise(records, [], TableSettings(benchmark="perplexity", metric="perplexity"))
    assert table.cells["A", "sft", None].mark == "best"
    assert r"\textbf{1.50}{\tiny$\,\pm$0.01}" in latex(table)


def test_the_average_takes_each_models_p_from_validation_not_from_test(table: Table) -> None:
    def averages(rule: str) -> dict[str, float]:
        return {m: round(cell.value, 4) for (r, m), cell in table.averages.items() if r == rule}

    unmasked = {"base": 0.25, "sft": 0.425}
    assert averages("validation") == unmasked | {
        "highest": 0.41,  # A at .5: .42, B at .5: .40
        "collab": 0.425,  # A at .7: .41, B at .7: .44
        "shuffled": 0.55,
    }
    assert averages("mean") == unmasked | {"highest": 0.4075, "collab": 0.4325, "shuffled": 0.555}
    assert averages("test") == unmasked | {"highest": 0.425, "collab": 0.45, "shuffled": 0.56}
    chosen = {key for key, cell in table.cells.items() if cell.chosen}
    assert chosen == {
        *{("A", "highest", 0.5), ("B", "highest", 0.5), ("A", "collab", 0.7)},
        *{("B", "collab", 0.7), ("A", "shuffled", 0.5), ("B", "shuffled", 0.5)},
    }
    marks = {m: c.mark for (r, m), c in table.averages.items() if r == "validation" and c.mark}
    assert marks == {"sft": "best", "collab": "best", "highest": "second"}


def test_the_chosen_p_is_that_of_the_mean_perplexity_over_seeds() -> None:
    perplexities = {0.5: (1.0, 2.0, 1.5), 0.7: (1.4, 1.4, 1.4)}
    runs = [run_of("A", "random", p, s) for p in perplexities for s in range(3)]
    table = summarise(
        [record(run, 0.5) for run in runs],
        [training(run, perplexities[run.fraction][run.seed]) for run in runs],
        TableSettings(),
    )
    assert table.cells["A", "random", 0.5].validation_perplexity == pytest.approx(1.5)
    assert [cell.chosen for cell in table.cells.values()] == [False, True]


def test_the_chosen_p_may_have_a_criterion_of_nothing() -> None:
    cells = {p: Cell(0.5, None, "items", None, 1, criterion=of) for p, of in ((0.5, 0.0), (0.7, 1))}
    assert _chosen_fraction(cells) == 0.5


@pytest.mark.parametrize(
    ("values", "kind", "uncertainty"),
    [
        ((0.4,), "items", 0.01),
        ((0.4, 0.5), "pooled items", math.sqrt((0.01**2 + 0.03**2) / 2)),
        ((0.4, 0.5, 0.6), "seeds", 0.1 / math.sqrt(3)),
    ],
)
def test_the_uncertainty_is_over_items_until_there_are_three_seeds(
    values: tuple[float, ...], kind: str, uncertainty: float
) -> None:
    errors = (0.01, 0.03, 0.05)
    records = [
        record(run_of("A", "sft", None, seed), value, errors[seed])
        for seed, value in enumerate(values)
    ]
    cell = summarise(records, [], TableSettings()).cells["A", "sft", None]
    assert cell.value == pytest.approx(sum(values) / len(values))
    assert (cell.kind, cell.n_seeds) == (kind, len(values))
    assert cell.uncertainty == pytest.approx(uncertainty)


def test_an_averages_uncertainty_bounds_it_at_any_correlation(table: Table) -> None:
    cell = table.averages["validation", "sft"]
    assert (cell.kind, cell.uncertainty) == ("bound", pytest.approx(0.02))


def test_methods_without_a_mask_span_their_block(table: Table) -> None:
    lines = latex(table).splitlines()
    first = next(i for i, line in enumerate(lines) if r"\multirow{2}{*}{A}" in line)
    top, bottom = (lines[first + i].removesuffix(r" \\").split(" & ") for i in (0, 1))
    assert top[:4] == [
        r"\multirow{2}{*}{A}",
        "0.5",
        r"\multirow{2}{*}{30.0{\tiny$\,\pm$2.0}}",
        r"\multirow{2}{*}{40.0{\tiny$\,\pm$2.0}}",
    ]
    assert [cell.strip() for cell in bottom[:4]] == ["", "0.7", "", ""]
    assert r"\begin{tabular}{llcccc|c}" in lines


def test_cells_that_were_not_measured_are_dashes_and_counted() -> None:
    gone = {("A", "highest", 0.7), ("B", "sft", None)}
    records = [record(run_of(*key), value) for key, (value, _) in VALUES.items() if key not in gone]
    table = summarise(records, TRAININGS, SETTINGS)
    assert missing_cells(table) == 2
    note = notes_of(table)[-1]
    assert note.startswith("–: not measured (2 cells without a record; 2 averages without")
    average = next(line for line in latex(table).splitlines() if line.startswith("Average"))
    assert [cell == "--" for cell in average.removesuffix(r" \\").split(" & ")[2:]] == [
        *(False, True, True, False),
        False,
    ]


def test_a_missing_validation_leaves_the_average_out_and_says_so() -> None:
    trainings = [t for t in TRAININGS if (t.run.model, t.run.fraction) != ("A", 0.5)]
    table = summarise(RECORDS, trainings, SETTINGS)
    missing = {m for m in table.columns if ("validation", m) not in table.averages}
    assert missing == {"highest", "collab", "shuffled"}
    assert "(0 cells without a record; 3 averages without" in notes_of(table)[-1]


def test_notes_state_seeds_items_other_averages_and_steps(table: Table) -> None:
    notes = " ".join(notes_of(table))
    assert "One run ± standard error over 400 items." in notes
    assert "by mean over p instead: Highest 40.8 ± 2.0, CollabMask 43.2 ± 2.0" in notes
    assert "best p on test instead, which flatters masked methods: Highest 42.5 ± 2.0" in notes
    assert "Optimizer steps of every run: 189." in notes
    assert "without a record" not in notes
    run = run_of("A", "gmt", 0.5)
    trainings = [training(run, 1.5, steps=48), training(run_of("A", "sft", None), 1.5)]
    few = summarise([record(t.run, 0.5) for t in trainings], trainings, TableSettings())
    assert "Optimizer steps a run: SFT 189; GMT 48." in notes_of(few)


def test_many_methods_of_one_kind_are_the_others() -> None:
    methods = ("sft", "lora", "random", "highest", "collab")
    records = [
        record(run_of("A", m, 0.5 if m in FRACTION_METHODS else None, seed), 0.4 + seed / 100)
        for m in methods
        for seed in range(3)
    ]
    base = record(run_of("A", "base", None), 0.2)
    few = notes_of(summarise([base, *records[:-3]], [], TableSettings()))
    assert few[:2] == [
        "Base: one run ± standard error over 400 items.",
        "SFT, LoRA, Random, Highest: mean ± standard error over 3 seeds, 400 items each.",
    ]
    many = notes_of(summarise([base, *records], [], TableSettings()))
    assert many[1] == "All others: mean ± standard error over 3 seeds, 400 items each."


def test_methods_as_rows_hold_the_cells_of_the_columns_and_controls_behind_a_rule(
    table: Table,
) -> None:
    turned = summarise(RECORDS, TRAININGS, replace(SETTINGS, layout="rows"))
    lines = latex(turned).splitlines()
    rows = {
        tuple(line.split(" & ")[:2]): line.removesuffix(r" \\").split(" & ")[2:]
        for line in lines
        if line.count(" & ") == 4
    }
    assert rows.pop(("Method", "$p$")) == ["A", "B", "Average"]
    assert [key for key in rows] == [
        ("Base", "--"),
        ("SFT", "--"),
        *((name, p) for name in ("Highest", "CollabMask", "Shuffled") for p in ("0.5", "0.7")),
    ]
    for key, cell in table.cells.items():
        model, method, fraction = key
        share = "--" if fraction is None else f"{fraction:g}"
        found = rows[label_of(method), share]["AB".index(model)]
        assert f"{100 * cell.value:.1f}" in found
        assert (r"\textbf" in found) == (cell.mark == "best")
    rules = [number for number, line in enumerate(lines) if line == r"\midrule"]
    assert len(rules) == 2
    assert lines[rules[1] + 1].startswith("Shuffled & 0.5")


def test_where_there_is_one_p_nothing_was_chosen() -> None:
    one = [r for r in RECORDS if r.fraction != 0.7]
    runs = [t for t in TRAININGS if t.run.fraction != 0.7]
    assert "†" not in table_text(rows_of(summarise(one, runs, SETTINGS)))
    assert "†" in table_text(rows_of(summarise(RECORDS, TRAININGS, SETTINGS)))


def test_the_caption_says_what_was_measured() -> None:
    named = summarise(RECORDS, [], TableSettings(title="Word problems."))
    assert caption_of(named) == "Word problems. Accuracy on gsm8k, in %, task math."
    assert caption_of(summarise(RECORDS, [], TableSettings())).startswith("Accuracy on gsm8k")


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (record(run_of("A", "sft", None), 0.1), "A, sft: expected one run a seed"),
        (record(Run("A", "code", "sft", stage=1, seed=1), 0.1), "A, sft: expected one task"),
        (record(Run("A", "math", "sft", stage=2, seed=1), 0.1), "A, sft: expected one stage"),
        (record(run_of("A", "sft", None, 1), 0.1, n=7), "A, sft: expected one n .*, found 400, 7"),
        (record(Run("B", "code", "lora", stage=1, seed=0), 0.1), "one task, found math, code"),
    ],
)
def test_a_table_never_mixes_what_does_not_compare(extra: Record, message: str) -> None:
    with pytest.raises(InputError, match=message):
        summarise([*RECORDS, extra], TRAININGS, TableSettings())


def test_subsets_and_other_metrics_stay_out_of_the_table() -> None:
    run = run_of("A", "sft", None)
    others = [
        Record.of(run, Measurement("gsm8k", "accuracy", 0.9, None, 1, "steps=1")),
        Record.of(run, Measurement("gsm8k", "format_ok", 0.9, None, 1)),
        Record.of(run, Measurement("cloze", "accuracy", 0.9, None, 1)),
    ]
    assert csv_text(summarise([*others, *RECORDS], TRAININGS, SETTINGS)) == csv_text(
        summarise(RECORDS, TRAININGS, SETTINGS)
    )
    with pytest.raises(InputError, match="expected records of gsm8k accuracy"):
        summarise(others, [], SETTINGS)


def test_the_csv_has_every_cell_with_its_cost(table: Table) -> None:
    rows = rows_of(table)
    keys = [(row["model"], row["method"], row["fraction"]) for row in rows]
    cell = rows[keys.index(("A", "collab", "0.7"))]
    assert tuple(cell) == FIELDS
    wanted = {"value": "0.41", "uncertainty": "0.02", "fraction_rule": "chosen", "n_items": "400"}
    wanted |= {"validation_perplexity": "1.3", "learning_rate": "0.001", "optimizer_steps": "189"}
    assert wanted.items() <= cell.items()
    averages = [row for row in rows if (row["model"], row["method"]) == ("Average", "collab")]
    assert {row["fraction_rule"] for row in averages} == set(RULES.values())


def test_text_is_aligned_and_starred(table: Table) -> None:
    text = table_text(rows_of(table))
    assert max(map(len, text.splitlines())) <= 100
    assert re.search(
        r"^A +0\.5 +30\.0±2\.0 +40\.0±2\.0 +42\.0±2\.0 † +46\.0±2\.0\* +\| ", text, re.M
    )
    assert re.search(r"^ +0\.7 +45\.0±2\.0 +41\.0±2\.0 † +\| +61\.0±2\.0$", text, re.M)
    assert text.count("±2.0*") == 4  # A, B and two of the average


def test_columns_that_do_not_fit_go_below() -> None:
    methods = [f"method-{i}" for i in range(14)]
    records = [record(run_of("A", method, None), 0.5) for method in methods]
    text = table_text(rows_of(summarise(records, [], TableSettings())))
    assert max(map(len, text.splitlines())) <= 100
    assert all(text.count(f"{method} ") + text.count(f"{method}\n") == 1 for method in methods)


def test_published_numbers_stand_apart_with_their_source(repository: Path) -> None:
    rows = read_csv(repository / "workflow" / "data" / "published.csv", PUBLISHED_FIELDS)
    text = published_text(rows)
    assert text.startswith("Published numbers (not measured here):")
    assert all(row["source"] in text and row["value"] and row["note"] for row in rows)
    assert max(map(len, text.splitlines())) <= 100


def test_what_is_special_to_latex_is_escaped() -> None:
    assert escaped(r"a_b & 5% \x") == r"a\_b \& 5\% \textbackslash{}x"


@needs_pdflatex
def test_the_table_compiles(tmp_path: Path, table: Table) -> None:
    article_log(tmp_path, {"table": latex(table)})


def test_curves_are_means_over_seeds_with_their_range() -> None:
    runs = [run_of("A", "sft", None, seed) for seed in (0, 1)]
    trainings = [training(run, 1.0 + run.seed) for run in runs]
    (panel,) = panels_of(trainings, FigureSettings())
    (curve,) = panel.curves
    assert curve.epochs == (0, 0.5, 1, 1.5, 2)
    assert (curve.low[0], curve.mean[0], curve.high[0]) == (4.0, 4.5, 5.0)
    assert (curve.n_seeds, curve.best) == (2, (4,))


def test_panels_and_curves_come_in_the_order_that_was_asked_for() -> None:
    settings = FigureSettings(models=("B", "A"), methods=("collab", "sft"))
    panels = panels_of(TRAININGS, settings)
    assert [panel.model for panel in panels] == ["B", "A"]
    assert [(c.method, c.fraction) for c in panels[0].curves] == [
        *(("collab", 0.5), ("collab", 0.7), ("sft", None)),
    ]
    with pytest.raises(InputError, match="C: expected training records"):
        panels_of(TRAININGS, FigureSettings(models=("C",)))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    write_records(tmp_path / "records.jsonl", RECORDS)
    for number, item in enumerate(TRAININGS):
        (tmp_path / f"run{number:02}").mkdir()
        write_training(tmp_path / f"run{number:02}", item)
    return tmp_path


def test_records_become_a_table_that_show_prints(
    files: Path, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [str(path) for path in sorted(files.glob("run*"))]
    outputs = ["--output", str(files / "t.tex"), "--csv", str(files / "t.csv")]
    words = ["table", "--records", str(files / "records.jsonl"), "--training", *runs, *outputs]
    assert main([*words, "--controls", "shuffled"]) == 0
    assert "t.tex: 16 cells, 0 missing" in capsys.readouterr().err
    published = str(repository / "workflow" / "data" / "published.csv")
    assert main(["show", str(files / "t.csv"), "--published", published]) == 0
    shown = capsys.readouterr().out
    assert "CollabMask" in shown and "Published numbers" in shown
    assert main(["show", published]) == 2
    assert "is missing" in capsys.readouterr().err


def test_the_figure_is_the_same_file_each_time_it_is_drawn(files: Path) -> None:
    runs = [str(path) for path in sorted(files.glob("run*"))]
    drawn = []
    for name in ("one", "two"):
        assert main(["figure", "--inputs", *runs, "--output", str(files / f"{name}.pdf")]) == 0
        drawn.append([(files / f"{name}.{kind}").read_bytes() for kind in ("pdf", "png")])
    assert drawn[0] == drawn[1]
    assert main(["figure", "--inputs", *runs, "--output", str(files / "x.svg")]) == 2
