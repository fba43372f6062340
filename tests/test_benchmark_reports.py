"""Tables and bars of benchmarks after the last stage, from raw scores."""

import dataclasses
import itertools
import statistics
from pathlib import Path

import pytest
from matplotlib.patches import Rectangle
from score_rows import joined, stage_of, write_stage

from fnsft.artifacts.records import Record, write_records
from fnsft.cli.main import main
from fnsft.config.stages import FigureSettings, TableSettings
from fnsft.errors import InputError
from fnsft.reporting.figures import drawing_of
from fnsft.reporting.figures.bars import bar_look
from fnsft.reporting.grid import Column, Grid
from fnsft.reporting.labels import benchmark_label, label_of, style_of
from fnsft.reporting.latex import escaped, grid_latex
from fnsft.reporting.run_items import item_files
from fnsft.reporting.score_table import score_grid
from fnsft.reporting.transfer_table import transfer_grid

METHODS = ("sft", "sft-half", "replay")
SETTINGS = TableSettings(kind="benchmarks", methods=METHODS)
BAR_METRICS = [("humaneval", "pass_at_1"), ("humaneval", "pass_at_1_plus"), ("gsm8k", "accuracy")]


def raw(seeds: tuple[int, ...] = (0, 1, 2), model: str = "tiny") -> list[Record]:
    """Scores of the base and of the last stage, as ``fnsft score`` writes them."""
    runs = [("base", 0, 0), *itertools.product(METHODS, seeds, [2])]
    return [record for run in runs for record in stage_of(*run, model)[0]]


def numbers_of(grid: Grid) -> dict[tuple[str, Column], tuple[float, float | None]]:
    return {
        (row.name, column): (cell.value, cell.uncertainty)
        for row in grid.blocks["tiny"]
        for column, cell in row.cells.items()
        if cell is not None
    }


def test_benchmarks_stand_in_their_order_beside_the_base_and_their_differences(
    tmp_path: Path,
) -> None:
    files = [write_stage(tmp_path, m, seed)[1] for m in METHODS for seed in range(3)]
    settings = dataclasses.replace(
        SETTINGS, benchmarks=("humaneval", "gsm8k"), reference="sft-half"
    )
    grid = score_grid(raw(), item_files(files), settings)
    half = "− SFT, half the rate"
    assert [(c.group, c.name) for c in grid.columns] == [
        *(("HumanEval", "after code"), ("HumanEval", half)),
        *(("HumanEval+", "after code"), ("HumanEval+", half)),
        *(("GSM8K", "after code"), ("GSM8K", half)),
    ]
    assert [row.name for row in grid.blocks["tiny"]] == ["Base", *map(label_of, METHODS)]
    numbers = numbers_of(grid)
    for method, (benchmark, metric) in itertools.product(METHODS, BAR_METRICS):
        column = Column(benchmark_label(benchmark, metric), "after code", metric)
        mine = [
            record.value
            for record in raw()
            if (record.method, record.benchmark, record.metric) == (method, benchmark, metric)
        ]
        assert numbers[label_of(method), column] == (
            pytest.approx(statistics.fmean(mine)),
            pytest.approx(statistics.stdev(mine)),
        )
        difference = Column(column.group, half, "difference")
        if method != "sft-half":
            reference, _ = numbers["SFT, half the rate", column]
            value, _ = numbers[label_of(method), difference]
            assert value == pytest.approx(statistics.fmean(mine) - reference)


def test_joined_records_and_raw_ones_fill_the_same_table() -> None:
    grid = score_grid(raw(), [], SETTINGS)
    assert numbers_of(score_grid(joined(METHODS), [], SETTINGS)) == numbers_of(grid)
    first = [r for seed in range(3) for r in stage_of("sft", seed, 1)[0]]
    assert numbers_of(score_grid([*first, *raw()], [], SETTINGS)) == numbers_of(grid)
    unmasked = [dataclasses.replace(r, forward_mask="off", value=0.9) for r in raw()]
    of_parts = [dataclasses.replace(r, subset="steps=2", value=0.9) for r in raw()]
    every = [*of_parts, *raw(), *unmasked]
    assert numbers_of(score_grid(every, [], SETTINGS)) == numbers_of(grid)


def test_scores_of_one_run_have_the_standard_error_over_items() -> None:
    numbers = numbers_of(score_grid(raw((0,)), [], SETTINGS))
    for record in raw((0,)):
        if record.metric in ("accuracy", "perplexity"):
            column = Column(benchmark_label(record.benchmark), "after code", record.metric)
            assert numbers[label_of(record.method), column] == (record.value, record.stderr)


