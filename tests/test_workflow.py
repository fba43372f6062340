"""The workflow: what is planned, what is run again after a change, and a whole tiny run."""

import csv
import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from clock import starts
from workflow_runs import LABEL, SMOKE, TARGET, copy_tree, planned, snakemake

from fnsft.artifacts.measures import read_measures
from fnsft.artifacts.storage import size_of
from fnsft.artifacts.training import read_training
from fnsft.cli.main import main

pytestmark = pytest.mark.workflow

THREE_SEEDS = ("--configfile", "workflow/configs/three-seeds.yaml")


def test_the_workflow_is_as_snakemakes_linter_wants_it(repository: Path) -> None:
    done = snakemake(repository, "--lint")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_finished_experiment_has_nothing_to_do(finished: Path) -> None:
    assert planned(finished) == {}


def test_a_plans_disk_is_within_a_quarter_of_what_a_run_leaves(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(finished)
    words = ["plan", "--configfile", *SMOKE, "--machine", "cpu", "--all", "--json", "--", TARGET]
    assert main(words) == 0
    planned_bytes = json.loads(capsys.readouterr().out)["kept"]
    aside = ("logs", "benchmarks")  # beside what the stages write
    results = finished / "results/smoke"
    left = sum(size_of(path) for path in results.iterdir() if path.name not in aside)
    assert 0.75 * left <= planned_bytes <= 1.25 * left


def test_a_plan_counts_what_is_left_alone(
    finished: Path, overlay, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(finished)
    changed = str(overlay(graphs={"paper": {"alpha": 1.0}}))
    for overlays in ([], [changed]):
        words = ["plan", "--configfile", *SMOKE, *overlays, "--machine", "cpu", "--json"]
        assert main([*words, "--", TARGET]) == 0
        rows = json.loads(capsys.readouterr().out)["rows"]
        assert {row["rule"]: row["jobs"] for row in rows} == planned(finished, *overlays)


def test_a_table_has_a_value_for_every_method_and_fraction(finished: Path) -> None:
    rows = list(csv.DictReader((finished / "results/table1.csv").open()))
    found = {(row["method"], row["fraction"]) for row in rows if row["model"] == LABEL}
    wanted = {("base", ""), ("sft", ""), ("lora", "")}
    wanted |= {(method, "0.5") for method in ("gmt", "collab", "shuffled")}
    assert found == wanted


def test_another_alpha_projects_again_and_never_captures(finished: Path, overlay) -> None:
    plan = planned(finished, overlay(graphs={"paper": {"alpha": 1.0}}))
    assert plan == {"project": 1, "train": 2, "evaluate": 2, "table": 1, "publish_table": 1}


def test_another_beta_projects_again_and_never_captures(finished: Path, overlay) -> None:
    plan = planned(finished, overlay(graphs={"paper": {"beta": 1.0}}))
    assert plan == {"project": 1, "train": 2, "evaluate": 2, "table": 1, "publish_table": 1}


def test_swapping_alpha_and_beta_is_noticed(finished: Path, overlay) -> None:
    plan = planned(finished, overlay(graphs={"paper": {"alpha": 1.3, "beta": 2.5}}))
    assert plan["project"] == 1


def test_another_k_trains_again_and_never_projects(finished: Path, overlay) -> None:
    plan = planned(finished, overlay(methods={"collab": {"k": 10}}))
    assert plan == {"train": 1, "evaluate": 1, "table": 1, "publish_table": 1}


def test_one_method_more_trains_that_method_alone(finished: Path, overlay) -> None:
    plan = planned(finished, overlay(run={"methods": ["sft", "lora", "random", "gmt", "collab"]}))
    assert plan == {"train": 1, "evaluate": 1, "table": 1, "publish_table": 1}


def test_the_figure_of_updates_trains_methods_with_masks_alone(finished: Path, overlay) -> None:
    fresh = overlay(experiment="another")
    assert planned(finished, fresh, target="results/figures/neuron_updates.pdf")["train"] == 3


def test_one_seed_more_runs_that_seed_alone(finished: Path, overlay) -> None:
    plan = planned(finished, overlay(run={"seeds": [0, 1]}))
    new = {"prepare": 1, "statistics": 1, "capture": 1, "project": 1, "train": 5, "evaluate": 5}
    assert plan == new | {"table": 1, "publish_table": 1}


def test_a_stages_raised_version_runs_it_again(finished: Path, tmp_path: Path) -> None:
    tree = tmp_path / "raised"
    shutil.copytree(finished, tree, symlinks=True)
    source = tree / "fnsft/config/stages/training.py"
    line = '    stage: ClassVar[str] = "evaluate"\n    version: ClassVar[int] = 2\n'
    text = source.read_text()
    assert line in text
    source.write_text(text.replace(line, line.replace("2", "3")))
    plan = planned(tree)
    assert plan == {"evaluate": 5, "evaluate_base": 1, "table": 1, "publish_table": 1}


FIGURES = [
    "agreement_by_layer",
    "structure_by_layer",
    "mask_overlap",
    "neuron_updates",
    "scores",
    "clusters",
    "activations",
    "token_influence",
    "sweep_k_beta",
]
GRAPH_TARGETS = ["results/table3.tex", *(f"results/figures/{name}.pdf" for name in FIGURES)]


@pytest.fixture(scope="module")
def graphs(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An overlay whose Table 3 and figures of graphs have been made in the finished tree."""
    config = {
        "tables": {
            "table3": {
                "methods": ["collab", "no-knn", "collab-cluster"],
                "controls": ["cluster-shuffled"],
            }
        },
        "figures": {"sweep_k_beta": {"ks": [5], "betas": [0.0], "controls": []}},
    }
    path = tmp_path_factory.mktemp("overlay") / "graphs.yaml"
    path.write_text(yaml.safe_dump(config))
    arguments = ["--profile", "cpu", "--configfile", *SMOKE, str(path), "--", *GRAPH_TARGETS]
    done = snakemake(finished, *arguments)
    assert done.returncode == 0, done.stderr
    return path


@pytest.mark.slow
def test_table_3_and_the_figures_of_graphs_are_made(finished: Path, graphs: Path) -> None:
    rows = list(csv.DictReader((finished / "results/table3.csv").open()))
    found = {row["method"] for row in rows if row["value"]}
    assert found == {"base", "collab", "no-knn", "collab-cluster", "cluster-shuffled"}
    for name in FIGURES:
        for suffix in (".pdf", ".png"):
            assert (finished / f"results/figures/{name}{suffix}").stat().st_size > 5_000
    assert all(planned(finished, graphs, target=target) == {} for target in GRAPH_TARGETS[:2])


@pytest.mark.slow
def test_both_controls_are_measured_beside_the_model(finished: Path, graphs: Path) -> None:
    folder = finished / "results/smoke/neurons"
    own = folder / "tiny/math/seed0/measures"
    twin = folder / "tiny+twin/math/seed0/measures"
    files = [own / "paper.jsonl", twin / "paper.jsonl", own / "paper+null.jsonl"]
    names = []
    for path, source in zip(files, ("model", "random-init", "token-shuffled"), strict=True):
        measures = read_measures([path])
        assert {(m.model, m.source, m.task) for m in measures} == {("tiny", source, "math")}
        assert {m.layer for m in measures} == {0, 1, 2, 3}
        names.append({m.measure for m in measures})
    wanted = {"score_over_null_unbiased", "adjusted_rand_halves", "adjusted_rand_datasets"}
    assert all(wanted <= found for found in names)


@pytest.mark.slow
def test_another_clustering_projects_nothing_and_trains_its_methods_alone(
    finished: Path, graphs: Path, overlay
) -> None:
    other = overlay(clustering={"n_clusters": 8})
    plan = planned(finished, graphs, other, target="results/table3.tex")
    table = {"table": 1, "publish_table": 1}
    assert plan == {"cluster": 1, "train": 2, "evaluate": 2} | table
    figure = "results/figures/agreement_by_layer.pdf"
    plan = planned(finished, graphs, other, target=figure)
    assert plan == {"cluster": 12, "measure": 3, "figure": 1, "publish_figure": 1}


NETWORK_FIGURES = [
    "connectivity",
    "network_coverage",
    "lesion_curves",
    "networks_and_clusters",
    "selective_curves",
]
NETWORK_TABLES = ["results/table_networks.tex", "results/table_selective.tex"]
NETWORK_TARGETS = [*NETWORK_TABLES, *(f"results/figures/{name}.pdf" for name in NETWORK_FIGURES)]


@pytest.fixture(scope="module")
def networks(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An overlay whose tables and figures of networks have been made in the finished tree."""
    methods = ["sft", "sft-lesion", "sft-freeze", "lora", "lora-preserve"]
    config = {
        "networks": {"ica": {"n_components": 5, "restarts": 2, "samples": 20}},
        "lesions": {"random_draws": 2, "samples": 4, "cloze_limit": 10, "unmask_shares": [0.5]},
        "tables": {"table_selective": {"methods": methods, "controls": ["sft-lesion-random"]}},
        "figures": {"selective_curves": {"methods": methods}},
    }
    path = tmp_path_factory.mktemp("overlay") / "networks.yaml"
    path.write_text(yaml.safe_dump(config))
    arguments = ["--profile", "cpu", "--configfile", *SMOKE, str(path), "--", *NETWORK_TARGETS]
    done = snakemake(finished, *arguments)
    assert done.returncode == 0, done.stderr
    return path


@pytest.mark.slow
def test_the_tables_and_figures_of_networks_are_made(finished: Path, networks: Path) -> None:
    for target in NETWORK_TABLES:
        assert list(csv.DictReader((finished / target).with_suffix(".csv").open()))
        assert planned(finished, networks, target=target) == {}
    for name in NETWORK_FIGURES:
        for suffix in (".pdf", ".png"):
            assert (finished / f"results/figures/{name}{suffix}").stat().st_size > 5_000


@pytest.mark.slow
def test_models_with_a_forward_mask_alone_are_scored_without_it_too(
    finished: Path, networks: Path
) -> None:
    folder = finished / "results/smoke/metrics/tiny/math"
    off = {path.parent.name for path in folder.rglob("*.mask-off.jsonl")}
    assert off == {"sft-lesion", "lora-preserve", "sft-lesion-random"}


@pytest.mark.slow
def test_another_number_of_networks_finds_them_anew_and_trains_their_methods_alone(
    finished: Path, networks: Path, overlay
) -> None:
    other = overlay(networks={"ica": {"n_components": 6}})
    plan = planned(finished, networks, other, target="results/table_selective.tex")
    table = {"table": 1, "publish_table": 1}
    runs = {"train": 4, "evaluate": 4, "evaluate_without_mask": 3}
    assert plan == {"networks": 1} | runs | table
    plan = planned(finished, networks, other, target="results/table_networks.tex")
    assert plan == {"networks": 1, "lesion": 1} | table


@pytest.mark.slow
def test_other_lesions_train_nothing(finished: Path, networks: Path, overlay) -> None:
    other = overlay(lesions={"random_draws": 3})
    plan = planned(finished, networks, other, target="results/table_networks.tex")
    assert plan == {"lesion": 1, "table": 1, "publish_table": 1}


def test_switching_the_experiment_and_back_retrains_nothing(finished: Path, overlay) -> None:
    plan = planned(finished, overlay(experiment="another"))
    assert plan["train"] == 5
    assert planned(finished) == {}


def test_a_run_says_what_it_does_and_what_is_left(finished: Path, overlay) -> None:
    smaller = overlay(run={"methods": ["sft"], "controls": []})
    arguments = ["--profile", "cpu", "--configfile", *SMOKE, str(smaller), "--", TARGET]
    done = snakemake(finished, *arguments)
    assert done.returncode == 0, done.stderr
    assert re.search(r"\[ *0/2\] start  make table1", done.stderr)
    assert re.search(r"\[ *1/2\] done   make table1 in \d+ s", done.stderr)
    arguments = ["--profile", "cpu", "--configfile", *SMOKE, "--", TARGET]
    assert snakemake(finished, *arguments).returncode == 0


def test_a_failing_job_shows_its_reason_and_leaves_nothing(finished: Path, overlay) -> None:
    broken = overlay(experiment="broken", tasks={"math": {"n_train": 10_000}})
    arguments = ["--profile", "cpu", "--configfile", *SMOKE, str(broken), "--"]
    done = snakemake(finished, *arguments, "results/broken/data/math/seed0/train.jsonl")
    assert done.returncode == 1
    assert "n_train: expected at most" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (finished / "results/broken/data/math/seed0/train.jsonl").exists()


@pytest.mark.slow
def test_real_weights_and_real_problems_go_the_same_way(
    repository: Path, shared_data: Path, tmp_path: Path
) -> None:
    """The configuration of SmolLM2 on a trained model of 260 thousand parameters."""
    tree = copy_tree(repository, tmp_path / "clone")
    overlay = tmp_path / "stories.yaml"
    model = {"origin": "folder", "name": str(shared_data / "models/stories260k")}
    config = {
        "run": {"models": ["stories"]},
        "models": {"stories": model},
        "tasks": {"gsm8k-local": {"n_train": 32, "n_validation": 8, "n_test": 8}},
        "training": {"max_tokens": 512},
        "evaluation": {"max_new_tokens": 8, "gsm8k_limit": 4},
    }
    overlay.write_text(yaml.safe_dump(config))
    arguments = ["--profile", "cpu", "--configfile", "workflow/configs/smollm2.yaml", str(overlay)]
    done = snakemake(tree, *arguments, "--config", f"data_dir={shared_data}", "--", TARGET)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((tree / "results/table1.csv").open()))
    assert {row["method"] for row in rows} == {"base", "sft", "collab"}
    runs = tree / "results/smollm2/runs/stories/gsm8k-local"
    for variant in ("sft", "collab-p0.5"):
        curve = read_training(runs / variant / "seed0").validation
        assert curve[-1]["loss"] < curve[0]["loss"], variant


def test_data_that_is_fetched_again_unchanged_leaves_everything_as_it_is(
    repository: Path, tmp_path: Path, overlay
) -> None:
    tree = copy_tree(repository, tmp_path / "tree")
    rows = [{"question": f"{i} + {i}?" * 9, "answer": f"#### {2 * i}"} for i in range(20_000)]
    lines = [json.dumps(row) for row in rows]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(lines))
    assert file.stat().st_size > 2e6  # of files below 1 MB Snakemake compares contents by itself
    sums = {"origin": "folder", "train": file.name, "test": None, "format": "gsm8k"}
    sizes = {"n_train": 8, "n_validation": 8, "n_test": 8}
    config = overlay(data_dir=str(tmp_path), tasks={"sums": sums | sizes}, run={"task": "sums"})
    target = "results/smoke/data/sums/seed0/train.jsonl"
    arguments = ["--profile", "cpu", "--configfile", *SMOKE, str(config)]
    done = snakemake(tree, *arguments, "--", target)
    assert done.returncode == 0, done.stderr
    file.touch()
    assert planned(tree, config, target=target) == {}
    file.write_text("\n".join(lines[::-1]))
    assert planned(tree, config, target=target) == {"prepare": 1}


def test_a_missing_data_file_is_named_before_anything_is_planned(
    repository: Path, tmp_path: Path
) -> None:
    arguments = ["-n", "--configfile", "workflow/configs/smollm2.yaml"]
    done = snakemake(repository, *arguments, "--config", f"data_dir={tmp_path}", "--", TARGET)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.startswith("configuration: ")]
    assert lines[0].startswith(f"configuration: {tmp_path}/gsm8k/train.jsonl: no such file")
    assert "Traceback" not in done.stderr


