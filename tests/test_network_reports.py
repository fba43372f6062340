"""Tables and figures of networks: every number against a slow recomputation from the rows."""

import csv
import io
import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from network_rows import N_DRAWS, SHARES, lesions_of, networks_of
from tex import article_log, needs_pdflatex

from fnsft.artifacts.lesions import Lesion, write_lesions
from fnsft.artifacts.measures import Measure, write_measures
from fnsft.artifacts.networks import Networks, write_networks
from fnsft.artifacts.records import Measurement, Record, write_records
from fnsft.artifacts.training import Run, TrainingRecord
from fnsft.cli.main import main
from fnsft.config.stages import FigureSettings, TableSettings
from fnsft.errors import InputError
from fnsft.reporting.cells import Cell
from fnsft.reporting.csv_table import GRID_FIELDS, grid_csv, grid_of
from fnsft.reporting.figures import connectivity, coverage, networks_clusters
from fnsft.reporting.figures import lesions as lesion_curves
from fnsft.reporting.grid import Column, Grid, measured_in_words
from fnsft.reporting.labels import label_of, style_of
from fnsft.reporting.latex import grid_latex
from fnsft.reporting.lesions import lesions_by_model
from fnsft.reporting.network_table import AS_BAD, NEURONS, networks_grid
from fnsft.reporting.selective_table import selective_grid
from fnsft.reporting.style import COLOURS, LineStyle
from fnsft.reporting.style import style_of as look_of
from fnsft.reporting.text_table import grid_text

NETWORKS = TableSettings(kind="networks")
PERPLEXITY = Column("perplexity", "network", "perplexity")
RANDOM = Column("perplexity", "random", "perplexity")
GROUPS = {
    "perplexity": ("perplexity", "single"),
    "cloze": ("cloze", "single"),
    "amplified": ("perplexity", "amplified"),
}


def cells_of(grid: Grid, model: str = "tiny") -> dict[tuple[str, str], dict[Column, Cell | None]]:
    return {(row.section[:12], row.name): row.cells for row in grid.blocks[model]}


def values_of(rows: Sequence[Lesion], keep: Callable[[Lesion], bool]) -> list[float]:
    """Evaluation values of some rows; perplexities in place of losses."""
    return [
        math.exp(row.value) if row.benchmark == "perplexity" else row.value
        for row in rows
        if row.split == "evaluation" and keep(row)
    ]


def order_of(rows: Sequence[Lesion], seed: int) -> list[int]:
    losses = {
        row.network: row.value
        for row in rows
        if (row.experiment, row.split, row.seed) == ("single", "ranking", seed)
    }
    return sorted(losses, key=lambda network: -losses[network])


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_single_networks_are_means_over_seeds_at_their_place_beside_all_their_draws(
    seeds: tuple[int, ...],
) -> None:
    rows = lesions_of("tiny", seeds)
    cells = cells_of(networks_grid(rows, NETWORKS))
    orders = {seed: order_of(rows, seed) for seed in seeds}
    names = [f"network {n}" for n in orders[0]] if len(seeds) == 1 else ["1st", "2nd", "3rd"]
    for place, name in enumerate(names):
        found = cells["one network ", name]
        for group, (benchmark, experiment) in GROUPS.items():

            def mine(row: Lesion, place=place, benchmark=benchmark, experiment=experiment) -> bool:
                return (row.benchmark, row.experiment) == (benchmark, experiment) and (
                    row.network == orders[row.seed][place]
                )

            metric = "accuracy" if benchmark == "cloze" else "perplexity"
            cell, random = (found[Column(group, which, metric)] for which in ("network", "random"))
            values = values_of(rows, lambda r, mine=mine: mine(r) and r.source == "network")
            draws = values_of(rows, lambda r, mine=mine: mine(r) and r.source == "random")
            assert len(values) == len(seeds) and len(draws) == N_DRAWS * len(seeds)
            assert cell.value == pytest.approx(statistics.fmean(values))
            assert random.value == pytest.approx(statistics.fmean(draws))
            assert random.uncertainty == pytest.approx(statistics.stdev(draws))
            assert (random.n_draws, random.n_seeds) == (len(draws), len(seeds))
            if len(seeds) > 1:
                assert cell.uncertainty == pytest.approx(statistics.stdev(values))
            else:  # to first order, the error of exp(loss) is the perplexity times the loss's
                scale = cell.value if metric == "perplexity" else 1
                assert cell.uncertainty == pytest.approx(0.03 * scale)
        bad = [
            draw.value >= row.value
            for row in rows
            for draw in rows
            if (row.experiment, row.split, row.source) == ("single", "evaluation", "network")
            and row.network == orders[row.seed][place]
            and row.benchmark == draw.benchmark == "perplexity"
            and (draw.experiment, draw.source) == ("single", "random")
            and (draw.seed, draw.network) == (row.seed, row.network)
        ]
        assert found[AS_BAD].value == pytest.approx(sum(bad) / len(bad))
        assert (found[PERPLEXITY].mark == "beyond") == (not any(bad))
        assert found[NEURONS].value == pytest.approx(0.02)


