"""Samples of earlier stages among a continual stage's own: how many, which, in what order."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import in_processes
from runs import N_TRAIN, first_samples, train, weights, words, write_prepared
from test_resume import assert_alike, kill_at

from fnsft.artifacts.rows import numbered_rows
from fnsft.artifacts.storage import read_json
from fnsft.artifacts.training import read_training
from fnsft.errors import InputError
from fnsft.training.replay import even_counts, with_replay
from fnsft.training.stages import stage_seed

N_OLD = 6
SETTINGS: dict[str, Any] = {"epochs": 2, "seed": 3}


def rows_of(folder: Path) -> list[Any]:
    return [row for _, row in numbered_rows(folder / "train.jsonl")]


@pytest.fixture(scope="module")
def earlier(data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Prepared folders of two earlier stages, of five differences and six doubles."""
    folder = tmp_path_factory.mktemp("earlier")

    def rows(question: str, n: int) -> list[dict[str, str]]:
        return [{"prompt": f"{question} {i}:", "completion": f" {i}"} for i in range(n)]

    kept = {"validation": rows("Late", 3)}
    return [
        write_prepared(folder / name, kept | {"train": rows(name, n)})
        for name, n in (("Less", N_OLD - 1), ("Twice", N_OLD))
    ]


@pytest.fixture(scope="module")
def first(tiny_model_dir: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("first") / "math"
    assert train(tiny_model_dir, data, folder, task="math") == 0
    return folder


def one_by_one(n: int, sizes: list[int]) -> list[int]:
    """Give n samples out one by one, each to the pool that has had least and has one left."""
    counts = [0] * len(sizes)
    for _ in range(n):
        open_ones = [i for i, size in enumerate(sizes) if counts[i] < size]
        counts[min(open_ones, key=lambda i: counts[i])] += 1
    return counts


@pytest.mark.parametrize("sizes", [[9], [9, 9], [1, 9, 5], [9, 3, 9], [2, 2, 2, 9], [0, 4]])
def test_continual_replay_takes_from_all_pools_as_evenly_as_their_sizes_allow(
    sizes: list[int],
) -> None:
    for n in range(sum(sizes) + 1):
        found = even_counts(n, sizes)
        assert sum(found) == n
        assert all(count <= size for count, size in zip(found, sizes, strict=True))
        assert sorted(found) == sorted(one_by_one(n, sizes))
    with pytest.raises(InputError, match=f"expected {sum(sizes) + 1} samples of earlier stages"):
        even_counts(sum(sizes) + 1, sizes)


def test_continual_replay_mixes_an_exact_count_into_the_own_order() -> None:
    own = [("own", i) for i in range(40)]
    pools = [[(name, i) for i in range(20)] for name in ("a", "b", "c")]
    found = with_replay(own, pools, 0.26, seed=1)
    assert (found.counts, found.n_replayed, len(found.samples)) == ((3, 3, 4), 10, 50)
    assert [sample for sample in found.samples if sample[0] == "own"] == own
    replayed = [sample for sample in found.samples if sample[0] != "own"]
    assert len(set(replayed)) == 10 and set(replayed) <= {s for pool in pools for s in pool}
    everything = with_replay(own, pools, 1.5, seed=1)
    assert sorted(everything.samples) == sorted([*own, *(s for pool in pools for s in pool)])
    assert with_replay(own, pools, 0.26, seed=1) == found
    assert with_replay(own, pools, 0.26, seed=2).samples != found.samples
    assert with_replay(own, [], 0.26, seed=1).samples == own
    places = [
        place
        for seed in range(200)
        for place, sample in enumerate(with_replay(own, pools, 0.26, seed).samples)
        if sample[0] != "own"
    ]
    # Uniform over 50 places: mean 24.5, standard error of 2,000 of them .32.
    assert abs(sum(places) / len(places) - 24.5) < 1.3
    assert set(places) == set(range(50))


def test_a_continual_run_with_replay_learns_from_the_mixture_in_its_order(
    first: Path,
    data: Path,
    earlier: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It is the run on a folder that was mixed by hand; what validates is the stage's own."""
    replay = {"replay": earlier, "replay_fraction": 0.5}
    assert train(first, data, tmp_path / "run", **SETTINGS, **replay) == 0
    assert "replay         7 samples of earlier stages among them" in capsys.readouterr().err
    pools = [rows_of(folder) for folder in earlier]
    mixed = with_replay(rows_of(data), pools, 0.5, stage_seed(3, 2)).samples
    assert len(mixed) == N_TRAIN + 7
    own = [row for _, row in numbered_rows(data / "validation.jsonl")]
    by_hand = write_prepared(tmp_path / "mixed", {"train": mixed, "validation": own})
    assert train(first, by_hand, tmp_path / "by-hand", **SETTINGS) == 0
    one, other = weights(tmp_path / "run"), weights(tmp_path / "by-hand")
    assert all(torch.equal(one[name], other[name]) for name in one)
    records = [read_training(tmp_path / name) for name in ("run", "by-hand")]
    assert records[0].validation == records[1].validation
    # 21 samples are five batches of four and a partial one, twice.
    assert records[0].optimizer_steps == records[1].optimizer_steps == 12
    manifest = read_json(tmp_path / "run.manifest.json")
    assert manifest["notes"]["replayed_samples"] == [3, 4]
    assert {"replay 1", "replay 2"} <= manifest["inputs"].keys()


def test_a_continual_method_s_replay_is_nothing_in_a_first_stage_and_says_so(
    tiny_model_dir: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tiny_model_dir, data, tmp_path / "run", replay_fraction=0.5) == 0
    assert "replay         nothing: a first stage has none before it" in capsys.readouterr().err
    assert train(tiny_model_dir, data, tmp_path / "plain") == 0
    one, other = weights(tmp_path / "run"), weights(tmp_path / "plain")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_continual_run_with_replay_that_is_killed_goes_on_with_the_same_samples(
    first: Path,
    data: Path,
    earlier: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    old = [shutil.copytree(folder, tmp_path / folder.name) for folder in earlier]
    settings = SETTINGS | {"replay": old, "replay_fraction": 0.5, "checkpoint_steps": 2}
    assert train(first, data, tmp_path / "whole", **settings) == 0
    kill_at(5, monkeypatch, lambda: train(first, data, tmp_path / "resumed", **settings))
    rows = (old[1] / "train.jsonl").read_text()
    (old[1] / "train.jsonl").write_text(rows.replace("Twice", "Thrice"))
    assert train(first, data, tmp_path / "resumed", **settings) == 2
    assert "a run with other inputs (replay 2)" in capsys.readouterr().err
    (old[1] / "train.jsonl").write_text(rows)
    assert train(first, data, tmp_path / "resumed", **settings) == 0
    assert read_json(tmp_path / "resumed.manifest.json")["notes"]["resumed_from"] == "checkpoint-4"
    assert_alike(tmp_path / "whole", tmp_path / "resumed")


@pytest.mark.processes
def test_two_processes_of_a_continual_run_learn_from_the_same_replayed_samples(
    first: Path, data: Path, earlier: list[Path], tmp_path: Path
) -> None:
    own = first_samples(data, 12, tmp_path / "own")
    settings = SETTINGS | {"replay": earlier, "replay_fraction": 2 / 3, "micro_batch_size": 1}
    assert train(first, own, tmp_path / "one", **settings) == 0
    arguments = words(first, own, tmp_path / "two", parallel="ddp", **settings)
    code, said = in_processes(2, ["-m", "fnsft", *arguments])
    assert code == 0, said
    records = [read_training(tmp_path / name) for name in ("one", "two")]
    assert [record.optimizer_steps for record in records] == [10, 10]
    losses = [[point["loss"] for point in record.train_loss] for record in records]
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name in one:
        torch.testing.assert_close(two[name], one[name], atol=2e-4, rtol=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"replay_fraction": 0.5}, "stage 2 needs data of earlier stages, found none"),
        ({"replay": 1}, "expected a replay_fraction above 0, found 0"),
        ({"replay": 2, "replay_fraction": 0.5}, "expected every folder once, found one twice"),
        ({"replay": 1, "replay_fraction": 2}, "expected 28 samples of earlier stages, found 5"),
        ({"replay": "here", "replay_fraction": 0.5}, "expected a folder of fnsft prepare"),
        ({"replay": "nowhere", "replay_fraction": 0.5}, "nowhere: no such file or folder"),
        ({"replay_fraction": -1}, "replay_fraction: expected a value at least 0"),
    ],
)
def test_bad_input_of_continual_replay_is_one_line_and_leaves_nothing(
    first: Path,
    data: Path,
    earlier: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    settings: dict[str, Any],
    message: str,
) -> None:
    folders = settings.get("replay")
    if isinstance(folders, int):
        settings = settings | {"replay": [earlier[0]] * folders}
    elif folders is not None:
        settings = settings | {"replay": [first if folders == "here" else tmp_path / folders]}
    assert train(first, data, tmp_path / "run", **settings) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())
