"""Tables and figures of what is learned and kept: every number against its records."""

import dataclasses
import itertools
import math
import shutil
import statistics
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from score_rows import EFFECTS, MEASURES, drift_of, joined, stage_of, write_stage
from tex import article_log

from fnsft.artifacts.items import read_items, write_items
from fnsft.artifacts.records import Record, write_records
from fnsft.cli.main import main
from fnsft.config.stages import FigureSettings, TableSettings
from fnsft.errors import InputError
from fnsft.reporting.cells import Cell
from fnsft.reporting.csv_table import grid_csv, grid_of
from fnsft.reporting.figures import drawing_of
from fnsft.reporting.figures.rates import rate_text
from fnsft.reporting.grid import Column, Grid, measured_in_words
from fnsft.reporting.labels import label_of, run_label
from fnsft.reporting.latex import grid_latex
from fnsft.reporting.paired import Pair, differences, holm
from fnsft.reporting.run_items import difference_cells, item_files
from fnsft.reporting.score_table import score_grid
from fnsft.reporting.scores import scores_of
from fnsft.reporting.text_table import grid_text
from fnsft.reporting.trade_off import (
    Outcome,
    Outcomes,
    kept_at_same_learning,
    outcomes_of,
    pareto_front,
)
from fnsft.reporting.transfer import transfer
from fnsft.reporting.transfer_table import transfer_grid

METHODS = ("sft", "replay", "collab")
CONTROLS = ("sft-half", "sft-quarter", "shuffled")
CURVE = ("sft", "sft-half", "sft-quarter")
CONTINUAL = TableSettings(kind="continual", methods=METHODS, controls=CONTROLS)
TRANSFER = TableSettings(kind="transfer", methods=METHODS, controls=CONTROLS)
SHARES = ("gsm8k", "humaneval", "cloze")
LEARNED = {
    method: (0.5 if method in ("collab", "shuffled") else None) for method in (*METHODS, *CONTROLS)
}


def rows_of(grid: Grid, model: str = "tiny") -> dict[str, dict[Column, Cell | None]]:
    return {row.name: row.cells for row in grid.blocks[model]}


def name_of(method: str) -> str:
    return run_label(method, LEARNED[method])


def item_paths(folder: Path, methods: tuple[str, ...] = (*METHODS, *CONTROLS)) -> list[Path]:
    return [write_stage(folder, m, seed)[1] for m in methods for seed in range(3)]


def test_a_continual_table_shows_every_benchmark_after_its_own_stage_and_after_the_last() -> None:
    records = joined()
    grid = score_grid(records, [], CONTINUAL)
    assert [(c.group, c.name) for c in grid.columns] == [
        ("GSM8K", "after math"),
        ("GSM8K", "after code"),
        ("HumanEval", "after code"),
        ("HumanEval+", "after code"),
        ("cloze", "after code"),
        ("perplexity-math", "after math"),
        ("perplexity-math", "after code"),
        ("perplexity-code", "after code"),
    ]
    rows = rows_of(grid)
    assert list(rows) == ["Base", *map(name_of, (*METHODS, *CONTROLS))]
    assert [row.section for row in grid.blocks["tiny"]] == [*[""] * 4, *["controls"] * 3]
    benchmarks = {"GSM8K": "gsm8k", "HumanEval": "humaneval", "HumanEval+": "humaneval"}
    for method, column in itertools.product(LEARNED, grid.columns):
        stage = 1 if column.name == "after math" else 2
        mine = [
            record.value
            for seed in range(3)
            for record in stage_of(method, seed, stage)[0]
            if record.benchmark == benchmarks.get(column.group, column.group)
            and record.metric == column.metric
        ]
        cell = rows[name_of(method)][column]
        assert cell is not None and cell.value == pytest.approx(statistics.fmean(mine))
        assert cell.uncertainty == pytest.approx(statistics.stdev(mine))
        assert cell.n_seeds == 3
    base = {(r.benchmark, r.metric): r.value for r in stage_of("base", 0, 0)[0]}
    for column in grid.columns:
        cell = rows["Base"].get(column)
        assert (cell is None) == (column.name == "after math")
        if cell is not None:
            found = base[benchmarks.get(column.group, column.group), column.metric]
            assert (cell.value, cell.kind, cell.mark) == (found, "items", "")
    assert grid.missing == 0