def test_networks_together_stand_with_the_share_that_is_removed_or_kept() -> None:
    rows = lesions_of("tiny", (0, 1), n_networks=6)
    cells = cells_of(networks_grid(rows, NETWORKS))
    for experiment, section in (("removed", "the first n "), ("kept", "only the fir")):
        names = [name for found, name in cells if found == section]
        assert names == ["n = 1", "n = 2", "n = 4", "all 6"]
        for n, name in zip((1, 2, 4, 6), names, strict=True):
            found = cells[section, name]
            for source, column in (("network", PERPLEXITY), ("random", RANDOM)):
                place = (experiment, source, n, "perplexity")
                mine = values_of(
                    rows,
                    lambda r, p=place: (r.experiment, r.source, r.n_networks, r.benchmark) == p,
                )
                assert found[column].value == pytest.approx(statistics.fmean(mine))
            assert found[NEURONS].value == pytest.approx(0.02 * n)


def test_networks_stand_in_the_order_of_the_ranking_split_with_the_numbers_of_the_other() -> None:
    rows = lesions_of("tiny", (0,), n_networks=3)
    losses = {("ranking", 2): 9.0, ("evaluation", 2): 0.5}
    rows = [
        replace(row, value=losses.get((row.split, row.network), row.value))
        if (row.experiment, row.source, row.benchmark) == ("single", "network", "perplexity")
        else row
        for row in rows
    ]
    cells = cells_of(networks_grid(rows, NETWORKS))
    assert [name for section, name in cells if section == "one network "][0] == "network 2"
    assert cells["one network ", "network 2"][PERPLEXITY].value == pytest.approx(math.exp(0.5))


def test_a_draw_that_hurts_equally_counts_and_one_seeds_draw_suffices() -> None:
    rows = lesions_of("tiny", (0, 1), n_networks=2)
    first = {seed: order_of(rows, seed)[0] for seed in (0, 1)}
    cells = cells_of(networks_grid(rows, NETWORKS))
    assert cells["one network ", "1st"][PERPLEXITY].mark == "beyond"
    (worst,) = (
        row.value
        for row in rows
        if (row.experiment, row.network, row.seed, row.source) == ("single", first[1], 1, "network")
        and (row.split, row.benchmark) == ("evaluation", "perplexity")
    )
    rows = [
        replace(row, value=worst)
        if (row.experiment, row.network, row.seed, row.draw) == ("single", first[1], 1, 3)
        and row.benchmark == "perplexity"
        else row
        for row in rows
    ]
    found = cells_of(networks_grid(rows, NETWORKS))["one network ", "1st"]
    assert found[PERPLEXITY].mark == ""
    assert found[AS_BAD].value == pytest.approx(1 / (2 * N_DRAWS))


