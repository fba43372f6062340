"""Figures: the numbers that are drawn, against their definitions computed the slow way."""

import itertools
import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from figure_inputs import (
    SOURCES,
    histogram,
    layer_clusters,
    measures_of,
    statistics_of,
    training,
    write_dump,
    write_runs,
    write_updates,
)
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch
from PIL import Image

from fnsft.artifacts.activations import open_dump
from fnsft.artifacts.clusters import Clusters, write_clusters
from fnsft.artifacts.measures import Measure, write_measures
from fnsft.artifacts.scores import (
    BINS,
    HIGHEST,
    PARTITIONS,
    SCORES,
    ScoreHistograms,
    write_histograms,
)
from fnsft.artifacts.statistics import TokenStatistics, write_statistics
from fnsft.artifacts.storage import read_json
from fnsft.artifacts.telemetry import MaskRecord, write_masks
from fnsft.artifacts.training import Run, TrainingRecord, write_training
from fnsft.cli.main import main
from fnsft.config.stages import FigureKind, FigureSettings
from fnsft.errors import InputError
from fnsft.reporting.curves import panels_of
from fnsft.reporting.figures import (
    activations,
    agreement,
    clusters,
    drawing_of,
    influence,
    networks_clusters,
    overlap,
    perplexity,
    scores,
    structure,
    sweep,
    telemetry,
    updates,
)
from fnsft.reporting.figures.by_layer import columns_of
from fnsft.reporting.figures.canvas import chosen_layers, evenly_spaced
from fnsft.reporting.labels import run_labels, shared_fraction
from fnsft.reporting.style import COLUMN_INCHES, PAGE_INCHES


def figure(kind: str, words: list[str], output: Path) -> int:
    return main(["figure", "--kind", kind, "--inputs", *words, "--output", str(output)])


def panels(figure: Figure) -> list[Axes]:
    return [ax for ax in figure.axes if ax.axison]


def note(figure: Figure) -> str:
    return " ".join(figure.get_supxlabel().split())


@pytest.mark.parametrize("kind", get_args(FigureKind))
def test_every_kind_is_drawn_to_the_same_bytes_with_its_fonts_and_without_a_date(
    inputs: dict[str, list[str]], tmp_path: Path, kind: str
) -> None:
    drawn = []
    for name in ("one", "two"):
        assert figure(kind, inputs[kind], tmp_path / f"{name}.pdf") == 0
        drawn.append([(tmp_path / f"{name}.{end}").read_bytes() for end in ("pdf", "png")])
    assert drawn[0] == drawn[1]
    pdf = drawn[0][0]
    n_fonts = pdf.count(b"/Type /FontDescriptor")
    assert n_fonts and pdf.count(b"/FontFile2") == n_fonts, "fonts are embedded"
    assert not any(word in pdf for word in (b"/Type3", b"CreationDate", b"ModDate"))
    with Image.open(tmp_path / "one.png") as image:
        assert min(image.info["dpi"]) >= 199.9
        inches = image.width / image.info["dpi"][0]
    assert min(abs(inches - width) for width in (COLUMN_INCHES, PAGE_INCHES)) < 0.01
    manifest = read_json(tmp_path / "one.pdf.manifest.json")
    assert manifest["settings"]["kind"] == kind
    assert set(manifest["inputs"]) == {word for word in inputs[kind] if str(tmp_path) in word}


@pytest.mark.parametrize("kind", get_args(FigureKind))
def test_every_figure_says_how_many_seeds_or_tokens_it_shows(
    inputs: dict[str, list[str]], kind: str
) -> None:
    settings = FigureSettings(kind=kind, axes=("k",) * 4, values=(5, 5, 20, 20))
    paths = [Path(word) for word in inputs[kind] if Path(word).exists()]
    drawn = drawing_of(paths, settings).figure
    texts = note(drawn) + "".join(legend.get_title().get_text() for legend in drawn.legends)
    texts += "".join(ax.get_xlabel() for ax in panels(drawn))
    expected = {
        **dict.fromkeys(("perplexity", "sweep", "agreement", "structure"), "2 seeds"),
        "overlap": "2 seeds",
        "updates": "mean of 12 recorded steps, runs of 2 seeds a panel",
        "telemetry": "runs of 2 seeds, from 48 sampled entries a matrix",
        "scores": "4,003 tokens a line, from 3 files",
        "activations": "all 90 tokens",
        "influence": "435 tokens, 29 of them distinct",
        "clusters": "41 neurons in 3 clusters\n2 without an edge",
        "connectivity": "90 tokens of 3 samples, one seed a model",
        "coverage": "a network, one seed a model",
        "lesions": "mean over 2 seeds; shade: lowest to highest. Random sets: as many neurons of "
        "every layer, 10 draws in all a point",
        "networks-clusters": "2 seeds",
        **dict.fromkeys(("bars", "trade-off", "rates"), "mean of 2 seeds"),
    }
    assert expected[kind] in texts