def test_a_missing_file_of_a_benchmark_is_named_before_anything_is_run(
    repository: Path, shared_data: Path, tmp_path: Path
) -> None:
    (tmp_path / "gsm8k").symlink_to(shared_data / "gsm8k")
    arguments = ["-n", "--nolock", "--configfile", "workflow/configs/smollm2.yaml", "--config"]
    target = "results/table_benchmarks.tex"
    done = snakemake(repository, *arguments, f"data_dir={tmp_path}", "--", target)
    assert done.returncode == 2
    assert f"configuration: {tmp_path}/humaneval/HumanEvalPlus.jsonl.gz: no such" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_typo_in_the_configuration_is_one_line_and_exit_code_2(repository: Path, overlay) -> None:
    done = snakemake(repository, "-n", "--configfile", str(overlay(graphs={"paper": {"alhpa": 1}})))
    assert done.returncode == 2
    assert "graphs.paper: unknown key 'alhpa'; did you mean 'alpha'?" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("profile", ["cpu", "cuda", "mps", "slurm"])
def test_every_profile_plans_tables_1_and_2(repository: Path, profile: str) -> None:
    arguments = ["--profile", profile, "-n", "--forceall", "--nolock"]
    for target in (TARGET, "results/table2.tex"):
        done = snakemake(repository, *arguments, target)
        assert done.returncode == 0, done.stderr
        assert re.search(r"^train +\d+$", done.stderr + done.stdout, re.M)