def test_tasks_are_called_by_their_labels() -> None:
    called = {"tasks": ("math", "code"), "task_labels": ("Problems", "Programs")}
    grid = score_grid(joined(), [], dataclasses.replace(CONTINUAL, **called))
    assert {c.name for c in grid.columns} == {"after Problems", "after Programs"}
    assert grid.caption.endswith("fine-tuned on Problems, then Programs.")


def test_in_continual_tables_methods_alone_compete_and_perplexity_from_below() -> None:
    grid = score_grid(joined(), [], CONTINUAL)
    for column in grid.columns:
        values = {
            row.name: row.cells[column]
            for row in grid.blocks["tiny"]
            if not row.section and row.name != "Base"
        }
        ordered = min if column.metric == "perplexity" else max
        best = ordered(cell.value for cell in values.values() if cell)
        for cell in values.values():
            assert cell is not None
            assert (cell.mark == "best") == (cell.value == pytest.approx(best, abs=5e-4)), column
        assert all(
            (cell := row.cells.get(column)) is None or not cell.mark
            for row in grid.blocks["tiny"]
            if row.section or row.name == "Base"
        )


def test_continual_differences_are_paired_by_item_and_seed_and_corrected_in_their_column(
    tmp_path: Path,
) -> None:
    files = item_files([*item_paths(tmp_path), write_stage(tmp_path, "sft", 0, 1)[1]])
    grid = score_grid(joined(), files, CONTINUAL)
    rows = rows_of(grid)
    for benchmark, metric, column in (
        ("gsm8k", "accuracy", Column("GSM8K", "− SFT", "difference")),
        ("humaneval", "pass_at_1_plus", Column("HumanEval+", "− SFT", "difference")),
        ("perplexity-math", "perplexity", Column("perplexity-math", "/ SFT", "ratio")),
    ):

        def scores(method: str, benchmark=benchmark, metric=metric) -> np.ndarray:
            """[seeds, items, value and weight], in the order of the items' names."""
            of_seeds = [
                sorted(
                    (i.item, i.value, i.weight)
                    for i in stage_of(method, seed, 2)[1]
                    if (i.benchmark, i.metric) == (benchmark, metric)
                )
                for seed in range(3)
            ]
            return np.array([[item[1:] for item in items] for items in of_seeds])

        others = [method for method in LEARNED if method != "sft"]
        pairs = [np.stack([scores(method), scores("sft")]) for method in others]
        found = differences([Pair(pair[..., 0], pair[..., 1]) for pair in pairs])
        adjusted = holm([difference.p for difference in found])
        for method, pair, difference, p in zip(others, pairs, found, adjusted, strict=True):
            cell = rows[name_of(method)][column]
            assert cell is not None
            sums = pair.sum(axis=(1, 2))
            plain = sums[0, 0] / sums[0, 1] - sums[1, 0] / sums[1, 1]
            shown = math.exp if metric == "perplexity" else float
            assert cell.value == pytest.approx(shown(plain))
            assert (cell.low, cell.high) == pytest.approx(
                (shown(difference.low), shown(difference.high))
            )
            assert (cell.mark == "differs") == (p < 0.05)
            assert (cell.kind, cell.n_seeds, cell.n_items) == ("paired", 3, pair.shape[2])
        assert column not in rows["SFT"] and column not in rows["Base"]
    marked = {cell.mark for _, cell in grid.cells if cell is not None and cell.kind == "paired"}
    assert marked == {"", "differs"}
    text = " ".join([*grid.notes, *measured_in_words(grid)])
    for words in (
        "p < .05 after Holm's correction for the 5 comparisons of a column",
        "95 % interval over items, 3 seeds",
        "GSM8K: gsm8k shots=0;",
        "10,000 resamples",
    ):
        assert words in text