def test_what_was_not_measured_is_a_dash_and_counted_and_never_zero() -> None:
    rows = lesions_of("A", (0,), ("perplexity", "cloze", "gsm8k")) + lesions_of("B", (0,))
    rows = [r for r in rows if r.model == "A" or r.experiment != "removed" or r.source != "random"]
    grid = networks_grid(rows, NETWORKS)
    lines = grid_latex(grid).splitlines()
    second = lines[next(i for i, line in enumerate(lines) if r"\textbf{B}" in line) :]
    removed = second[next(i for i, line in enumerate(second) if "removed together" in line) + 1]
    texts = removed.removesuffix(r" \\").split(" & ")
    names = ["", *(f"{column.group} {column.name}" for column in grid.columns)]
    dashes = {name for name, text in zip(names, texts, strict=True) if text == "--"}
    assert dashes == {
        *("as bad random", "perplexity random", "cloze random"),
        *("gsm8k network", "gsm8k random", "amplified network", "amplified random"),
    }
    # B: gsm8k of 1 + 10 + 4 + 4 rows, intact without random; 3 of the 4 rows without draws.
    assert grid.missing == 2 * 18 + 1 + 3 * 4
    assert f"not measured (cells: {grid.missing})" in " ".join(measured_in_words(grid))
    assert grid.missing == sum(line.count(",yes,,") for line in grid_csv(grid).splitlines())


def test_the_intact_model_that_all_seeds_share_was_measured_once() -> None:
    rows = lesions_of("tiny", (0, 1))
    cell = cells_of(networks_grid(rows, NETWORKS))["", "intact"][PERPLEXITY]
    assert (cell.kind, cell.n_seeds) == ("items", 1)
    assert cell.uncertainty == pytest.approx(0.03 * math.exp(0.4))
    rows = [
        replace(row, value=row.value + 0.1) if (row.experiment, row.seed) == ("intact", 1) else row
        for row in rows
    ]
    cell = cells_of(networks_grid(rows, NETWORKS))["", "intact"][PERPLEXITY]
    assert (cell.kind, cell.n_seeds) == ("seeds, sd", 2)


def test_notes_state_items_seeds_draws_the_split_and_chance() -> None:
    one, three = (networks_grid(lesions_of("tiny", seeds), NETWORKS) for seeds in ((0,), (0, 1, 2)))
    for grid, words in (
        (
            one,
            ["Items: perplexity 64; cloze 100; amplified 64.", "over 5 draws", "one network in 6"],
        ),
        (one, ["of one run the standard error over items", "ranking split", "no part in it"]),
        (three, ["±: standard deviation over 3 seeds", "15 draws of 3 seeds together"]),
        (three, ["5 draws a lesion and seed", "none is in any seed", "one network in 216"]),
    ):
        text = " ".join([*grid.notes, *measured_in_words(grid)])
        assert all(found in text for found in words), text
    assert one.caption == "Perplexity and accuracy, task math, networks ica."


def test_a_broken_models_perplexity_is_printed_short_and_may_be_infinite() -> None:
    rows = [
        replace(row, value=1e4) if (row.experiment, row.network) == ("amplified", 0) else row
        for row in lesions_of("tiny", (0,), ("perplexity",))
    ]
    grid = networks_grid(rows, NETWORKS)
    cell = cells_of(grid)["one network ", "network 0"][Column("amplified", "network", "perplexity")]
    assert (cell.value, cell.uncertainty) == (math.inf, None)
    assert "inf" in grid_text(grid) and "nan" not in grid_text(grid)
    printed = style_of("perplexity").printed
    assert [printed(v) for v in (1.5, 999.99, 1234.56, 123456.0, 1e12)] == [
        *("1.50", "999.99", "1235", "1.2e5", "1.0e12"),
    ]
    assert printed(12.345, beside=2345.6) == "12"


def test_items_that_differ_between_seeds_are_not_given_as_one_number() -> None:
    rows = [
        replace(row, n=row.n + row.seed) if row.benchmark == "cloze" else row
        for row in lesions_of("tiny", (0, 1))
    ]
    words = measured_in_words(networks_grid(rows, NETWORKS))[0]
    assert words == "Items: perplexity 64; cloze other ones by seed; amplified 64."


RUNS = [f"{base}{mode}" for base in ("sft", "lora") for mode in ("", "-lesion", "-freeze")]
CONTROLS = ("sft-lesion-random",)
MEASURED = (("gsm8k", "accuracy"), ("cloze", "accuracy"), ("perplexity", "perplexity"))


def run_of(method: str, seed: int) -> Run:
    mode = next((name for name in ("lesion", "freeze") if name in method), None)
    rate = 3e-3 if method.startswith("lora") else 1e-3
    return Run("tiny", "math", method, stage=1, seed=seed, mask_mode=mode, learning_rate=rate)