def test_protocols_that_differ_are_all_told() -> None:
    records = [
        dataclasses.replace(r, protocol="gsm8k shots=5") if r.stage == 0 else r for r in raw()
    ]
    settings = dataclasses.replace(SETTINGS, benchmarks=("gsm8k",))
    told = score_grid(records, [], settings).notes[-1]
    assert told == (
        "Protocols (stops and extractors are in the records): GSM8K: gsm8k shots=0 "
        "stop=eos|Question:; GSM8K of tiny, Base: gsm8k shots=5."
    )
    same = score_grid(raw(), [], settings).notes[-1]
    assert same.endswith("GSM8K: gsm8k shots=0."), "one protocol is told without its stops"
    assert escaped("eos|a<b>c − ‡") == (
        r"eos\textbar{}a\textless{}b\textgreater{}c $-$ $^{\ddagger}$"
    )


def test_benchmarks_are_called_as_the_settings_do_in_every_table_and_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_records(tmp_path / "s.jsonl", joined(METHODS))
    names, labels = ("gsm8k", "humaneval", "perplexity-math"), ("Sums", "Programs", "Sums")
    called = {"benchmarks": names, "benchmark_labels": labels}
    files = item_files([write_stage(tmp_path, m, seed)[1] for m in METHODS for seed in range(3)])
    for kind in ("continual", "benchmarks"):
        settings = TableSettings(kind=kind, methods=METHODS, **called)
        grid = score_grid(joined(METHODS), files, settings)
        assert list(dict.fromkeys(c.group for c in grid.columns)) == [
            *("Sums", "Programs", "Programs+")
        ]
        assert {c.metric for c in grid.columns if c.group == "Sums"} == {
            *("accuracy", "perplexity", "difference", "ratio")
        }
        told = " ".join(grid.notes)
        assert "Sums: gsm8k shots=0" in told and "Sums: perplexity-math shots=0" in told
        assert "Base: before any stage, asked without shots." in told
    table = transfer_grid(joined(METHODS), TableSettings(kind="transfer", **called))
    assert Column("format ok", "Sums", "format_ok") in table.columns
    figure = FigureSettings(kind="bars", **called)
    (ax,) = drawing_of([tmp_path / "s.jsonl"], figure).figure.axes
    assert [t.get_text() for t in ax.get_xticklabels()] == ["Sums", "Programs", "Programs+"]
    command = ["figure", "--kind", "bars", "--inputs", str(tmp_path / "s.jsonl")]
    command += ["--output", str(tmp_path / "f.pdf")]
    for more, message in (
        (["gsm8k", "--benchmark-labels", "A", "B"], "benchmark_labels: expected one for each of 1"),
        (["gsm8k", "cloze", "--benchmark-labels", "A", "A"], "gsm8k and cloze, which have accur"),
    ):
        assert main([*command, "--benchmarks", *more]) == 2
        error = capsys.readouterr().err
        assert message in error and len(error.splitlines()) == 1, error


def test_a_base_that_was_asked_with_shots_is_not_said_to_have_none() -> None:
    rows = [dataclasses.replace(r, protocol="mmlu shots=5") if not r.stage else r for r in raw()]
    assert score_grid(rows, [], SETTINGS).notes[0] == "Base: before any stage."


def test_signed_numbers_have_their_sign_and_zero_has_none_of_minus() -> None:
    printed = style_of("difference").printed
    assert [printed(v) for v in (0.0512, -0.0512, -0.0004, 0.0)] == ["+5.1", "-5.1", "+0.0", "+0.0"]
    assert style_of("backward_transfer").printed(0.03, beside=-0.2) == "3.0"
    assert style_of("accuracy").printed(0.35 - 0.3325) == "1.8", "half-way, as its CSV prints"
    assert style_of("kl_forward").printed(0.0123) == "0.012"