def test_what_is_not_shown_is_not_corrected_for() -> None:
    reference = {f"{i}": (float(i < 50), 1.0) for i in range(100)}
    # 14 items won and 4 lost: p is about .015.
    better = reference | {f"{i}": (1.0, 1.0) for i in range(50, 64)}
    better |= {f"{i}": (0.0, 1.0) for i in range(4)}
    others = {("m", f"b{i}", None): {0: reference} for i in range(5)}
    runs = {("m", "sft", None): {0: reference}, ("m", "a", None): {0: better}} | others
    items = {("gsm8k", "accuracy"): runs}
    for shown, mark in (("a", "differs"), ("", "")):
        cells = difference_cells(
            items, ("gsm8k", "accuracy"), "sft", lambda key, shown=shown: key[1].startswith(shown)
        )
        assert cells["m", "a", None].mark == mark
        assert cells["m", "a", None].value == pytest.approx(0.1)
        assert len(cells) == (1 if shown else 6)


def test_without_items_nothing_is_tested_and_that_is_said(tmp_path: Path) -> None:
    grid = score_grid(joined(), [], CONTINUAL)
    assert "Differences from SFT were not tested: no items were given." in grid.notes
    files = item_files(item_paths(tmp_path, ("sft", "collab")))
    for given, reference, lacking in (
        (files, "replay", "SFT with replay were not tested: no items of SFT with replay after the"),
        (files[:3], "sft", "SFT were not tested: no items of other methods on the same"),
        (item_files([write_stage(tmp_path, "sft", 0, 1)[1]]), "sft", "no items of SFT after the l"),
    ):
        settings = dataclasses.replace(CONTINUAL, reference=reference)
        notes = score_grid(joined(), given, settings).notes
        assert any(lacking in words for words in notes), notes
        assert not any("no items were given" in words for words in notes)
    assert not any("95 %" in words for words in measured_in_words(grid))


def test_a_continual_method_without_items_has_dashes_in_place_of_differences(
    tmp_path: Path,
) -> None:
    files = item_files(item_paths(tmp_path, ("sft", "collab")))
    grid = score_grid(joined(), files, CONTINUAL)
    column = Column("GSM8K", "− SFT", "difference")
    found = {name: cells.get(column, "none") for name, cells in rows_of(grid).items()}
    assert found["SFT"] == found["Base"] == "none"
    assert found["SFT with replay"] is None and isinstance(found[name_of("collab")], Cell)
    assert grid.missing > 0


def test_a_grid_with_intervals_survives_csv_and_prints_them_on_every_page(tmp_path: Path) -> None:
    grid = score_grid(joined(), item_files(item_paths(tmp_path)), CONTINUAL)
    (tmp_path / "t.csv").write_text(grid_csv(grid))
    from fnsft.reporting.csv_table import GRID_FIELDS, read_csv

    back = grid_of(read_csv(tmp_path / "t.csv", GRID_FIELDS))
    assert grid_text(back) == grid_text(grid)
    for (_, cell), (_, again) in zip(grid.cells, back.cells, strict=True):
        assert (cell is None) == (again is None)
        if cell is not None and again is not None and cell.low is not None:
            assert (again.low, again.high) == pytest.approx((cell.low, cell.high), rel=1e-5)
    cell = rows_of(grid)[name_of("replay")][Column("GSM8K", "− SFT", "difference")]
    assert cell is not None and cell.low is not None and cell.high is not None
    printed = f"{100 * cell.value:+.1f} [{100 * cell.low:+.1f}, {100 * cell.high:+.1f}]‡"
    assert printed in grid_text(grid)
    lines = grid_latex(grid).splitlines()
    assert sum(line.startswith("SFT with replay &") for line in lines) == 2, "two parts"
    assert not [line for line in lines if line.startswith("\\item [")]


def test_a_transfer_table_has_the_measures_of_the_records(tmp_path: Path) -> None:
    records = joined()
    grid = transfer_grid(records, TRANSFER)
    rows = rows_of(grid)
    assert list(rows) == [name_of(method) for method in (*METHODS, *CONTROLS)]
    metrics = [column.metric for column in grid.columns]
    assert metrics[:5] == [
        *("average_accuracy", "backward_transfer", "forward_transfer", "forgetting"),
        "general_retention",
    ]
    for method, column in itertools.product(LEARNED, grid.columns[:-1]):
        mine = [
            record.value
            for record in records
            if (record.method, record.metric, record.stage) == (method, column.metric, 2)
            and record.subset is None
        ]
        cell = rows[name_of(method)][column]
        assert len(mine) == 3 and cell is not None
        assert cell.value == pytest.approx(statistics.fmean(mine))
    assert Column("format ok", "GSM8K", "format_ok") in grid.columns
    text = " ".join([*grid.notes, *measured_in_words(grid)])
    assert "Items: KL 200; format ok 80." in text
    for words in ("forgetting: earlier tasks, best after any earlier stage minus", "not tested"):
        assert words in text
    for column in grid.columns:
        if column.metric in ("kl_forward", "relative_weight_change"):
            assert not any(cell.mark for cells in rows.values() if (cell := cells[column]))