def selective_records() -> list[Record]:
    """Base, and methods of three seeds; a lesion is scored with its mask on and off."""
    rng = np.random.default_rng(0)
    base = Run("tiny", "math", "base")
    runs = [(base, None)]
    for method, seed in itertools.product((*RUNS, *CONTROLS), range(3)):
        for mask in ("on", "off") if "lesion" in method else (None,):
            runs.append((run_of(method, seed), mask))
    return [
        Record.of(run, Measurement(*metric, float(rng.uniform(0.2, 0.8)), 0.02, 400), mask)
        for run, mask in runs
        for metric in MEASURED
    ]


def trainings() -> list[TrainingRecord]:
    runs = [run_of(method, seed) for method in (*RUNS, *CONTROLS) for seed in range(3)]
    return [TrainingRecord(run, [], [], 2, 4, 1.2, 189, None, 1.0, 1.0) for run in runs]


SELECTIVE = TableSettings(kind="selective", methods=("base", *RUNS), controls=CONTROLS)


def test_methods_stand_by_what_they_learned_and_kept_with_their_mask_on_and_off() -> None:
    records = selective_records()
    grid = selective_grid(records, trainings(), SELECTIVE)
    assert [(c.group, c.name) for c in grid.columns] == [
        (group, name) for group, _ in MEASURED for name in ("mask on", "mask off")
    ]
    rows = {row.name: row for row in grid.blocks["tiny"]}
    assert list(rows) == [label_of(method) for method in ("base", *RUNS, *CONTROLS)]
    assert [row.section for row in rows.values()] == [*[""] * 7, "controls"]
    for method, column in itertools.product(("base", *RUNS, *CONTROLS), grid.columns):
        cell = rows[label_of(method)].cells.get(column)
        mine = [
            record.value
            for record in records
            if (record.method, record.benchmark) == (method, column.group)
            and (record.forward_mask == "off") == (column.name == "mask off")
        ]
        if not mine:
            assert cell is None and "lesion" not in method
        elif method == "base":
            assert (cell.value, cell.uncertainty, cell.kind) == (mine[0], 0.02, "items")
        else:
            assert cell.value == pytest.approx(statistics.fmean(mine))
            assert cell.uncertainty == pytest.approx(statistics.stdev(mine))
            assert (cell.n_seeds, cell.n_items) == (3, 400)
    assert grid.missing == 0
    lines = grid_latex(grid).splitlines()
    sft = next(line for line in lines if line.startswith("SFT &"))
    assert [text == "--" for text in sft.removesuffix(r" \\").split(" & ")[1:]] == [False, True] * 3


def test_the_best_of_a_quantity_is_marked_over_both_columns_and_never_a_control() -> None:
    records = [
        replace(record, value=0.99 if record.metric == "accuracy" else 0.01)
        if record.method in CONTROLS
        else record
        for record in selective_records()
    ]
    rows = selective_grid(records, [], SELECTIVE).blocks["tiny"]
    for group, _ in MEASURED:
        found = [
            (cell.value, cell.mark, row.section)
            for row in rows
            for column, cell in row.cells.items()
            if column.group == group and cell is not None
        ]
        best = (min if group == "perplexity" else max)(v for v, _, section in found if not section)
        assert [value for value, mark, _ in found if mark == "best"] == [best]
        assert not any(mark for _, mark, section in found if section)


def test_a_forward_mask_that_was_scored_one_way_only_is_missing_the_other() -> None:
    records = selective_records()
    for gone, missing in (
        (("sft-lesion", "off", "cloze"), 1),
        (("sft-lesion", "on", "gsm8k"), 1),
        (("sft-freeze", None, "perplexity"), 1),
    ):
        left = [r for r in records if (r.method, r.forward_mask, r.benchmark) != gone]
        grid = selective_grid(left, [], SELECTIVE)
        assert grid.missing == missing
        assert "not measured (cells: 1)" in " ".join(measured_in_words(grid))
    gone = [record for record in records if record.method != "lora"]
    assert selective_grid(gone, [], SELECTIVE).missing == 3