def test_sweep_points_are_means_over_seeds_with_their_range() -> None:
    rng = np.random.default_rng(0)
    places = [(axis, v, s) for axis, v in (("k", 1), ("k", 20), ("b", 2), ("b", 0)) for s in (0, 1)]
    values = rng.random(len(places)) + 1
    runs = [training("collab", s, float(v)) for (_, _, s), v in zip(places, values, strict=True)]
    settings = FigureSettings(
        kind="sweep", axes=tuple(p[0] for p in places), values=tuple(p[1] for p in places)
    )
    lines = sweep.sweep_lines(runs, settings)
    assert [(line.axis, [p.value for p in line.points]) for line in lines] == [
        *(("k", [1, 20]), ("b", [0, 2])),
    ]
    drawn = panels(sweep.draw(lines).figure)
    for line, ax in zip(lines, drawn, strict=True):
        mean, *_ = (found for found in ax.lines if len(found.get_xdata()) == 2)
        segments = [bar.get_segments() for bar in ax.collections if hasattr(bar, "get_segments")]
        for place, point in enumerate(line.points):
            mine = [
                v
                for (a, x, _), v in zip(places, values, strict=True)
                if (a, x) == (line.axis, point.value)
            ]
            assert sorted(point.perplexities) == pytest.approx(sorted(mine))
            assert mean.get_xydata()[place] == pytest.approx([point.value, sum(mine) / 2])
            assert segments[0][place][:, 1] == pytest.approx([min(mine), max(mine)])


def test_a_sweep_over_more_than_a_decade_is_logarithmic_and_its_values_are_the_ticks() -> None:
    values = {"k": (5, 20, 64), "beta": (0, 1.3, 20), "lam": (0.1, 0.5, 1)}
    places = [(axis, value) for axis, found in values.items() for value in found]
    settings = FigureSettings(
        kind="sweep", axes=tuple(p[0] for p in places), values=tuple(p[1] for p in places)
    )
    runs = [training("collab", 0, 1.2) for _ in places]
    drawn = panels(sweep.draw(sweep.sweep_lines(runs, settings)).figure)
    assert [ax.get_xscale() for ax in drawn] == ["log", "linear", "linear"]
    assert [tuple(ax.get_xticks()) for ax in drawn] == list(values.values())
    assert [label.get_text() for label in drawn[1].get_xticklabels()] == ["0", "1.3", "20"]


def test_diverged_runs_are_left_out_of_a_sweep_and_counted() -> None:
    runs = [training("collab", seed, v) for seed, v in enumerate((1.2, float("nan"), 1.4))]
    settings = FigureSettings(kind="sweep", axes=("k",) * 3, values=(5,) * 3)
    (line,) = sweep.sweep_lines(runs, settings)
    assert (line.points[0].perplexities, line.points[0].diverged) == ((1.2, 1.4), 1)
    assert "1 diverged runs are left out" in note(sweep.draw([line]).figure)
    with pytest.raises(InputError, match="expected finished runs"):
        sweep.sweep_lines(runs[1:2], FigureSettings(axes=("k",), values=(5,)))


def test_runs_that_do_not_compare_share_no_sweep() -> None:
    settings = FigureSettings(kind="sweep", axes=("k", "k"), values=(5, 5))
    runs = [training("collab", 0, 1.2), training("collab", 1, 1.2, task="code")]
    with pytest.raises(InputError, match="one task, found code, math"):
        sweep.sweep_lines(runs, settings)
    with pytest.raises(InputError, match="expected one run a seed"):
        sweep.sweep_lines(runs[:1] * 2, settings)


@pytest.mark.parametrize("module", [agreement, structure])
def test_lines_by_layer_are_means_over_seeds_of_one_source(tmp_path: Path, module: object) -> None:
    names = [
        "adjusted_rand_halves",
        "rand_datasets",
        "modularity",
        "score_over_null_unbiased",
        "parameters_score_over_null_unbiased",
        "mask_shared_with_random",
    ]
    measures = measures_of(names)
    write_measures(tmp_path / "m.jsonl", measures)
    drawn = module.drawing([tmp_path / "m.jsonl"], FigureSettings()).figure
    shown = [p for p in module.PANELS if p.lines[0].measure in names]
    assert len(panels(drawn)) == len(shown) == 2
    for spec, ax in zip(shown, panels(drawn), strict=True):
        lines = [line for line in ax.lines if len(line.get_xdata()) == 3]
        bands = ax.collections
        known = [line for line in spec.lines if line.measure in names]
        for line, drawn_line, band in zip(known, lines, bands, strict=True):
            for layer in range(3):
                values = [
                    m.value
                    for m in measures
                    if (m.measure, m.source, m.layer) == (line.measure, line.source, layer)
                ]
                assert len(values) == 2
                assert drawn_line.get_ydata()[layer] == pytest.approx(statistics.fmean(values))
                edge = band.get_paths()[0].vertices
                at = edge[edge[:, 0] == layer, 1]
                assert (at.min(), at.max()) == pytest.approx((min(values), max(values)))