def outcomes(points: dict[str, tuple[float, float]], metric: str = "accuracy") -> Outcomes:
    runs = {("m", name, None): {0: Outcome(*point)} for name, point in points.items()}
    return Outcomes(metric, "code", "math", runs)


def test_what_is_kept_at_the_same_learning_is_held_against_straight_lines_by_hand() -> None:
    curve = {"sft": (0.8, 0.2), "sft-half": (0.6, 0.4), "sft-quarter": (0.2, 0.5)}
    others = {"a": (0.7, 0.35), "b": (0.4, 0.45), "c": (0.81, 0.9), "d": (0.1, 0.9)}
    found = kept_at_same_learning(outcomes(curve | others), tuple(curve))
    # At .7 the curve keeps .3, at .4 it keeps .45; c and d learn more and less than all of it.
    assert found == {
        ("m", "a", None): pytest.approx(0.05),
        ("m", "b", None): pytest.approx(0.0),
    }
    assert kept_at_same_learning(outcomes({"sft": (0.8, 0.2)} | others), ("sft",)) == {}
    logs = {name: (math.log(x + 1), math.log(y + 1)) for name, (x, y) in (curve | others).items()}
    ratio = kept_at_same_learning(outcomes(logs, "perplexity"), tuple(curve))["m", "a", None]
    share = (math.log(1.7) - math.log(1.6)) / (math.log(1.8) - math.log(1.6))
    line = (1 - share) * math.log(1.4) + share * math.log(1.2)
    assert ratio == pytest.approx(1.35 / math.exp(line))


def test_a_rate_that_another_beats_in_both_is_no_part_of_what_others_are_held_against() -> None:
    curve = {"sft": (0.3, 0.3), "sft-half": (0.4, 0.8), "sft-quarter": (0.2, 0.9)}
    points = curve | {"mask": (0.3, 0.6), "less": (0.1, 1.0)}
    found = kept_at_same_learning(outcomes(points), tuple(curve))
    assert found == {("m", "mask", None): pytest.approx(0.6 - 0.85)}
    logs = {name: (-x, -y) for name, (x, y) in points.items()}  # less is better
    ratios = kept_at_same_learning(outcomes(logs, "perplexity"), tuple(curve))
    assert ratios == {("m", "mask", None): pytest.approx(math.exp(0.85 - 0.6))}
    alone = curve | {"sft-quarter": (0.3, 0.7), "mask": (0.4, 0.9)}
    assert kept_at_same_learning(outcomes(alone), tuple(curve)) == {}, "half beats both"


def test_outcomes_are_the_last_tasks_scores_and_the_change_of_the_earlier_ones() -> None:
    found = outcomes_of(scores_of(joined(), CONTINUAL))
    assert (found.metric, found.sign) == ("accuracy", 1)
    assert (found.learned, found.kept) == ("code, %", "math since its own stage, points")
    for method, seed in itertools.product(EFFECTS, range(3)):
        own, values = (
            {(r.benchmark, r.metric): r.value for r in stage_of(method, seed, stage)[0]}
            for stage in (1, 2)
        )
        run = found.runs["tiny", method, LEARNED[method]][seed]
        assert run.learned == pytest.approx(values["humaneval", "pass_at_1"])
        assert run.kept == pytest.approx(values["gsm8k", "accuracy"] - own["gsm8k", "accuracy"])
    of_loss = [r for r in joined() if r.metric == "perplexity"]
    found = outcomes_of(scores_of(of_loss, CONTINUAL))
    assert (found.metric, found.sign) == ("perplexity", -1)
    assert found.kept == "math since its own stage, ratio"
    own, values = (
        {r.benchmark: r.value for r in stage_of("sft", 1, i)[0] if r.metric == "perplexity"}
        for i in (1, 2)
    )
    run = found.runs["tiny", "sft", None][1]
    assert found.shown(run.learned) == pytest.approx(values["perplexity-code"])
    change = values["perplexity-math"] / own["perplexity-math"]
    assert found.shown(run.kept) == pytest.approx(change)