def test_notes_of_methods_state_seeds_items_rates_and_steps() -> None:
    grid = selective_grid(selective_records(), trainings(), SELECTIVE)
    text = " ".join([*grid.notes, *measured_in_words(grid)])
    for words in (
        "LoRA, LoRA (network removed), LoRA (network frozen) 0.003.",
        "Optimizer steps of every run: 189.",
        "Items: gsm8k 400; cloze 400; perplexity 400.",
        "±: standard deviation over 3 seeds; of one run the standard error over items.",
        "off: the same weights without the mask",
        "controls do not compete",
    ):
        assert words in text
    assert label_of(CONTROLS[0]) == "SFT (random set removed)"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 0, "method": "sft"}, "tiny, sft: expected one run a seed, found seeds"),
        ({"seed": 7, "method": "sft", "task": "code"}, "tiny, sft: expected one task"),
        ({"seed": 7, "method": "sft", "mask_mode": "freeze"}, "tiny, sft: expected one mask_mode"),
    ],
)
def test_a_table_of_methods_never_mixes_what_does_not_compare(
    change: dict[str, object], message: str
) -> None:
    records = selective_records()
    extra = replace(next(r for r in records if r.method == "sft"), **change)
    with pytest.raises(InputError, match=message):
        selective_grid([*records, extra], [], SELECTIVE)


def test_one_methods_seeds_have_one_learning_rate() -> None:
    runs = trainings()
    other = replace(runs[0], run=replace(runs[0].run, seed=9, learning_rate=0.5))
    with pytest.raises(InputError, match="tiny, sft: expected one learning rate .* 0.001, 0.5"):
        selective_grid(selective_records(), [*runs, other], SELECTIVE)


def grids() -> dict[str, Grid]:
    return {
        "networks": networks_grid(lesions_of("a_b", (0, 1)) + lesions_of("tiny", (0, 1)), NETWORKS),
        "selective": selective_grid(selective_records(), trainings(), SELECTIVE),
    }


@pytest.mark.parametrize("kind", ["networks", "selective"])
def test_the_csv_holds_the_grid_and_prints_at_most_100_columns(kind: str) -> None:
    grid = grids()[kind]
    rows = list(csv.DictReader(io.StringIO(grid_csv(grid))))
    assert tuple(rows[0]) == GRID_FIELDS
    back = grid_of(rows)
    assert back.columns == grid.columns
    for (column, cell), (same, read) in zip(grid.cells, back.cells, strict=True):
        assert column == same and (cell is None) == (read is None)
        if cell is not None:
            assert read.value == pytest.approx(cell.value, rel=1e-5)
            assert replace(read, value=0, uncertainty=0) == replace(cell, value=0, uncertainty=0)
    assert measured_in_words(back) == measured_in_words(grid)
    text = grid_text(back)
    assert len(text) == len(grid_text(grid))
    assert max(map(len, text.splitlines())) <= 100
    assert text.count("±") > 30 and ("†" in text or "*" in text)


@pytest.mark.parametrize("kind", ["networks", "selective"])
def test_grids_have_as_many_cells_in_every_row(kind: str) -> None:
    grid = grids()[kind]
    text = grid_latex(grid)
    rows = [
        line for line in text.splitlines() if line.endswith(r"\\") and "multicolumn" not in line
    ]
    assert len(rows) == 1 + sum(map(len, grid.blocks.values()))
    assert {row.count(" & ") for row in rows} == {len(grid.columns)}


@needs_pdflatex
@pytest.mark.parametrize("kind", ["networks", "selective"])
def test_grids_compile(tmp_path: Path, kind: str) -> None:
    article_log(tmp_path, {"table": grid_latex(grids()[kind])})


def table(kind: str, records: Path, *more: str) -> int:
    outputs = [
        "--output",
        str(records.with_suffix(".tex")),
        "--csv",
        str(records.with_suffix(".csv")),
    ]
    return main(["table", "--kind", kind, "--records", str(records), *outputs, *more])


def test_both_kinds_become_tables_that_show_prints_under_their_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lesions(tmp_path / "l.jsonl", lesions_of("tiny", (0,)))
    write_records(tmp_path / "r.jsonl", selective_records())
    for kind, name, shown in (("networks", "l", "network 3"), ("selective", "r", "LoRA (network")):
        labels = ["--models", "tiny", "--model-labels", "Tiny-0.9M"]
        assert table(kind, tmp_path / f"{name}.jsonl", *labels) == 0
        assert " 0 missing" in capsys.readouterr().err
        assert main(["show", str(tmp_path / f"{name}.csv")]) == 0
        text = capsys.readouterr().out
        assert shown in text and "Tiny-0.9M" in text


