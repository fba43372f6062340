"""Sequences of stages in the workflow: what each begins with, and what is run again."""

import csv
import json
from pathlib import Path

import pytest
import yaml
from workflow_runs import SMOKE, planned, snakemake

from fnsft.artifacts.training import read_training

pytestmark = [pytest.mark.workflow, pytest.mark.slow]

SEQUENCE = "results/table2.tex"
METHODS = {"methods": ["sft", "lora", "collab", "replay"], "controls": []}
ASKED = {"table2": METHODS, "table_continual_metrics": METHODS | {"curve": []}}
FIGURES_OF_SEQUENCES = {"trade_off": METHODS | {"curve": []}}


@pytest.fixture(scope="module")
def sequence(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An overlay whose continual tables and figures have been made in the finished tree."""
    path = tmp_path_factory.mktemp("overlay") / "sequence.yaml"
    path.write_text(yaml.safe_dump({"tables": ASKED, "figures": FIGURES_OF_SEQUENCES}))
    targets = [f"results/{name}.tex" for name in ASKED]
    targets += [f"results/figures/{name}.pdf" for name in FIGURES_OF_SEQUENCES]
    done = snakemake(
        finished, "--profile", "cpu", "--configfile", *SMOKE, str(path), "--", *targets
    )
    assert done.returncode == 0, done.stderr
    return path


def test_continual_tables_and_figures_are_made(finished: Path, sequence: Path) -> None:
    for name in ASKED:
        rows = list(csv.DictReader((finished / f"results/{name}.csv").open()))
        found = {row["row"] for row in rows if row["value"]}
        assert {"SFT", "LoRA", "SFT with replay"} <= found, name
    for name in FIGURES_OF_SEQUENCES:
        for suffix in (".pdf", ".png"):
            assert (finished / f"results/figures/{name}{suffix}").stat().st_size > 5_000
    assert planned(finished, sequence, target=SEQUENCE) == {}


def test_a_continual_stage_begins_with_the_model_of_the_one_before(
    finished: Path, sequence: Path
) -> None:
    runs = finished / "results/smoke/runs/tiny/math"
    earlier = {path.parents[2].name for path in runs.glob("*/code/*/seed0")}
    assert earlier == {"sft", "lora", "collab-p0.5"}
    for path in runs.glob("*/code/*/seed0"):
        run = read_training(path).run
        assert (run.stage, run.sequence, run.seed) == (2, "math>code", 0), path
    adapter = json.loads((runs / "lora/code/lora/seed0/adapter_config.json").read_text())
    assert Path(adapter["base_model_name_or_path"]).is_dir(), "an adapter needs what it is of"
    settings = yaml.safe_load((finished / "workflow/configs/tiny.yaml").read_text())
    factor = settings["later_stages"]["learning_rate_factor"]
    first, second = (
        read_training(path).run.learning_rate
        for path in (runs / "sft/seed0", runs / "sft/code/sft/seed0")
    )
    assert second == pytest.approx(factor * first)


def test_a_continual_method_with_an_earlier_one_shares_its_stages(
    finished: Path, sequence: Path, overlay
) -> None:
    more = METHODS | {"methods": [*METHODS["methods"], "l2"]}
    plan = planned(finished, sequence, overlay(tables={"table2": more}), target=SEQUENCE)
    new = {"train": 1, "answer": 1, "score": 1, "drift": 1, "transfer": 1}
    assert plan == new | {"table": 1, "publish_table": 1}


def test_a_continual_stage_projects_its_own_graph_or_keeps_the_first(
    finished: Path, sequence: Path, overlay
) -> None:
    first = METHODS | {"methods": [*METHODS["methods"], "collab-first"]}
    plan = planned(finished, sequence, overlay(tables={"table2": first}), target=SEQUENCE)
    new = {"train": 1, "answer": 1, "score": 1, "drift": 1, "transfer": 1}
    assert plan == new | {"table": 1, "publish_table": 1}
    plan = planned(finished, sequence, overlay(graphs={"paper": {"alpha": 1.0}}), target=SEQUENCE)
    assert (plan["project"], plan["train"]) == (2, 2)


def test_other_continual_learning_rates_train_the_later_stages_alone(
    finished: Path, sequence: Path, overlay
) -> None:
    other = overlay(later_stages={"learning_rate_factor": 0.7})
    plan = planned(finished, sequence, other, target=SEQUENCE)
    assert plan["train"] == 4 and "project" not in plan


def test_a_continual_sequence_of_three_stages_shares_its_first_two(
    finished: Path, sequence: Path, overlay
) -> None:
    tasks = {"sums": {"origin": "world", "format": "gsm8k", "train": "math/train.jsonl"}}
    tasks["sums"] |= {"test": "math/test.jsonl", "n_train": 32, "n_validation": 8, "n_test": 8}
    three = {"three": {"tasks": ["math", "code", "sums"], "suites": ["world"]}}
    table = {"table2": {"sequence": "three", "methods": ["sft"], "controls": []}}
    plan = planned(
        finished,
        sequence,
        overlay(tasks=tasks, sequences=three, tables=table),
        target=SEQUENCE,
    )
    stage = {"prepare": 1, "train": 1, "answer": 1, "score": 1, "drift": 1, "transfer": 1}
    assert plan == stage | {"table": 1, "publish_table": 1}


def test_another_continual_question_asks_again_and_trains_nothing(
    finished: Path, sequence: Path, overlay
) -> None:
    other = overlay(benchmarks={"functions": {"limit": 5}})
    plan = planned(finished, sequence, other, target=SEQUENCE)
    asked = {"answer": 7, "answer_base": 1, "score": 7, "score_base": 1, "transfer": 4}
    assert plan == asked | {"table": 1, "publish_table": 1}


def test_a_continual_stage_goes_on_from_folded_weights_where_a_run_has_more_than_weights(
    finished: Path, sequence: Path, overlay
) -> None:
    table = {"table2": {"methods": ["sft", "lora", "sft-lesion"], "controls": []}}
    plan = planned(finished, sequence, overlay(tables=table), target=SEQUENCE)
    assert (plan["train"], plan["plain"], plan["networks"]) == (2, 1, 2)


def test_the_retention_figure_trains_every_method_at_rates_that_are_not_its_own(
    finished: Path, sequence: Path, overlay
) -> None:
    rates = {"learning_retention": {"methods": ["sft"], "controls": [], "factors": [0.5, 1.0]}}
    target = "results/figures/learning_retention.pdf"
    plan = planned(finished, sequence, overlay(figures=rates), target=target)
    assert (plan["train"], plan["answer"], plan["transfer"]) == (1, 1, 1)