def three_stages(methods: tuple[str, ...] = METHODS) -> list[Record]:
    """Records of runs over math, code and law, whose first two stages are those of sft."""

    def of_law(method: str) -> list[Record]:
        sequence = {"sequence": "math>code>law", "task": "law", "stage": 3, "method": method}
        rows = stage_of("sft", 0, 2)[0]
        law = [dataclasses.replace(r, benchmark="law", measures="law") for r in rows[:1]]
        return [dataclasses.replace(r, **sequence) for r in [*rows, *law]]

    base, one, two = (stage_of("sft", 0, stage)[0] for stage in range(3))
    stages = [
        [*found, dataclasses.replace(found[0], benchmark="law", measures="law", value=0.1)]
        for found in (base, one, two)
    ]
    runs = (transfer(stages[0], [*stages[1:], of_law(method)], []) for method in methods)
    return [record for run in runs for record in run.records]


def test_what_is_kept_of_three_tasks_is_the_mean_change_since_the_stage_of_each() -> None:
    found = outcomes_of(scores_of(three_stages(), CONTINUAL))
    assert found.kept == "math and code since their own stages, points"
    one, two = (
        {(r.benchmark, r.metric): r.value for r in stage_of("sft", 0, i)[0]} for i in (1, 2)
    )
    change = two["gsm8k", "accuracy"] - one["gsm8k", "accuracy"]  # of code there is none
    assert found.runs["tiny", "sft", None][0].kept == pytest.approx(change / 2)


def test_what_a_stage_learned_better_is_not_taken_for_retention() -> None:
    better = [
        dataclasses.replace(r, value=r.value + 0.1)
        if (r.method, r.benchmark, r.metric) == ("collab", "gsm8k", "accuracy") and r.stage
        else r
        for r in joined()
    ]
    plain, found = (outcomes_of(scores_of(rows, CONTINUAL)) for rows in (joined(), better))
    key = ("tiny", "collab", 0.5)
    for seed in range(3):
        assert found.runs[key][seed].kept == pytest.approx(plain.runs[key][seed].kept)
    alone = [r for r in joined() if r.stage == 2]
    with pytest.raises(InputError, match="scores of math after stage 1, found none; give the rec"):
        outcomes_of(scores_of(alone, CONTINUAL))


def test_stages_that_another_method_trained_are_told_where_there_are_three() -> None:
    for fill in (
        lambda rows: score_grid(rows, [], CONTINUAL),
        lambda r: transfer_grid(r, TRANSFER),
    ):
        words = "SFT with replay, CollabMask: 2 of 3 stages are those of SFT."
        assert words in fill(three_stages()).notes
        assert not any("are those of" in words for words in fill(joined()).notes)


def test_a_transfer_table_says_what_cannot_be_measured_from_the_base_model() -> None:
    def notes(benchmark: str) -> str:
        rows = [
            dataclasses.replace(r, protocol="chat")
            if (r.stage, r.benchmark) == (0, benchmark)
            else r
            for r in joined()
        ]
        return " ".join(transfer_grid(rows, TRANSFER).notes)

    for benchmark, label in (("humaneval", "HumanEval"), ("cloze", "cloze")):
        assert f"The base model was asked in another way, {label}: nothing is" in notes(benchmark)
    for benchmark in ("gsm8k", "perplexity-code", ""):
        assert "asked in another way" not in notes(benchmark), "nothing starts from this score"


def test_after_one_stage_what_is_kept_was_never_trained_on() -> None:
    records = stage_of("sft", 0, 1)[0]
    found = outcomes_of(scores_of([r for r in records if r.metric != "perplexity"], TRANSFER))
    values = {r.benchmark: r.value for r in records if r.metric in ("accuracy", "pass_at_1")}
    run = found.runs["tiny", "sft", None][0]
    assert run.learned == values["gsm8k"]
    assert run.kept == pytest.approx((values["humaneval"] + values["cloze"]) / 2)
    assert found.kept == "tasks never trained on, %"