def test_lesions_that_make_no_table_are_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = lesions_of("tiny", (0,), n_networks=2)
    (tmp_path / "empty.jsonl").write_text("")
    write_records(tmp_path / "records.jsonl", selective_records())
    write_lesions(tmp_path / "lesions.jsonl", rows)
    write_lesions(tmp_path / "twice.jsonl", [*rows, *rows])
    write_lesions(tmp_path / "two.jsonl", [*rows, *(replace(r, networks="other") for r in rows)])
    for kind, name, more, message in (
        ("networks", "empty", [], "expected lesions of fnsft lesion, found none"),
        ("networks", "records", [], "records.jsonl line 1: the field 'networks' is missing"),
        ("networks", "lesions", ["--models", "other"], "other: expected lesions, found none"),
        ("networks", "two", [], "expected lesions of one networks, found ica, other"),
        ("networks", "twice", [], "give every file of fnsft lesion once"),
        ("selective", "empty", [], "expected records of gsm8k accuracy"),
        ("selective", "records", ["--benchmark", "mmlu"], "expected records of mmlu accuracy"),
        ("selective", "lesions", [], "lesions.jsonl line 1: the field 'method' is missing"),
    ):
        assert table(kind, tmp_path / f"{name}.jsonl", *more) == 2
        error = capsys.readouterr().err
        assert message in error and len(error.splitlines()) == 1
        assert not (tmp_path / f"{name}.tex").exists()


def test_connectivity_is_pearsons_correlation_of_all_courses_of_all_analyses() -> None:
    networks = networks_of("layer", n_networks=3)
    courses = [list(map(float, c)) for a in networks.analyses for c in a.time_courses.T]
    assert len(courses) == 9
    found = connectivity.correlations_of(networks)
    for (i, first), (j, second) in itertools.product(enumerate(courses), repeat=2):
        assert found[i, j] == pytest.approx(statistics.correlation(first, second))


def images(axes: Sequence[Axes]) -> list[np.ma.MaskedArray]:
    return [np.ma.asarray(ax.images[0].get_array()) for ax in axes if ax.images]


def drawn(module: object, tmp_path: Path, networks: Networks, *more: Networks) -> list[Axes]:
    paths = []
    for number, item in enumerate((networks, *more)):
        paths.append(tmp_path / f"networks{number}.safetensors")
        write_networks(paths[-1], item, "m")
    return [ax for ax in module.drawing(paths, FigureSettings()).figure.axes if ax.axison]


def test_constant_courses_and_the_diagonal_are_grey_and_counted(tmp_path: Path) -> None:
    networks = networks_of(n_networks=4)
    networks.analyses[0].time_courses[:, 2] = 5
    found = connectivity.correlations_of(networks)
    assert np.isnan(found[2]).all() and np.isnan(found[:, 2]).all()
    panel, bar = drawn(connectivity, tmp_path, networks)
    (shown,) = images([panel])
    missing = np.isnan(shown.filled(np.nan))
    assert missing.sum() == 4 + 6
    note = " ".join(panel.figure.get_supxlabel().split())
    assert "and 1 networks whose course is constant" in note
    low, high = panel.images[0].get_clim()
    assert low == -high and high >= np.nanmax(np.abs(shown))
    dots = {tuple(place) for place in panel.collections[0].get_offsets().astype(int)}
    assert dots == {(i, j) for i in range(4) for j in range(4) if shown[j, i] < -0.1 * high}
    assert dots


def test_models_stand_beside_each_other_and_many_networks_have_no_labels(tmp_path: Path) -> None:
    few, many = networks_of(n_networks=5), networks_of("layer", 9, 20, n_networks=6)
    for module in (connectivity, coverage):
        first, second, _ = drawn(module, tmp_path, few, many)
        assert [t.get_text() for t in first.get_yticklabels()] == ["0", "1", "2", "3", "4"]
        assert (list(second.get_yticks()), second.get_ylabel()) == ([], "48 networks")
        assert first.images[0].get_clim() == second.images[0].get_clim()


