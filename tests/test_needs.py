"""What must be fetched ahead for an experiment."""

from pathlib import Path

import pytest
import yaml

from fnsft.config.experiment import Experiment
from fnsft.config.needs import Needs, needs_of


@pytest.fixture
def papers(repository: Path) -> dict:
    return yaml.safe_load((repository / "config.yaml").read_text())


def test_the_papers_need_every_model_and_task_that_they_name(papers: dict) -> None:
    needs = needs_of(Experiment(papers))
    assert set(needs.models) == set(papers["models"])
    assert set(needs.tasks) == set(papers["tasks"])


def small(papers: dict, **other) -> Needs:
    """What is needed by a run of one hub model on one task, without the papers' figures."""
    run = papers["run"] | {"models": ["qwen3-8b"], "methods": ["sft"], "controls": []}
    return needs_of(Experiment(papers | {"run": run, "tables": {}, "figures": {}} | other))


def test_nothing_is_needed_that_nothing_is_made_from(papers: dict) -> None:
    assert small(papers) == Needs(("qwen3-8b",), ("gsm8k",))


def test_what_graphs_are_compared_with_is_needed_by_their_figures_alone(papers: dict) -> None:
    assert small(papers, figures={"f": {"kind": "influence"}}).tasks == ("gsm8k",)
    assert small(papers, figures={"f": {"kind": "agreement"}}).tasks == ("gsm8k", "codealpaca")


@pytest.mark.parametrize(
    "several", [{"tasks": ["gsm8k", "medical-o1"]}, {"sequence": "math-code-medical"}], ids=str
)
def test_a_figure_over_tasks_or_stages_needs_all_of_them(papers: dict, several: dict) -> None:
    needs = small(papers, figures={"f": {"kind": "perplexity"} | several})
    assert "medical-o1" in needs.tasks and needs.benchmarks == ()


@pytest.mark.parametrize(
    "reader",
    [
        {"tables": {"t": {"kind": "networks"}}},
        {"tables": {"t": {"methods": ["sft-lesion"]}}},
        {"figures": {"f": {"kind": "coverage"}}},
    ],
    ids=str,
)
def test_further_tasks_of_networks_are_needed_by_who_reads_them(papers: dict, reader: dict) -> None:
    networks = {"ica": papers["networks"]["ica"] | {"also": ["medical-o1"]}}
    assert small(papers, networks=networks).tasks == ("gsm8k",)
    assert small(papers, networks=networks, **reader).tasks == ("gsm8k", "medical-o1")


def test_models_of_another_origin_than_the_runs_are_anothers(papers: dict) -> None:
    models = papers["models"] | {"mine": {"origin": "folder", "name": "mine"}}
    tables = {"own": {"models": ["qwen3-8b"]}, "mixed": {"models": ["mine", "qwen3-4b-base"]}}
    run = papers["run"] | {"models": ["mine"]}
    config = papers | {"models": models, "run": run, "tables": tables, "figures": {}}
    assert needs_of(Experiment(config)).models == ("mine", "qwen3-4b-base")