def test_no_point_off_the_pareto_front_is_unbeaten_and_none_on_it_is_beaten() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        points = [tuple(map(float, p)) for p in rng.integers(0, 6, (9, 2))]
        front = pareto_front(points)  # type: ignore[arg-type]
        shown = [points[place] for place in front]
        assert shown == sorted(set(shown))
        for point in points:
            beaten = any(o != point and o[0] >= point[0] and o[1] >= point[1] for o in points)
            assert (point in shown) == (not beaten)


def figure_of(paths: list[Path], **settings: Any) -> Any:
    return drawing_of(paths, FigureSettings(**settings))


@pytest.mark.parametrize("metric", ["shares", "perplexity"])
def test_the_trade_off_shows_every_method_at_its_mean_and_better_is_up_and_right(
    tmp_path: Path, metric: str
) -> None:
    records = [
        record for record in joined() if (record.metric == "perplexity") == (metric == "perplexity")
    ]
    write_records(tmp_path / "t.jsonl", records)
    drawing = figure_of(
        [tmp_path / "t.jsonl"], kind="trade-off", methods=METHODS, controls=CONTROLS
    )
    (ax,) = drawing.figure.axes
    found = outcomes_of(scores_of(records, CONTINUAL))
    markers = [line for line in ax.lines if line.get_marker() not in ("None", None)]
    assert len(markers) == len(LEARNED)
    for line, method in zip(markers, LEARNED, strict=True):
        runs = found.runs["tiny", method, LEARNED[method]].values()
        x, y = (
            found.shown(statistics.fmean(values))
            for values in ([r.learned for r in runs], [r.kept for r in runs])
        )
        assert (line.get_xdata()[0], line.get_ydata()[0]) == pytest.approx((x, y))
        assert (line.get_markerfacecolor() == "white") == (method in CONTROLS)
    backwards = metric == "perplexity"
    unit, change = ("perplexity", "ratio") if backwards else ("%", "points")
    assert ax.get_xlabel() == f"learned: code, {unit}"
    assert " ".join(ax.get_ylabel().split()) == f"kept: math since its own stage, {change}"
    kept = f"Kept: a task's score after the last stage {'over' if backwards else 'minus'} that"
    assert kept in " ".join(drawing.figure.get_supxlabel().split())
    assert ax.xaxis_inverted() == ax.yaxis_inverted() == backwards
    legend = [text.get_text() for text in drawing.figure.legends[0].get_texts()]
    assert legend == [*map(label_of, LEARNED), "Pareto front", "SFT at several rates"]
    assert "Masked methods: p = 0.5." in " ".join(drawing.figure.get_supxlabel().split())
    front, curve = ax.lines[-2:]
    assert len(curve.get_xdata()) == 3
    # Down from each point first, then on: the corner between two points is reached by the left.
    assert front.get_drawstyle() == "steps-pre"
    ends, (x, y) = front.get_data(), (values[1:-1] for values in front.get_data())
    assert (ends[0][0], ends[1][-1]) == (ax.get_xlim()[0], ax.get_ylim()[0]), "to the worst edges"
    assert (ends[1][0], ends[0][-1]) == (y[0], x[-1])
    assert all(
        (b - a) * (d - c) < 0 for (a, b), (c, d) in zip(pairwise(x), pairwise(y), strict=True)
    )
    places = {(line.get_xdata()[0], line.get_ydata()[0]) for line in markers}
    assert set(zip(x, y, strict=True)) <= places
    up = -1 if backwards else 1
    assert not any(
        up * px > up * fx and up * py > up * fy
        for px, py in places
        for fx, fy in zip(x, y, strict=True)
    )


def test_the_dashed_line_leaves_out_a_rate_that_another_beats_in_both(tmp_path: Path) -> None:
    records = [
        dataclasses.replace(r, value=0.01) if (r.method, r.stage) == ("sft", 2) else r
        for r in joined(CURVE)
    ]
    write_records(tmp_path / "t.jsonl", records)
    (ax,) = figure_of([tmp_path / "t.jsonl"], kind="trade-off").figure.axes
    points = [(line.get_xdata()[0], line.get_ydata()[0]) for line in ax.lines[:3]]
    dashed = ax.lines[-1]
    assert list(zip(*dashed.get_data(), strict=True)) == sorted(points[1:])