def test_every_table_and_figure_of_the_papers_is_planned(repository: Path) -> None:
    config = yaml.safe_load((repository / "config.yaml").read_text())
    targets = [f"results/{name}.tex" for name in config["tables"]]
    targets += [f"results/figures/{name}.pdf" for name in config["figures"]]
    done = snakemake(repository, "-n", "--nolock", *targets)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("target", "trainings"),
    [
        ("table1.tex", 4 * (3 + 5 * 2)),  # models by methods, of which five at two fractions
        ("figures/perplexity_by_task.pdf", 3 * 3 * (2 + 5 * 2)),  # models by tasks by methods
        # Of 16 methods, five share plain fine-tuning's first stage, and one that of collab.
        ("figures/continual_perplexity.pdf", 4 * (10 + 16)),
        ("figures/mask_telemetry.pdf", 4 * 5),
    ],
)
def test_every_model_task_and_stage_of_a_selection_is_trained(
    repository: Path, target: str, trainings: int
) -> None:
    done = snakemake(repository, "-n", "--forceall", "--nolock", f"results/{target}")
    assert done.returncode == 0, done.stderr
    (found,) = set(re.findall(r"^train +(\d+)$", done.stderr + done.stdout, re.M))
    assert int(found) == trainings


@pytest.mark.parametrize(
    ("words", "at_most"),  # measured: 15 starts, and 50
    [
        ([], 30),  # Table 1 and a figure
        pytest.param([*THREE_SEEDS, "--", "paper"], 100, marks=pytest.mark.slow),  # 5,115 jobs
    ],
)
def test_planning_the_papers_takes_seconds(
    repository: Path, words: list[str], at_most: float
) -> None:
    def plan() -> None:
        done = snakemake(repository, "-n", "--nolock", "--quiet", *words)
        assert done.returncode == 0, done.stderr

    assert starts(plan, at_most) <= at_most


