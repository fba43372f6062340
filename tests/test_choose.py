"""The choice of learning rates: by validation, on grids that compare, with its doubts stated."""

import math
from pathlib import Path

import pytest
import yaml

from fnsft.artifacts.training import Run, TrainingRecord, write_training
from fnsft.cli.main import main
from fnsft.errors import InputError
from fnsft.reporting.choice import choose_rates


def tried(
    method: str, rate: float, perplexity: float, fraction: float | None = None, seed: int = 100
) -> TrainingRecord:
    run = Run("tiny", "math", method, fraction, stage=1, seed=seed, learning_rate=rate)
    return TrainingRecord(run, [], [], 1, 1, perplexity, 1, None, 1.0, 1.0)


def test_the_rate_of_lowest_mean_perplexity_over_fractions_and_seeds_is_chosen() -> None:
    perplexities = {1e-4: (2.0, 2.2), 1e-3: (1.0, 2.0), 1e-2: (1.4, 1.8)}
    runs = [
        tried("random", rate, perplexity, fraction)
        for rate, both in perplexities.items()
        for fraction, perplexity in zip((0.5, 0.7), both, strict=True)
    ]
    (choice,) = choose_rates(reversed(runs))
    assert (choice.method, choice.learning_rate, choice.at_edge) == ("random", 1e-3, False)
    assert choice.warning is None
    assert [point.learning_rate for point in choice.curve] == [1e-4, 1e-3, 1e-2]
    middle = choice.curve[1]
    assert (middle.perplexity, middle.n) == (1.5, 2)
    assert middle.stderr == pytest.approx(0.5)


def test_a_choice_at_the_edge_of_its_grid_warns() -> None:
    (choice,) = choose_rates([tried("sft", 1e-3, 1.5), tried("sft", 1e-2, 1.4)])
    assert choice.at_edge and "edge of the grid" in str(choice.warning)


def test_a_single_rate_is_stated_not_refused() -> None:
    (choice,) = choose_rates([tried("sft", 1e-3, 1.5)])
    assert choice.learning_rate == 1e-3 and "only one" in str(choice.warning)
    assert choice.curve[0].stderr is None


@pytest.mark.parametrize("diverged", [math.nan, math.inf])
def test_a_rate_that_diverged_is_never_chosen(diverged: float) -> None:
    runs = [tried("sft", 1e-3, diverged), tried("sft", 1e-2, 9.0), tried("sft", 1e-1, diverged)]
    (choice,) = choose_rates(runs)
    assert choice.learning_rate == 1e-2


def test_rates_that_were_not_tried_alike_are_refused() -> None:
    runs = [tried("gmt", 1e-3, 1.5, 0.5), tried("gmt", 1e-3, 1.5, 0.7), tried("gmt", 1e-2, 1, 0.5)]
    with pytest.raises(InputError, match="gmt, learning rate 0.01: no run of fraction 0.7"):
        choose_rates(runs)
    with pytest.raises(InputError, match="two runs of one fraction and seed"):
        choose_rates([runs[0], runs[0]])


def test_runs_of_two_models_are_refused() -> None:
    other = TrainingRecord(Run("big", "math", "sft"), [], [], 1, 1, 1.5, 1, None, 1.0, 1.0)
    with pytest.raises(InputError, match="runs of one model, found big, tiny"):
        choose_rates([tried("sft", 1e-3, 1.5), other])


def test_the_choice_is_yaml_whose_rates_are_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = []
    for place, (method, rate) in enumerate([("lora", 3e-5), ("sft", 1e-5), ("sft", 1e-4)]):
        (tmp_path / f"run{place}").mkdir()
        write_training(tmp_path / f"run{place}", tried(method, rate, 1.5 + place))
        folders.append(str(tmp_path / f"run{place}"))
    assert main(["choose", "--training", *folders, "--output", str(tmp_path / "c.yaml")]) == 0
    found = yaml.safe_load((tmp_path / "c.yaml").read_text())["methods"]
    assert list(found) == ["sft", "lora"]
    assert found["sft"]["learning_rate"] == 1e-5
    assert found["sft"]["at_edge"] is True and found["lora"]["rates_tried"] == 1
    assert [point["n"] for point in found["sft"]["curve"]] == [1, 1]
    error = capsys.readouterr().err
    assert "warning: sft: 1e-05 is at the edge" in error and "lora: only one" in error