def test_bars_are_means_over_seeds_with_the_base_as_a_line(tmp_path: Path) -> None:
    write_records(tmp_path / "s.jsonl", raw())
    drawing = drawing_of(
        [tmp_path / "s.jsonl"],
        FigureSettings(kind="bars", methods=METHODS, benchmarks=("humaneval", "gsm8k")),
    )
    (ax,) = drawing.figure.axes
    assert [tick.get_text() for tick in ax.get_xticklabels()] == [
        benchmark_label(*metric) for metric in BAR_METRICS
    ]
    found = [patch for patch in ax.patches if isinstance(patch, Rectangle)]
    assert len(found) == 9
    expected = [
        100
        * statistics.fmean(
            r.value for r in raw() if (r.method, r.benchmark, r.metric) == (method, *metric)
        )
        for method, metric in itertools.product(METHODS, BAR_METRICS)
    ]
    assert [bar.get_height() for bar in found] == pytest.approx(expected)
    assert len({(bar.get_facecolor(), bar.get_hatch()) for bar in found}) == len(METHODS)
    assert len({tuple(bar_look(place).values()) for place in range(81)}) == 81
    places = sorted((bar.get_x(), bar.get_x() + bar.get_width()) for bar in found)
    assert all(end < start for (_, end), (start, _) in itertools.pairwise(places))
    lines = [line for line in ax.lines if line.get_linestyle() == "--"]
    base = {(r.benchmark, r.metric): r.value for r in raw() if r.stage == 0}
    across = {round(sum(line.get_xdata()) / 2): line.get_ydata()[0] for line in lines}
    assert across == pytest.approx({i: 100 * base[m] for i, m in enumerate(BAR_METRICS)})
    legend = [text.get_text() for text in drawing.figure.legends[0].get_texts()]
    assert legend == [*map(label_of, METHODS), "base model"]
    assert "standard deviation over seeds" in drawing.figure._supxlabel.get_text()  # type: ignore[attr-defined]


def test_every_model_has_a_panel_of_bars_in_the_order_of_the_settings(tmp_path: Path) -> None:
    write_records(tmp_path / "s.jsonl", [*raw(model="A"), *raw(model="B")])
    settings = FigureSettings(kind="bars", models=("B", "A"), model_labels=("Big", "Small"))
    drawing = drawing_of([tmp_path / "s.jsonl"], settings)
    assert [ax.get_title(loc="left") for ax in drawing.figure.axes] == ["Big", "Small"]
    assert drawing.summary == "2 models, 4 benchmarks, 24 bars"


def test_bars_need_a_share_and_say_so_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_records(tmp_path / "p.jsonl", [r for r in raw() if r.metric == "perplexity"])
    command = ["figure", "--kind", "bars", "--inputs", str(tmp_path / "p.jsonl")]
    assert main([*command, "--output", str(tmp_path / "f.pdf")]) == 2
    error = capsys.readouterr().err
    assert "bars: expected benchmarks with an accuracy or pass@1, found none" in error
    assert len(error.splitlines()) == 1 and not (tmp_path / "f.pdf").exists()


def test_base_models_alone_make_a_table_of_benchmarks_and_of_no_other_kind() -> None:
    records = [r for model in ("tiny", "small") for r in stage_of("base", 0, 0, model)[0]]
    settings = TableSettings(kind="benchmarks")
    grid = score_grid(records, [], settings)
    for model, rows in grid.blocks.items():
        (row,) = rows
        found = {(c.group, c.name, c.metric): cell for c, cell in row.cells.items()}
        assert row.name == "Base"
        for r in stage_of("base", 0, 0, model)[0]:
            if r.metric != "format_ok":
                cell = found.pop((benchmark_label(r.benchmark, r.metric), "", r.metric))
                assert cell is not None
                assert (cell.value, cell.uncertainty, cell.mark) == (r.value, r.stderr, "")
        assert not found
    assert list(grid.blocks) == ["tiny", "small"]
    assert grid.caption == "Scores of base models."
    assert [note.split()[0] for note in grid.notes] == ["Protocols"], "there are no marks"
    heads = grid_latex(grid).split(r"\toprule")[1].split(r"\midrule")[0].splitlines()
    assert len(list(filter(None, heads))) == 2, "a second line of names would be empty"
    assert score_grid(records, [], dataclasses.replace(settings, methods=("base",))) == grid
    with pytest.raises(InputError, match="expected records of fine-tuned models"):
        score_grid(records, [], TableSettings(kind="continual"))
    with pytest.raises(InputError, match="expected records of fine-tuned models"):
        score_grid(records, [], dataclasses.replace(settings, methods=("sft",)))
    with pytest.raises(InputError, match="mbpp: expected scores, found none"):
        score_grid(records, [], dataclasses.replace(settings, benchmarks=("mbpp",)))
