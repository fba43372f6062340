"""Tables 4 and 5 in the workflow: what is planned for them, and what a configuration may ask."""

from pathlib import Path

import pytest
import yaml
from workflow_runs import SMOKE, copy_tree, planned, snakemake

from fnsft.config.checks import check
from fnsft.config.experiment import Experiment
from fnsft.config.needs import Needs, needs_of
from fnsft.errors import InputError

TARGETS = ("results/table4.tex", "results/table5.tex")


@pytest.fixture(scope="module")
def tree(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository in which nothing has run."""
    return copy_tree(repository, tmp_path_factory.mktemp("clone"))


@pytest.mark.workflow
@pytest.mark.parametrize("target", TARGETS)
def test_both_controls_are_described_and_compared_beside_the_model(tree: Path, target: str) -> None:
    plan = planned(tree, target=target)
    wanted = {"twin": 1, "describe": 2, "project": 3, "similarity": 3, "table": 1}
    assert {rule: plan.get(rule) for rule in wanted} == wanted
    assert "train" not in plan and "evaluate_base" not in plan


@pytest.mark.workflow
def test_a_model_with_a_database_is_described_by_it_and_has_no_twin(tree: Path, overlay) -> None:
    (tree / "published rows.jsonl").write_text("")
    published = overlay(models={"tiny": {"descriptions": "published rows.jsonl"}})
    plan = planned(tree, published, target=TARGETS[0])
    wanted = {"describe": 1, "project": 2, "similarity": 2, "table": 1}
    assert {rule: plan.get(rule) for rule in wanted} == wanted and "twin" not in plan
    arguments = (
        "-np",
        "--quiet",
        "host",
        "--profile",
        "cpu",
        "--configfile",
        *SMOKE,
        str(published),
    )
    done = snakemake(tree, *arguments, "--", TARGETS[0])
    assert "--database 'published rows.jsonl'" in done.stdout + done.stderr


@pytest.mark.workflow
def test_a_database_that_is_not_there_is_named_before_anything_runs(tree: Path, overlay) -> None:
    missing = overlay(models={"tiny": {"descriptions": "gone.parquet"}})
    done = snakemake(
        tree, "-n", "--profile", "cpu", "--configfile", *SMOKE, str(missing), "--", TARGETS[0]
    )
    assert done.returncode != 0
    assert "gone.parquet: no such file or folder" in done.stderr


@pytest.fixture
def papers(repository: Path) -> dict:
    return yaml.safe_load((repository / "config.yaml").read_text())


def test_a_graph_of_too_few_neighbours_and_a_dense_one_are_refused(papers: dict) -> None:
    papers["tables"]["table4"]["graph"] = "no_knn"
    with pytest.raises(InputError, match="tables.table4: expected a graph of 5 neighbours"):
        check(Experiment(papers))
    papers["tables"]["table4"]["graph"] = "paper"
    papers["similarity"]["k"] = 65
    with pytest.raises(InputError, match="keeps 64"):
        check(Experiment(papers))


def test_what_the_tables_need_are_their_models_and_tasks_and_no_networks(papers: dict) -> None:
    run = papers["run"] | {"models": ["qwen3-8b"], "methods": ["sft"], "controls": []}
    networks = {"ica": papers["networks"]["ica"] | {"also": ["medical-o1"]}}
    config = papers | {"run": run, "figures": {}, "networks": networks}
    config["tables"] = {"table4": papers["tables"]["table4"] | {"methods": ["sft-lesion"]}}
    needs = needs_of(Experiment(config))
    assert needs == Needs(("qwen3-8b", "llama-3.1-8b-instruct"), ("gsm8k", "gsm8k-400"))


def test_the_length_limit_of_descriptions_is_that_of_training(papers: dict) -> None:
    papers["training"]["max_tokens"] = 77
    assert Experiment(papers).describe().max_tokens == 77
    papers["descriptions"]["max_tokens"] = 78
    assert Experiment(papers).describe().max_tokens == 78