def plan_of_fetch(tree: Path, *arguments: str) -> dict[str, int]:
    """Return how often each rule would run to bring what the network gives."""
    done = snakemake(tree, "-n", *arguments, "--", "fetch")
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^(\w+) +(\d+)$", done.stderr + done.stdout, re.M)
    return {rule: int(n) for rule, n in rows if rule not in ("total", "fetch")}


def test_fetch_brings_what_the_configuration_needs_and_nothing_else(repository: Path) -> None:
    config = yaml.safe_load((repository / "config.yaml").read_text())
    files = sum(2 - ("test" in task) for task in config["tasks"].values())
    asked = [entry for entry in config["benchmarks"].values() if entry["origin"] != "task"]
    brought = {"fetch_model": len(config["models"]), "fetch_data": files}
    brought["fetch_benchmark"] = sum(1 + ("examples" in entry) for entry in asked)
    assert plan_of_fetch(repository) == brought
    assert plan_of_fetch(repository, "--configfile", *SMOKE) == {}


def test_fetch_takes_registered_data_and_a_changed_registry_is_noticed(
    repository: Path, tmp_path: Path, overlay
) -> None:
    tree = copy_tree(repository, tmp_path / "tree")
    rows = '{"question": "1+1?", "answer": "2"}\n'
    (tmp_path / "rows.jsonl").write_text(rows)
    digest = hashlib.sha256(rows.encode()).hexdigest()
    registry = tmp_path / "registry.yaml"
    registry.write_text(yaml.safe_dump({"org/sums": {"path": "rows.jsonl", "sha256": digest}}))
    sums = {"origin": "hub", "name": "org/sums", "format": "gsm8k", "test": None}
    config = overlay(data_dir=str(tmp_path), tasks={"sums": sums}, run={"task": "sums"})
    arguments = ["--configfile", *SMOKE, str(config)]
    assert plan_of_fetch(tree, *arguments) == {"fetch_data": 1}
    done = snakemake(tree, "--cores", "1", *arguments, "--", "fetch")
    assert done.returncode == 0, done.stderr
    assert (tree / "results/smoke/sources/sums/train.jsonl").read_text() == rows
    assert plan_of_fetch(tree, *arguments) == {}
    registry.write_text(registry.read_text() + "# checked again\n")
    assert plan_of_fetch(tree, *arguments) == {"fetch_data": 1}