def test_a_references_dashed_line_stands_where_chance_is(tmp_path: Path) -> None:
    write_measures(
        tmp_path / "m.jsonl", measures_of(["score_over_null_unbiased", "adjusted_rand_halves"])
    )
    for module, chance in ((structure, 1), (agreement, 0)):
        (ax,) = panels(module.drawing([tmp_path / "m.jsonl"], FigureSettings()).figure)
        (flat,) = (line for line in ax.lines if list(line.get_xdata()) == [0, 1])
        assert list(flat.get_ydata()) == [chance, chance]


def test_every_model_task_and_graph_has_a_column_and_a_twin_has_none(tmp_path: Path) -> None:
    measures = measures_of(["modularity"], "A") + measures_of(["modularity"], "B")
    columns = columns_of(measures, structure.PANELS, ("B", "A"))
    assert list(columns) == ["B", "A"]
    assert [len(column) for column in columns.values()] == [3, 3]
    other = [Measure(**vars(m) | {"task": "code"}) for m in measures if m.model == "A"]
    assert list(columns_of(measures + other, structure.PANELS)) == ["A, math", "B, math", "A, code"]
    write_measures(tmp_path / "m.jsonl", measures)
    settings = FigureSettings(models=("B", "A"), model_labels=("Beta", "Alpha"))
    drawn = structure.drawing([tmp_path / "m.jsonl"], settings).figure
    assert [ax.get_title(loc="left") for ax in panels(drawn)] == ["Beta", "Alpha"]


def test_measures_that_are_given_twice_or_for_no_panel_are_refused() -> None:
    measures = measures_of(["modularity"])
    with pytest.raises(InputError, match="tiny, model, seed 0, layer 0: modularity is given twice"):
        columns_of(measures + measures[:1], structure.PANELS)
    with pytest.raises(InputError, match="expected measures such as adjusted_rand_halves"):
        columns_of(measures, agreement.PANELS)
    with pytest.raises(InputError, match="expected measures of other such as"):
        columns_of(measures, structure.PANELS, ("tiny", "other"))


def test_overlap_averages_the_matrices_of_a_layer() -> None:
    rng = np.random.default_rng(0)
    measures = [
        Measure("m", "model", "t", "g", seed, layer, "gradient_energy_collab", v, None, 8, part)
        for seed, layer, part in itertools.product((0, 1), (0, 1), ("gate", "up", "down"))
        for v in [float(rng.random())]
    ]
    (column,) = columns_of(measures, overlap.PANELS).values()
    (series,) = column.values()
    for layer in (0, 1):
        values = [m.value for m in measures if m.layer == layer]
        assert series.mean[layer] == pytest.approx(sum(values) / 6)
        assert (series.low[layer], series.high[layer]) == (min(values), max(values))
    assert (series.n_seeds, series.n_parts) == (2, 3)


@pytest.mark.parametrize("module", [agreement, structure, overlap, networks_clusters])
def test_lines_of_a_panel_are_told_apart_without_colour(module: object) -> None:
    for panel in module.PANELS:
        looks = [(line.style.marker, line.style.line) for line in panel.lines]
        assert len(set(looks)) == len(looks)
        assert len({marker for marker, _ in looks}) == len(looks)


def images(figure: Figure) -> dict[str, tuple[np.ndarray, Axes]]:
    """What the heat maps show, by the first title in their column and their row's label."""
    found, row, heads = {}, "", {}
    for ax in (ax for ax in panels(figure) if ax.images):
        column = ax.get_subplotspec().colspan.start
        heads[column] = ax.get_title(loc="left") or heads[column]
        row = ax.get_ylabel() or row
        found[f"{heads[column]}, {row.splitlines()[0]}"] = np.asarray(ax.images[0].get_array()), ax
    return found