def test_a_method_is_a_curve_over_the_rates_of_the_last_stage_whose_ends_are_named(
    tmp_path: Path,
) -> None:
    paths, rates = [], (4e-4, 1e-4, 2e-4)
    for number, rate in enumerate(rates):
        for method in ("sft", "collab"):
            records = [
                dataclasses.replace(r, value=r.value * (1 - 0.1 * number * (r.stage > 0)))
                for r in joined([method])
                if r.metric in ("accuracy", "pass_at_1")
            ]
            paths.append((tmp_path / f"{method}-{number}.jsonl", rate))
            write_records(paths[-1][0], records)
    drawing = figure_of(
        [path for path, _ in paths],
        kind="rates",
        values=tuple(rate for _, rate in paths),
        controls=("collab",),
    )
    (ax,) = drawing.figure.axes
    lines = [line for line in ax.lines if len(line.get_xdata()) == 3]
    marks = [line for line in ax.lines if line.get_marker() not in ("None", "none", None)]
    sizes = [mark.get_markersize() for mark in marks]
    assert [mark.get_markerfacecolor() == "white" for mark in marks] == [False] * 3 + [True] * 3
    assert sizes[:3] == sorted(set(sizes)) == sizes[3:], "a larger mark for a higher rate"
    for line, method in zip(lines, ("sft", "collab"), strict=True):
        learned = statistics.fmean(
            r.value
            for seed in range(3)
            for r in stage_of(method, seed, 2)[0]
            if (r.benchmark, r.metric) == ("humaneval", "pass_at_1")
        )
        expected = [100 * learned * factor for factor in (0.9, 0.8, 1.0)]  # by rate
        assert list(line.get_xdata()) == pytest.approx(expected)
    assert [mark.get_xdata()[0] for mark in marks[:3]] == list(lines[0].get_xdata())
    legend = [text.get_text() for text in drawing.figure.legends[0].get_texts()]
    assert legend == ["SFT, 1e-4 to 4e-4", "CollabMask, 1e-4 to 4e-4"]
    assert "Kept: a task's score" in " ".join(drawing.figure.get_supxlabel().split())
    assert [rate_text(rate) for rate in (1e-3, 1.5e-4, 2e-5)] == ["1e-3", "1.5e-4", "2e-5"]