def test_coverage_is_the_share_of_a_layers_channels_and_other_layers_are_hatched(
    tmp_path: Path,
) -> None:
    for scope in ("stack", "layer"):
        networks = networks_of(scope, n_networks=3)
        (panel, _) = drawn(coverage, tmp_path, networks)
        (shown,) = images([panel])
        row = 0
        for analysis, number in itertools.product(networks.analyses, range(3)):
            for layer in range(4):
                found = shown[row, layer]
                if layer in analysis.layers:
                    start = 50 * analysis.layers.index(layer)
                    members = analysis.members[number][start : start + 50]
                    assert found == pytest.approx(100 * sum(map(bool, members)) / 50)
                else:
                    assert np.ma.is_masked(found) or np.isnan(found)
            row += 1
        assert shown.shape == (row, 4) and panel.patch.get_hatch()


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_lesion_curves_are_means_with_the_range_of_seeds_and_draws(
    tmp_path: Path, seeds: tuple[int, ...]
) -> None:
    rows = lesions_of("tiny", seeds, n_networks=4)
    write_lesions(tmp_path / "l.jsonl", rows)
    drawing = lesion_curves.drawing([tmp_path / "l.jsonl"], FigureSettings())
    axes = [ax for ax in drawing.figure.axes if ax.axison]
    places = {"removed": (1, 2, 3, 4), "kept": (1, 2, 3, 4), "unmasked": SHARES}
    assert len(axes) == 6
    cases = itertools.product(("perplexity", "cloze"), places.items())
    for ax, (benchmark, (experiment, at)) in zip(axes, cases, strict=True):
        flat, random, networks = ax.lines
        scale = 1 if benchmark == "perplexity" else 100
        intact = math.exp(0.4) if benchmark == "perplexity" else 90
        assert list(flat.get_ydata()) == pytest.approx([intact, intact])
        assert ax.get_yscale() == ("log" if benchmark == "perplexity" else "linear")
        for source, line, band in (
            ("random", random, ax.collections[0]),
            ("network", networks, ax.collections[1]),
        ):
            for place, x, y in zip(at, line.get_xdata(), line.get_ydata(), strict=True):
                key = (experiment, source, benchmark, place)
                mine = values_of(
                    rows,
                    lambda r, k=key: (
                        (r.experiment, r.source, r.benchmark, r.share or r.n_networks) == k
                    ),
                )
                assert len(mine) == len(seeds) * (N_DRAWS if source == "random" else 1)
                assert y == pytest.approx(scale * statistics.fmean(mine))
                assert x == pytest.approx(100 * place if experiment == "unmasked" else place)
                edge = band.get_paths()[0].vertices
                ends = edge[np.isclose(edge[:, 0], x), 1]
                assert ends.min() == pytest.approx(scale * min(mine))
                assert ends.max() == pytest.approx(scale * max(mine))
    names = [text.get_text() for text in drawing.figure.legends[0].get_texts()]
    assert names == ["networks", "random sets", "intact model"]


def test_lesion_curves_have_a_row_a_model_and_benchmark_and_only_what_was_measured(
    tmp_path: Path,
) -> None:
    second = [row for row in lesions_of("B", (0,), ("perplexity",)) if row.experiment != "unmasked"]
    write_lesions(tmp_path / "l.jsonl", [*lesions_of("A", (0,)), *second])
    settings = FigureSettings(models=("B", "A"), model_labels=("Beta", "Alpha"))
    figure = lesion_curves.drawing([tmp_path / "l.jsonl"], settings).figure
    axes = [ax for ax in figure.axes if ax.axison]
    assert [ax.get_title(loc="left") for ax in axes if ax.get_title(loc="left")] == [
        "Beta",
        "Alpha",
    ]
    labels = [ax.get_ylabel() for ax in axes if ax.get_ylabel()]
    assert labels == ["perplexity", "perplexity", "cloze, % right"]
    assert len(axes) == 2 + 3 + 3
    below = [ax for ax in axes if ax.get_xlabel()]
    assert len(below) == 3


def test_curves_without_random_sets_say_nothing_of_them(tmp_path: Path) -> None:
    rows = [row for row in lesions_of("tiny", (0,)) if row.source == "network"]
    write_lesions(tmp_path / "l.jsonl", rows)
    figure = lesion_curves.drawing([tmp_path / "l.jsonl"], FigureSettings()).figure
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["networks", "intact model"]
    assert "Random" not in figure.get_supxlabel()