def test_heat_maps_of_updates_show_sorted_shares_mean_over_seeds(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shares = {
        (method, fraction, seed): rng.random((3, 250)) ** power
        for power, (method, fraction) in enumerate(
            (("collab", 0.7), ("random", 0.5), ("collab", 0.5)), start=1
        )
        for seed in (0, 1)
    }
    paths = [
        Path(write_updates(tmp_path / f"run{i}", training(m, s, 1.2, fraction=p), share))
        for i, ((m, p, s), share) in enumerate(shares.items())
    ]
    shown = images(updates.drawing(paths, FigureSettings(kind="updates")).figure)
    assert list(shown) == ["Random, p = 0.5", "CollabMask, p = 0.5", "CollabMask, p = 0.7"]
    label = {"random": "Random", "collab": "CollabMask"}
    for method, fraction in dict.fromkeys(key[:2] for key in shares):
        values, ax = shown[f"{label[method]}, p = {fraction}"]
        assert values.shape == (3, updates.BINS) and ax.images[0].get_clim() == (0, 1)
        low, high = (segments.get_segments() for segments in ax.collections)
        ginis = []
        for layer in range(3):
            mine = [sorted(shares[method, fraction, s][layer].astype(np.float32)) for s in (0, 1)]
            mean = [statistics.fmean(pair) for pair in zip(*mine, strict=True)]
            edges = [round(250 * i / updates.BINS) for i in range(updates.BINS + 1)]
            bins = [statistics.fmean(mean[a:b]) for a, b in itertools.pairwise(edges)]
            assert values[layer] == pytest.approx(bins)
            uniform = statistics.fmean(mean)
            for segment, bound in ((low[layer], uniform - 0.1), (high[layer], uniform + 0.1)):
                below = sum(value < bound for value in mean) / 250
                assert segment.tolist() == [[below, layer - 0.5], [below, layer + 0.5]]
            ginis.append(statistics.fmean(slow_gini(seed_shares) for seed_shares in mine))
        words = f"{statistics.fmean(ginis):.2f}\n{min(ginis):.2f} to {max(ginis):.2f}"
        assert ax.get_xlabel() == f"neurons, %\nGini {words}"


def slow_gini(values: list[float]) -> float:
    """Half the mean difference of all pairs, over the mean."""
    differences = [abs(float(a) - float(b)) for a in values for b in values]
    return statistics.fmean(differences) / 2 / statistics.fmean(map(float, values))


def test_the_gini_coefficient_is_0_of_equal_shares_and_1_minus_p_of_all_or_nothing() -> None:
    rows = np.array([[0.3] * 10, [0] * 3 + [1] * 7, [0] * 10])
    assert updates.gini_of(rows) == pytest.approx([0, 0.3, 0])


def test_the_scale_of_updates_has_a_line_where_neurons_are_alike(tmp_path: Path) -> None:
    paths = []
    for fraction in (0.5, 0.7):
        share = np.full((2, 30), fraction)
        run = training("random", 0, 1.2, fraction=fraction)
        paths.append(Path(write_updates(tmp_path / f"{fraction}", run, share)))
    figure = updates.drawing(paths, FigureSettings()).figure
    bar = figure.axes[-1]
    assert sorted(line.get_ydata()[0] for line in bar.lines) == pytest.approx([0.5, 0.7])
    for values, ax in images(figure).values():
        assert values.shape == (2, 30) and np.ptp(values) == 0
        assert ax.get_xlabel().startswith("neurons, %\nGini 0.00")


def test_models_without_masks_are_left_out_of_updates_and_named(tmp_path: Path) -> None:
    write_runs(tmp_path, [training("sft", 0, 1.2, fraction=None), training("lora", 0, 1.2)])
    tuned = write_updates(tmp_path / "tuned", training("collab", 0, 1.2), np.ones((2, 30)))
    paths = [tmp_path / "run00", Path(tuned), tmp_path / "run01"]
    drawn = updates.drawing(paths, FigureSettings(methods=("sft", "lora", "collab")))
    assert drawn.summary == "1 panels; without records of masks: SFT, LoRA"
    assert "one run a panel" in note(drawn.figure)
    with pytest.raises(InputError, match="expected fine-tuned models .* found none; train a"):
        updates.drawing(paths[::2], FigureSettings())
    write_updates(tmp_path / "other", training("collab", 1, 1.2), np.ones((2, 31)))
    with pytest.raises(InputError, match="tiny, collab, p = 0.7: expected seeds of one model"):
        updates.drawing([paths[1], tmp_path / "other"], FigureSettings())


def test_models_and_methods_of_updates_stand_in_the_order_of_the_settings(tmp_path: Path) -> None:
    paths = []
    for model, method in itertools.product("ab", ("highest", "collab")):
        run = training(method, 0, 1.2)
        run = TrainingRecord(**vars(run) | {"run": Run(**vars(run.run) | {"model": model})})
        paths.append(Path(write_updates(tmp_path / (model + method), run, np.ones((2, 30)))))
    settings = FigureSettings(
        models=("b", "a"), model_labels=("B", "A"), methods=("collab", "highest")
    )
    figure = updates.drawing(paths, settings).figure
    assert list(images(figure)) == ["CollabMask, B", "Highest, B", "CollabMask, A", "Highest, A"]


def staged(method: str, task: str, stage: int, model: str = "a") -> TrainingRecord:
    found = training(method, 0, 1.0 + stage / 10, task, None)
    return replace(found, run=replace(found.run, model=model, stage=stage))


def test_validation_perplexity_has_a_row_a_model_and_a_column_a_task_or_stage() -> None:
    runs = [staged("sft", "code", 2, "b"), staged("lora", "math", 1), staged("sft", "code", 2)]
    runs.append(staged("sft", "math", 1))
    found = panels_of(runs, FigureSettings(models=("a", "b"), methods=("sft", "lora")))
    assert [(p.model, p.part, [c.method for c in p.curves]) for p in found] == [
        ("a", (1, "math"), ["sft", "lora"]),
        ("a", (2, "code"), ["sft"]),
        ("b", (2, "code"), ["sft"]),
    ]
    figure = perplexity.draw(found, {"math": "Word problems"})
    at = {ax.get_title(loc="left"): ax.get_subplotspec() for ax in panels(figure)}
    places = {name: (spec.rowspan.start, spec.colspan.start) for name, spec in at.items() if spec}
    assert places == {
        "a, Word problems, stage 1": (0, 0),
        "a, code, stage 2": (0, 1),
        "b, code, stage 2": (1, 1),
    }
    labelled = [ax.get_title(loc="left") for ax in panels(figure) if ax.get_ylabel()]
    assert labelled == ["a, Word problems, stage 1", "b, code, stage 2"]
    tasks = FigureSettings(tasks=("math", "code"))
    both = panels_of([staged("sft", "code", 1), staged("sft", "math", 1)], tasks)
    assert [panel.task for panel in both] == ["math", "code"]


def test_a_fraction_that_all_masked_methods_share_stands_in_the_note_alone() -> None:
    runs = [("sft", None), ("collab", 0.5), ("gmt", 0.5)]
    assert list(run_labels(runs).values()) == ["SFT", "CollabMask", "GMT"]
    assert shared_fraction(runs) == " Masked methods: p\u00a0=\u00a00.5."
    runs.append(("gmt", 0.7))
    assert list(run_labels(runs).values())[1:] == [
        *("CollabMask, p = 0.5", "GMT, p = 0.5", "GMT, p = 0.7"),
    ]
    assert shared_fraction(runs) == ""


def test_telemetry_is_the_mean_over_matrices_and_seeds_and_empty_where_nothing_is(
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(0)
    paths, records = [], []
    for seed in (0, 1):
        paths.append(tmp_path / str(seed))
        paths[-1].mkdir()
        write_training(paths[-1], training("collab", seed, 1.2))
        rows = [
            MaskRecord(step, layer, part, 0.7, None, step and rng.random(), rng.random(), None, 9)
            for step, layer, part in itertools.product((0, 4, 8), range(3), ("gate", "down"))
        ]
        rows = [replace(row, jaccard_last=row.jaccard_last or None) for row in rows]
        write_masks(paths[-1], rows)
        records += rows
    figure = telemetry.drawing(paths, FigureSettings(kind="telemetry")).figure
    drawn = {ax.get_ylabel(): image for ax in figure.axes for image in ax.images[:1]}
    last, highest = (np.ma.filled(image.get_array(), np.nan) for image in drawn.values())
    assert [" ".join(name.split()) for name in drawn] == [
        "overlap with the step before",
        "overlap with the largest gradients",
    ]
    assert np.isnan(last[:, 0]).all()
    for (layer, step), values in (((1, 4), last[1, 1]), ((2, 8), last[2, 2])):
        here = [r.jaccard_last for r in records if (r.layer, r.step) == (layer, step)]
        assert len(here) == 4 and values == pytest.approx(sum(here) / 4)  # type: ignore[arg-type]
    assert highest[0, 0] == pytest.approx(
        statistics.fmean(r.jaccard_highest or 0 for r in records if r.layer == r.step == 0)
    )
    assert next(iter(drawn.values())).get_extent() == [-2, 10, -0.5, 2.5], "steps stand at centres"
    with pytest.raises(InputError, match=r"telemetry: expected fine-tuned models .* masks.jsonl"):
        telemetry.drawing(paths, FigureSettings(methods=("sft",)))


def test_scores_have_two_rows_a_model(tmp_path: Path) -> None:
    paths = [tmp_path / f"{place}.safetensors" for place in range(4)]
    for place, path in enumerate(paths):
        write_histograms(path, histogram(place, SOURCES[place % 2]), "m")
    settings = FigureSettings(kind="scores", models=("a", "b"), layers=(1, 3))
    figure = scores.drawing(paths, settings).figure
    names = [ax.get_title(loc="left") for ax in panels(figure) if ax.get_title(loc="left")]
    assert names == [f"{model}, layer\u00a0{layer}" for model in "ab" for layer in (1, 3)]
    assert len(panels(figure)) == 2 * 2 * len(SCORES)
    of_b = scores.panels_of([histogram(2, SOURCES[0]), histogram(3, SOURCES[1])], (1, 3))
    first, last = scores.shown_bins(of_b[:2])
    own = of_b[0].counts[scores.LineKey(SOURCES[0])]
    values, _ = next(stairs(panels(figure)[4]))
    assert values == pytest.approx(own[first:last] / own.sum())
    with pytest.raises(InputError, match="as many histograms of each of 2, found 3"):
        scores.drawing(paths[:3], settings)


def stairs(ax: Axes) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for patch in ax.patches:
        if isinstance(patch, StepPatch):
            data = patch.get_data()
            yield data.values, data.edges


def test_score_histograms_are_shares_of_a_sources_files_with_the_rest_counted() -> None:
    found = [histogram(0, "model"), histogram(1, "model", beyond=40), histogram(2, "random-init")]
    drawn = scores.panels_of(found, (1, 3))
    assert [(panel.score, panel.layer) for panel in drawn] == [
        *(("published", 1), ("published", 3), ("unbiased", 1), ("unbiased", 3)),
    ]
    outside = dict.fromkeys(scores.LINES, 0)
    axes = panels(scores.draw(drawn, len(found)))
    for panel, ax in zip(drawn, axes, strict=True):
        assert [(line.source, line.partition) for line in panel.counts] == [
            *(("model", "clusters"), ("random-init", "clusters"), ("model", "parameters")),
        ]
        for line, (values, edges) in zip(panel.counts, stairs(ax), strict=True):
            mine = [f.layers[panel.layer] for f in found if f.source == line.source]
            whole = sum(layer[line.partition, panel.score] for layer in mine)
            bins = np.round(edges * BINS / HIGHEST).astype(int)
            assert edges == pytest.approx(bins * HIGHEST / BINS)
            assert values == pytest.approx(whole[bins[:-1]] / whole.sum())
            assert edges[0] < 1 < edges[-1]
            left = whole.sum() - whole[bins[:-1]].sum()
            outside[line] += left
    counted = {line.label: n for line, n in outside.items() if n}
    text = note(axes[0].figure)
    assert all(f"{label} {n:,} of" in text for label, n in counted.items())
    assert counted["model"] >= 4 * (40 + 3)


def test_the_axis_of_scores_leaves_out_no_more_than_the_tails() -> None:
    found = [histogram(seed, source) for seed, source in enumerate(SOURCES)]
    drawn = [panel for panel in scores.panels_of(found) if panel.score == "unbiased"]
    assert [panel.layer for panel in drawn] == [0, 1, 3, 4]
    first, last = scores.shown_bins(drawn)
    assert first > 0 and last < BINS
    for panel in drawn:
        for counts in panel.counts.values():
            assert counts[:first].sum() <= scores.TAIL * counts.sum()
            assert counts[last:].sum() <= scores.TAIL * counts.sum()


def test_score_histograms_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(InputError, match="found 4 to 5 layers"):
        scores.panels_of(
            [histogram(0, "model"), ScoreHistograms(histogram(0, "model").layers[:4], "model")]
        )
    with pytest.raises(InputError, match="found 'twin'"):
        scores.panels_of([histogram(0, "twin")])
    with pytest.raises(InputError, match="expected numbers from 0 to 4, found 5"):
        scores.panels_of([histogram(0, "model")], (5,))
    empty = {
        key: np.zeros(BINS + 1, dtype=np.int64) for key in itertools.product(PARTITIONS, SCORES)
    }
    with pytest.raises(InputError, match="expected scored tokens"):
        scores.panels_of([ScoreHistograms([empty], "model")])


def test_activations_are_drawn_by_sign_and_their_shares_are_of_all_tokens(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(-0.3, 1, size=(3, 200, 11)).astype(np.float32)
    write_dump(tmp_path / "dump", values, 50)
    dump = open_dump(tmp_path / "dump")
    panel = activations.panel_of(dump, 1, "m")
    assert [neuron.number for neuron in panel.neurons] == [0, 2, 4, 6, 8, 10]
    drawn = panels(activations.draw([[panel]], False))[0]
    edges = activations.bin_edges(panel)
    assert 0 in edges
    patches = list(stairs(drawn))
    for row, neuron in enumerate(panel.neurons):
        mine = values[1][dump.sampled_tokens, neuron.number].astype(np.float16)
        assert np.array_equal(neuron.values, mine.astype(np.float32))
        assert neuron.activated_share == pytest.approx((values[1][:, neuron.number] > 0).mean())
        heights = [patches[2 * row + side][0] - (5 - row) for side in (0, 1)]
        whole = np.array([sum((mine > a) & (mine <= b)) for a, b in itertools.pairwise(edges)])
        assert np.concatenate(heights) == pytest.approx(activations.RIDGE * whole / whole.max())
        assert patches[2 * row + 1][1][0] == pytest.approx(0)
    shares = [text.get_text() for text in drawn.texts]
    assert shares == [f"{100 * neuron.activated_share:.0f} %" for neuron in panel.neurons]


def test_values_beyond_the_axis_of_activations_are_counted() -> None:
    values = np.append(np.linspace(-1, 1, 998), [50, 60]).astype(np.float32)
    panel = activations.Panel("m", 0, (activations.Neuron(0, values, 0.5),), 1_000)
    assert "1 of 1,000 values lie beyond" in note(activations.draw([[panel]], False))


def test_values_of_exactly_zero_are_not_drawn_as_activated() -> None:
    relu = np.array([0, 0, 0, 0.5, 1], dtype=np.float32)
    for values, activated in ((relu, 2), (relu * 0, 0)):
        panel = activations.Panel("m", 0, (activations.Neuron(0, values, 0.4),), 5)
        edges = activations.bin_edges(panel)
        counts = activations.counts_of(values, edges)
        assert counts[edges[:-1] >= 0].sum() == activated
        assert counts.sum() == 5
        assert "0 of 5 values lie beyond" in note(activations.draw([[panel]], False))


@pytest.mark.parametrize("beta", [0.0, 0.65, 1.3, 80.0])
def test_influence_is_the_share_of_the_token_weight_up_to_a_rank(beta: float) -> None:
    counts = np.random.default_rng(0).zipf(1.4, 300).clip(0, 500)
    counts[::7] = 0
    found = influence.influence_of(statistics_of(counts), beta)
    data = np.repeat(np.arange(300), counts)
    rank_of = statistics_of(counts).ranks
    weights = [(rank_of[token] / rank_of.max()) ** beta for token in data]
    assert list(found.ranks) == sorted(set(rank_of[data]))
    reached = {}
    for rank, share in zip(found.ranks, found.cumulated, strict=True):
        up_to = sum(w for token, w in zip(data, weights, strict=True) if rank_of[token] <= rank)
        assert share == pytest.approx(up_to / sum(weights))
        for quantile in (0.2, 0.8):
            if up_to / sum(weights) >= quantile:
                reached.setdefault(quantile, rank)
    assert found.band == (reached[0.2], reached[0.8])


def test_the_band_of_influence_is_exact_where_shares_are() -> None:
    ten_alike_but_for_order = TokenStatistics(np.full(10, 7), np.arange(1.0, 11))
    assert influence.influence_of(ten_alike_but_for_order, 0.0).band == (2, 8)


def test_influence_is_drawn_as_it_was_computed(tmp_path: Path) -> None:
    found = statistics_of(np.array([50, 20, 20, 5, 3, 0, 1]))
    write_statistics(tmp_path / "tokens.safetensors", found, "m")
    settings = FigureSettings(kind="influence", betas=(0.0, 1.3))
    upper, lower = panels(influence.drawing([tmp_path / "tokens.safetensors"], settings).figure)
    for place, beta in enumerate(settings.betas):
        wanted = influence.influence_of(found, beta)
        assert np.array_equal(upper.lines[place].get_xdata(), wanted.ranks)
        assert np.array_equal(upper.lines[place].get_ydata(), wanted.cumulated)
        assert tuple(lower.lines[2 * place].get_xdata()) == wanted.band
    assert upper.get_xscale() == "log"


def test_planted_clusters_lie_apart_in_the_plane_the_same_way_each_time() -> None:
    layer = layer_clusters([40, 30, 20], 4)
    panel = clusters.panel_of(layer, 0, "m")
    assert (len(panel.places), panel.n_clusters, panel.isolated) == (90, 3, 4)
    gaps = np.linalg.norm(panel.places[:, None] - panel.places, axis=2)
    np.fill_diagonal(gaps, np.inf)
    assert np.array_equal(panel.labels[gaps.argmin(axis=1)], panel.labels)
    assert np.array_equal(clusters.panel_of(layer, 0, "m").places, panel.places)


def test_the_largest_clusters_have_a_look_of_their_own_and_the_others_are_grey() -> None:
    sizes = [9, 8, 7, 6, 5, 4, 4, 3, 2, 2, 1]
    panel = clusters.panel_of(layer_clusters(sizes, 0), 0, "m")
    figure = clusters.draw([[panel]], False)
    others, *largest = panels(figure)[0].collections
    assert [len(points.get_offsets()) for points in reversed(largest)] == sizes[:8]
    assert len(others.get_offsets()) == sum(sizes[8:])
    assert len({tuple(points.get_facecolor()[0]) for points in largest}) == 8
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["cluster 0", *"1234567", "others"]


@pytest.mark.parametrize("sizes", [[], [1], [2, 1], [3, 2], [4, 3]])
def test_layers_of_few_connected_neurons_are_drawn(sizes: list[int]) -> None:
    panel = clusters.panel_of(layer_clusters(sizes, 3), 0, "m")
    assert panel.places.shape == (sum(sizes), 2) and np.isfinite(panel.places).all()
    shown = panels(clusters.draw([[panel]], False))[0]
    assert shown.get_xlabel().startswith(f"{sum(sizes)} neurons in {len(sizes)} clusters")


def test_neurons_of_few_places_are_drawn() -> None:
    assert np.array_equal(clusters.plane_of(np.ones((50, 1))), [[1, 0]] * 50)
    assert np.isfinite(clusters.plane_of(np.repeat(np.eye(6), 40, axis=0))).all()


def test_numbers_are_evenly_spaced_with_both_ends() -> None:
    assert evenly_spaced(32, 4) == [0, 10, 21, 31]
    assert evenly_spaced(3, 4) == [0, 1, 2]
    assert evenly_spaced(1, 4) == [0]
    assert chosen_layers((5, 2), 6, "x") == [5, 2]


@pytest.mark.parametrize(
    ("kind", "extra", "message"),
    [
        ("sweep", ["--axes", "k"], "axes: expected one for each of 4 inputs, found 1"),
        ("sweep", ["--values", "1", "2"], "values: expected one for each of 4 inputs, found 2"),
        ("agreement", ["--models", "other"], "expected measures of other such as adjusted_rand"),
        ("scores", ["--layers", "7"], "layers: expected numbers from 0 to 4, found 7"),
        ("activations", ["--layers", "2"], "layers: expected numbers from 0 to 1, found 2"),
        ("influence", ["--models", "a", "b"], "models: expected one for each of 1 inputs, found 2"),
        ("influence", ["--betas"], "betas: expected at least one exponent, found none"),
        ("influence", ["--betas", "-1"], "betas: expected a value at least 0"),
        ("clusters", ["--layers", "-1"], "layers: expected numbers from 0 to 1, found -1"),
        ("perplexity", ["--models", "other"], "other: expected training records"),
        ("updates", ["--methods", "sft"], "updates: expected fine-tuned models of the figure's"),
    ],
)
def test_settings_that_do_not_fit_the_inputs_are_refused(
    inputs: dict[str, list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    extra: list[str],
    message: str,
) -> None:
    assert figure(kind, [*inputs[kind], *extra], tmp_path / "f.pdf") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "f.pdf").exists()


def test_inputs_that_hold_nothing_to_draw_are_refused(
    inputs: dict[str, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dump(tmp_path / "bits", np.ones((1, 70, 4), dtype=np.float32), 0)
    write_statistics(tmp_path / "none.safetensors", statistics_of(np.zeros(4, dtype=int)), "m")
    (tmp_path / "empty.jsonl").write_text("")
    broken = layer_clusters([4, 3], 0)
    broken.embedding[0] = np.nan
    write_clusters(tmp_path / "broken.safetensors", Clusters([broken], 7), "m")
    assert figure("clusters", [str(tmp_path / "broken.safetensors")], tmp_path / "f.pdf") == 2
    assert "expected finite embeddings" in capsys.readouterr().err
    wrong = {
        "activations": ("bits", "capture with --sampled-tokens"),
        "influence": ("none.safetensors", "expected tokens that occur, found none"),
        "structure": ("empty.jsonl", "found none of them"),
        "clusters": ("tokens.safetensors", "expected clusters of schema 1, found token-statistics"),
        "scores": ("absent.safetensors", "no such file or folder"),
    }
    for kind, (name, message) in wrong.items():
        assert figure(kind, [str(tmp_path / name)], tmp_path / "f.pdf") == 2
        error = capsys.readouterr().err
        assert message in error and len(error.splitlines()) == 1