def test_a_continual_table_goes_through_the_command_line_and_latex(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_records(tmp_path / "t.jsonl", joined())
    items = list(map(str, item_paths(tmp_path)))
    words = ["--methods", *METHODS, "--controls", *CONTROLS, "--models", "tiny"]
    words += ["--model-labels", "Tiny_0.9M"]
    tables = []
    for kind, more in (("continual", ["--items", *items]), ("transfer", [])):
        tables.append(tmp_path / f"{kind}.tex")
        files = ["--records", str(tmp_path / "t.jsonl"), "--output", str(tables[-1])]
        csv = str(tmp_path / f"{kind}.csv")
        assert main(["table", "--kind", kind, *files, "--csv", csv, *more, *words]) == 0
        capsys.readouterr()
        assert main(["show", csv]) == 0
        shown = capsys.readouterr().out
        assert "Tiny_0.9M" in shown and max(map(len, shown.splitlines())) <= 100
        if kind == "continual":
            assert "‡" in shown and r"$^{\ddagger}$" in tables[-1].read_text()
    if shutil.which("pdflatex"):
        article_log(tmp_path, {table.stem: table.read_text() for table in tables})


def changed(records: list[Record], method: str, **fields: Any) -> list[Record]:
    return [dataclasses.replace(r, **fields) if r.method == method else r for r in records]


def test_continual_records_and_items_that_do_not_compare_are_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = joined(("sft", "collab"), (0, 1))
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.jsonl"
    write_records(good, records)
    _, items = write_stage(tmp_path, "sft", 0)
    _, others = write_stage(tmp_path, "collab", 0)
    renamed = {"gsm8k/7": "gsm8k/other"}
    write_items(
        others,
        [dataclasses.replace(i, item=renamed.get(i.item, i.item)) for i in read_items(others)],
    )
    short = tmp_path / "short.items.jsonl"
    short.with_name("short.jsonl").write_text((tmp_path / "sft-0-2.jsonl").read_text())
    write_items(short, [i for i in read_items(items) if i.item != "gsm8k/7"])
    (tmp_path / "alone.items.jsonl").write_text(items.read_text())
    several = [others, tmp_path / "seven.items.jsonl"]
    write_items(several[1], read_items(others))
    sevens = [dataclasses.replace(r, fraction=0.7) for r in stage_of("collab", 0, 2)[0]]
    write_records(tmp_path / "seven.jsonl", sevens)
    twice = tmp_path / "again.jsonl"
    twice.write_text((tmp_path / "sft-0-2.jsonl").read_text())
    twice.with_name("again.items.jsonl").write_text(items.read_text())
    base = [dataclasses.replace(r, value=0.9) if not r.stage else r for r in records]
    of_base = changed(base, "sft", value=0.1)
    for found, more, message in (
        (changed(records, "sft", sequence="law>code"), [], "expected the records of one sequence"),
        (of_base, [], "tiny: expected one base model, found"),
        ([], [], "expected records of fine-tuned models"),
        (records, ["--methods", "lora"], "expected records of fine-tuned models"),
        (records, ["--benchmarks", "mbpp"], "mbpp: expected scores after code, found none"),
        ([*records, *records], [], "expected one run a seed, found seeds 0, 1, 0, 1"),
        (
            changed(records, "sft", data_sha256="9"),
            [],
            "tiny, gsm8k: expected one data_sha256 in a column",
        ),
        (
            [dataclasses.replace(r, protocol="5") if r.seed else r for r in records],
            [],
            "expected one protocol in a column",
        ),
        (
            [dataclasses.replace(r, value=0.3) if r.stage == 2 else r for r in records],
            ["--items", str(items)],
            "join the run's records",
        ),
        (
            [*records, *(dataclasses.replace(r, fraction=0.7) for r in records)],
            ["--reference", "collab", "--items", *map(str, several)],
            "reference: expected one share p of collab",
        ),
        (records, ["--items", str(good)], "expected item scores, a name that ends in .items.jsonl"),
        (records, ["--items", str(tmp_path / "alone.items.jsonl")], "alone.jsonl: no such file"),
        (
            records,
            ["--items", str(items), str(others)],
            "gsm8k, tiny, collab, p = 0.5 and sft: expected the same items, found 2",
        ),
        (records, ["--items", str(short)], "expected items that add up to the record's"),
        (
            records,
            ["--items", str(items), str(tmp_path / "again.items.jsonl")],
            "expected one file of every run, found two of this one",
        ),
    ):
        write_records(bad, found)
        output = ["--output", str(tmp_path / "o.tex"), "--csv", str(tmp_path / "o.csv")]
        command = ["table", "--kind", "continual", "--records", str(bad), *output, *more]
        assert main(command) == 2, message
        error = capsys.readouterr().err
        assert message in error and len(error.splitlines()) == 1, error
        assert not (tmp_path / "o.tex").exists() and not (tmp_path / "o.csv").exists()
    write_records(bad, records)
    command = ["table", "--kind", "transfer", "--records", str(bad), *output]
    assert main([*command, "--items", str(items)]) == 2
    assert "--items: expected none for --kind transfer, found 1" in capsys.readouterr().err
    for kind, found, more, message in (
        ("rates", records, [], "values: expected the learning rate of each of 1 inputs, found 0"),
        (
            "trade-off",
            [r for r in records if MEASURES.get(r.benchmark) != "math"],
            [],
            "expected scores of math and code after the last stage",
        ),
        ("trade-off", [*records, *records], [], "tiny, sft: expected one run a seed, found two"),
    ):
        write_records(bad, found)
        output = ["--output", str(tmp_path / "o.pdf")]
        assert main(["figure", "--kind", kind, "--inputs", str(bad), *output, *more]) == 2
        error = capsys.readouterr().err
        assert message in error and len(error.splitlines()) == 1, error


def test_a_transfer_table_needs_records_of_transfer_or_drift() -> None:
    with pytest.raises(InputError, match="expected measures of fnsft transfer or fnsft drift"):
        transfer_grid(stage_of("sft", 0, 2)[0], TRANSFER)
    alone = transfer_grid(drift_of("sft", 0), TRANSFER)
    assert not any("Bold" in note for note in alone.notes)  # nothing to compete for
    assert any("Bold" in note for note in transfer_grid(joined(), TRANSFER).notes)
    assert [column.metric for column in alone.columns] == ["kl_forward", "relative_weight_change"]
    assert label_of("sft") in rows_of(alone)