def test_networks_and_clusters_have_the_controls_and_chance_beside_them(tmp_path: Path) -> None:
    names = [line.measure for panel in networks_clusters.PANELS for line in panel.lines]
    measures = [
        Measure("tiny", source, "math", "ica", seed, layer, name, 0.1 * (layer + 1), None, 9)
        for source, seed, layer in itertools.product(
            ("model", "random-init", "token-shuffled"), (0, 1), range(3)
        )
        for name in dict.fromkeys(names)
    ]
    write_measures(tmp_path / "m.jsonl", measures)
    figure = networks_clusters.drawing([tmp_path / "m.jsonl"], FigureSettings()).figure
    lines = [[line for line in ax.lines if len(line.get_xdata()) == 3] for ax in figure.axes]
    assert list(map(len, lines)) == [3, 4]
    assert all(list(line.get_ydata()) == pytest.approx([0.1, 0.2, 0.3]) for line in lines[1])
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend[-1] == "model, clusters permuted" and len(legend) == 4


def test_more_methods_than_colours_are_told_apart_by_kind_and_by_what_is_trained() -> None:
    modes = ("", "-lesion", "-preserve", "-train-only", "-freeze")
    methods = [base + mode for base in ("sft", "lora") for mode in modes]
    methods += [f"{name}-random" for name in methods if "-" in name]
    assert len(methods) == 18 > len(COLOURS)
    looks = {method: look_of(method, None, methods, []) for method in methods}
    assert len({(style.marker, style.line) for style in looks.values()}) == 18
    for mode in modes[1:]:
        same = [f"{base}{mode}{end}" for base in ("sft", "lora") for end in ("", "-random")]
        assert len({looks[name].colour for name in same}) == 1
        assert len({looks[name].line for name in same}) == 4
    ten: list[LineStyle] = [look_of(name, None, methods[:10], []) for name in methods[:10]]
    assert len(set(ten)) == 10
    others = [f"method-{number}" for number in range(20)]
    assert len({look_of(name, None, others, []) for name in others}) == 20
    few = methods[: len(COLOURS)]
    assert len({look_of(name, None, few, []).colour for name in few}) == len(COLOURS)


def test_figures_of_what_is_no_network_are_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_networks(tmp_path / "n.safetensors", networks_of(), "m")
    write_networks(tmp_path / "none.safetensors", networks_of(n_networks=0), "m")
    write_lesions(tmp_path / "l.jsonl", lesions_of("tiny", (0,), n_networks=2))
    alone = [r for r in lesions_of("tiny", (0,)) if r.experiment in ("intact", "single")]
    write_lesions(tmp_path / "alone.jsonl", alone)
    (tmp_path / "empty.jsonl").write_text("")
    for kind, name, more, message in (
        ("connectivity", "n.json", [], "n.json: truncated or not safetensors"),
        ("connectivity", "none.safetensors", [], "expected at least one network, found none"),
        ("coverage", "absent.safetensors", [], "no such file or folder"),
        ("coverage", "n.safetensors", ["--models", "a", "b"], "models: expected one for each of 1"),
        ("lesions", "empty.jsonl", [], "expected lesions of fnsft lesion, found none"),
        ("lesions", "alone.jsonl", [], "expected networks that are removed, kept or unmasked"),
        ("lesions", "l.jsonl", ["--models", "b"], "b: expected lesions, found none"),
        ("networks-clusters", "l.jsonl", [], "l.jsonl line 1: the field 'graph' is missing"),
        ("networks-clusters", "empty.jsonl", [], "adjusted_rand_networks_clusters"),
    ):
        words = ["--inputs", str(tmp_path / name), *more, "--output", str(tmp_path / "f.pdf")]
        assert main(["figure", "--kind", kind, *words]) == 2, (kind, name)
        error = capsys.readouterr().err
        assert message in error and len(error.splitlines()) == 1, error
        assert not (tmp_path / "f.pdf").exists()


def test_lesions_of_one_model_keep_the_order_of_the_settings() -> None:
    rows = lesions_of("A", (0,), n_networks=2) + lesions_of("B", (0,), n_networks=2)
    assert list(lesions_by_model(rows, ("B", "A"))) == ["B", "A"]
    assert list(lesions_by_model(rows)) == ["A", "B"]
