"""Telemetry of masks: what is sampled and counted, against whole masks and slow sums."""

import dataclasses
import functools
import itertools
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from matrices import (
    Matrix,
    fixed_masks,
    fractional_policies,
    mlp_matrices,
    two_neighbours,
    whole_policies,
)
from ranks import call_in_processes

from fnsft.artifacts.telemetry import (
    MaskRecord,
    read_masks,
    read_neuron_updates,
    write_masks,
    write_neuron_updates,
)
from fnsft.artifacts.tensors import Header, write_tensors
from fnsft.errors import InputError
from fnsft.masks.masker import GradientMasker
from fnsft.masks.policies import Collab, Highest, MatrixStep, Policy, Random
from fnsft.masks.selection import Selection
from fnsft.masks.shards import Shard
from fnsft.masks.telemetry import BLOCK, Sample, Telemetry

NEURONS, WIDTH = 192, 80  # 15 blocks of sampled entries a matrix
MATRICES = mlp_matrices(NEURONS, WIDTH)
POLICIES: dict[str, Policy] = {
    **fractional_policies(NEURONS),
    **whole_policies(NEURONS, WIDTH),
    "fixed": fixed_masks(MATRICES),
}
EACH = pytest.mark.parametrize("name", POLICIES)
CPU = torch.device("cpu")


def whole(matrices: Iterable[Matrix]) -> list[Shard]:
    return [Shard.whole(tuple(m.view(m.parameter).shape)) for m in matrices]


def gradient_of(matrix: Matrix, step: int) -> torch.Tensor:
    """Seeded, and larger for some neurons than for others."""
    generator = torch.Generator().manual_seed(100 * step + matrix.index)
    gradient = torch.randn(matrix.view(matrix.parameter).shape, generator=generator)
    scale = torch.linspace(0.1, 2, NEURONS)
    return gradient * (scale[:, None] if matrix.neuron_axis == 0 else scale)


@functools.cache
def step_of(name: str, index: int, step: int) -> tuple[torch.Tensor, Selection]:
    """The gradient of a matrix at a step, and what the policy selects of it."""
    matrix = MATRICES[index]
    weights = matrix.view(matrix.parameter.detach())
    at = MatrixStep(matrix.layer, matrix.neuron_axis, index, step, weights=weights)
    gradient = gradient_of(matrix, step)
    return gradient, POLICIES[name].select(gradient, at)


def observed(
    name: str, steps: Iterable[int], every: int = 3, telemetry: Telemetry | None = None
) -> Telemetry:
    """Show a policy's masks of these steps to a telemetry, or to a new one of whole matrices."""
    if telemetry is None:
        lam = 0.5 if name.startswith("collab") else None
        telemetry = Telemetry(MATRICES, whole(MATRICES), every, lam)
    for step in steps:
        for matrix, shard in zip(MATRICES, telemetry.shards, strict=True):
            gradient, found = step_of(name, matrix.index, step)
            score = None if found.score is None else found.score[shard.rows]
            part = Selection(found.mask[shard.rows], score, found.threshold)
            telemetry.observe(matrix.index, step, gradient[shard.rows], part)
    return telemetry


def state_of(telemetry: Telemetry) -> tuple[list[MaskRecord], list[list[float]], float]:
    return telemetry.records, telemetry.neuron_updates().tolist(), telemetry.pass_rate


def places_of(sample: Sample, shard: Shard) -> list[tuple[int, int]]:
    rows = (sample.rows + shard.rows.start).tolist()
    return list(zip(rows, sample.columns.tolist(), strict=True))


@pytest.mark.parametrize("shape", [(1024, 3), (70, 50), (7, 9), (1, 1), (64, 1024)])
def test_one_entry_of_every_block_is_sampled_and_any_sharding_samples_the_same(shape) -> None:
    entire = Shard.whole(shape)
    places = places_of(Sample.of(entire, 5, CPU), entire)
    blocks = [(row * shape[1] + column) // BLOCK for row, column in places]
    assert blocks == list(range(-(-shape[0] * shape[1] // BLOCK)))
    assert all(0 <= row < shape[0] and 0 <= column < shape[1] for row, column in places)
    starts = (0, shape[0] // 3, shape[0] // 3, shape[0])
    shards = [Shard(shape, starts, rank) for rank in range(3)]
    parts = [places_of(Sample.of(shard, 5, CPU), shard) for shard in shards]
    assert list(itertools.chain(*parts)) == places
    assert all(
        shard.rows.start <= row < shard.rows.stop
        for shard, part in zip(shards, parts, strict=True)
        for row, _ in part
    )


def test_sampled_places_are_spread_over_their_blocks_and_differ_between_matrices() -> None:
    entire = Shard.whole((4096, BLOCK))  # a block is a row
    first, second = (Sample.of(entire, index, CPU).columns for index in (0, 1))
    for columns in (first, second):
        counts = torch.bincount(columns // 64, minlength=16).double()
        assert float(((counts - 256) ** 2 / 256).sum()) < 38  # χ², 15 degrees, 0.001
    assert int((first == second).sum()) < 20


@EACH
def test_records_are_those_of_sets_of_sampled_entries(name: str) -> None:
    telemetry = observed(name, range(5), every=2)
    records = iter(telemetry.records)
    for step, matrix in itertools.product((0, 2, 4), MATRICES):
        gradient, found = step_of(name, matrix.index, step)
        shard = Shard.whole(tuple(gradient.shape))
        places = places_of(Sample.of(shard, matrix.index, CPU), shard)
        passed = {place for place in places if found.mask[place]}
        largest = set(sorted(places, key=lambda at: -abs(gradient[at]))[: len(passed)])
        _, before = step_of(name, matrix.index, max(0, step - 1))
        last = {place for place in places if before.mask[place]}
        record = next(records)
        assert (record.step, record.layer, record.part) == (step, matrix.layer, matrix.role)
        assert record.n == len(places)
        assert record.pass_rate == pytest.approx(len(passed) / len(places))
        assert record.threshold == found.threshold
        both = len(passed & last) / len(passed | last) if step and passed | last else None
        assert record.jaccard_last == both
        both = len(passed & largest) / len(passed | largest) if passed else None
        assert record.jaccard_highest == both
        if name.startswith("collab"):
            total = sum(float(found.score[place]) for place in passed)
            own = sum(abs(float(gradient[place])) for place in passed) * 0.5
            assert record.neighbour_share == pytest.approx((total - own) / total)
        else:
            assert record.neighbour_share is None
    assert next(records, None) is None


def test_estimates_agree_with_whole_masks_up_to_the_samples_error() -> None:
    """Four standard errors of 1,920 sampled entries."""
    neurons, width = 1536, 1280
    matrix = dataclasses.replace(MATRICES[0], d_mlp=neurons)
    telemetry = Telemetry([matrix], [Shard.whole((neurons, width))], 1, 0.3)
    policy = Collab(0.5, seed=1, lam=0.3, affinities=[two_neighbours(0, neurons)])
    generator = torch.Generator().manual_seed(0)
    gradients, masks = [], []
    for step in (0, 1):
        noise = torch.randn(neurons, width, generator=generator)
        gradients.append(gradients[0] + noise if step else noise)
        found = policy.select(gradients[-1], MatrixStep(0, 0, 0, step))
        telemetry.observe(0, step, gradients[-1], found)
        masks.append(found.mask)
    record, mask = telemetry.records[1], masks[1]
    error = 4 * 0.5 / 1920**0.5
    highest = gradients[1].abs() > gradients[1].abs().flatten().median()
    assert record.pass_rate == pytest.approx(0.5, abs=error)
    for measured, other in ((record.jaccard_highest, highest), (record.jaccard_last, masks[0])):
        exact = float((mask & other).sum() / (mask | other).sum())
        assert 0.3 < exact < 0.9
        assert measured == pytest.approx(exact, abs=error)
    own = 0.7 * gradients[1].abs()[mask].sum(dtype=torch.float64)
    exact = float(1 - own / found.score[mask].sum(dtype=torch.float64))
    assert 0.1 < exact < 0.3
    assert record.neighbour_share == pytest.approx(exact, abs=0.02)
    counted = sum(mask.numpy().mean(axis=1) for mask in masks) / 2
    assert telemetry.neuron_updates()[0] == pytest.approx(counted)


@EACH
def test_neuron_updates_count_every_entry_of_a_neurons_rows_and_columns(name: str) -> None:
    telemetry = observed(name, range(8), every=3)
    kept = np.zeros((2, NEURONS))
    for step, matrix in itertools.product((0, 3, 6), MATRICES):
        mask = step_of(name, matrix.index, step)[1].mask.numpy()
        for neuron in range(NEURONS):
            weights = mask[neuron] if matrix.neuron_axis == 0 else mask[:, neuron]
            kept[matrix.layer, neuron] += weights.sum()
    share = kept / (3 * WIDTH * 3)
    assert telemetry.recorded_steps == 3
    assert telemetry.neuron_updates().dtype == np.float32
    assert telemetry.neuron_updates() == pytest.approx(share)
    assert telemetry.pass_rate == pytest.approx(share.mean())


def test_layers_of_one_matrix_have_shares_of_that_matrix() -> None:
    chosen = [dataclasses.replace(m, index=i) for i, m in enumerate(MATRICES[2:4])]
    telemetry = Telemetry(chosen, whole(chosen), 1, None)
    for matrix in chosen:
        gradient = gradient_of(matrix, 0)
        found = Random(0.5, seed=0).select(gradient, MatrixStep(0, 0, matrix.index, 0))
        telemetry.observe(matrix.index, 0, gradient, found)
    assert telemetry.neuron_updates().mean(axis=1) == pytest.approx([0.5, 0.5])
    assert telemetry.pass_rate == pytest.approx(0.5)


@pytest.mark.parametrize(("every", "recorded"), [(1, range(8)), (3, (0, 3, 6)), (10, (0,))])
def test_step_0_and_every_nth_are_recorded_with_the_overlap_with_the_step_before(
    every: int, recorded: Iterable[int]
) -> None:
    records = observed("random", range(8), every).records
    assert [record.step for record in records] == [s for s in recorded for _ in MATRICES]
    assert all((record.jaccard_last is None) == (record.step == 0) for record in records)


def test_a_step_before_that_was_not_seen_has_no_overlap() -> None:
    records = observed("random", (2, 6, 8, 9), every=3).records
    assert {record.step: record.jaccard_last is None for record in records} == {6: True, 9: False}


def test_nothing_is_read_of_steps_that_are_not_due() -> None:
    telemetry = observed("collab", range(1))
    untouched = state_of(telemetry)
    nothing = torch.empty(0, device="meta")
    telemetry.observe(0, 1, nothing, Selection(nothing))
    assert state_of(telemetry) == untouched


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_highest_overlaps_with_itself_wholly_even_where_gradients_are_equal(dtype) -> None:
    matrices = mlp_matrices(NEURONS, WIDTH, dtype, ties=True)
    telemetry = Telemetry(matrices, whole(matrices), 1, None)
    masker = GradientMasker(matrices, Highest(0.3, seed=1), telemetry=telemetry)
    masker.apply_to_gradients(0)
    assert {record.jaccard_highest for record in telemetry.records} == {1.0}


def test_masks_that_let_nothing_pass_have_no_overlap_with_highest() -> None:
    records = observed("hft", range(4), every=1).records
    assert {record.pass_rate for record in records} == {0.0, 1.0}
    for record in records:
        assert record.jaccard_highest == (1 if record.pass_rate else None)
        assert record.jaccard_last == (1 if record.pass_rate and record.step else None)


def test_strides_make_no_difference() -> None:
    laid_out = [Telemetry(MATRICES, whole(MATRICES), 1, 0.5) for _ in range(2)]
    for matrix in MATRICES:
        gradient = gradient_of(matrix, 0)
        neurons = gradient.shape[matrix.neuron_axis]
        kept = torch.arange(neurons) % 3 == 0
        mask = (kept[:, None] if matrix.neuron_axis == 0 else kept).expand(gradient.shape)
        score = gradient.abs() + 1
        laid_out[0].observe(matrix.index, 0, gradient, Selection(mask.contiguous(), score, 0.5))
        turned = gradient.T.contiguous().T
        laid_out[1].observe(matrix.index, 0, turned, Selection(mask, score.T.contiguous().T, 0.5))
    assert state_of(laid_out[0]) == state_of(laid_out[1])
    assert laid_out[0].pass_rate == pytest.approx(1 / 3)


@EACH
def test_masks_and_gradients_are_the_same_with_telemetry(name: str) -> None:
    trained = []
    for telemetry in (None, Telemetry(MATRICES, whole(MATRICES), 1, 0.5)):
        matrices = mlp_matrices(NEURONS, WIDTH)
        masker = GradientMasker(matrices, POLICIES[name], telemetry=telemetry)
        held = [masker.masks_at(0).get(m.parameter) for m in matrices]
        masker.apply_to_gradients(1)
        trained.append([*held, *(m.parameter.grad for m in matrices)])
    assert all(torch.equal(a, b) for a, b in zip(*trained, strict=True))


@pytest.mark.parametrize("name", ["collab", "network"])
@pytest.mark.parametrize("cut", range(1, 8))
def test_a_resumed_run_ends_as_an_uninterrupted_one(tmp_path: Path, name: str, cut: int) -> None:
    first = observed(name, range(cut))
    first.save(tmp_path)
    resumed = observed(name, ())
    resumed.load(tmp_path)
    observed(name, range(cut, 8), telemetry=resumed)
    assert state_of(resumed) == state_of(observed(name, range(8)))
    assert state_of(observed(name, range(cut, 8), telemetry=first)) == state_of(resumed)


SHARDED = 3


def _one_of_several(rank: int, folder: Path) -> None:
    """Observe a sharded run, of which the last process holds no down rows; save and resume."""
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=SHARDED
    )
    shards = []
    for shard in whole(MATRICES):
        starts = (0, 50, shard.shape[0], shard.shape[0])
        shards.append(Shard(shard.shape, starts, rank, dist.group.WORLD))
    states = []
    for cut in (8, 4):
        telemetry = Telemetry(MATRICES, shards, 3, 0.5)
        observed("collab", range(cut), telemetry=telemetry)
        if cut < 8:
            telemetry.save(folder)
            dist.barrier()
            telemetry = Telemetry(MATRICES, shards, 3, 0.5)
            telemetry.load(folder)
            observed("collab", range(cut, 8), telemetry=telemetry)
        telemetry.neuron_updates()
        states.append(state_of(telemetry))
    assert states[0] == states[1]
    records, updates, pass_rate = states[0]
    state = [[dataclasses.asdict(record) for record in records], updates, pass_rate]
    (folder / f"{rank}.json").write_text(json.dumps(state))
    dist.destroy_process_group()


def test_any_sharding_has_the_records_and_counts_of_whole_matrices(tmp_path: Path) -> None:
    """Three processes, of which one holds nothing; its checkpoint resumes in one process."""
    call_in_processes(SHARDED, _one_of_several, tmp_path)
    uninterrupted = observed("collab", range(8))
    records, updates, pass_rate = state_of(uninterrupted)
    for rank in range(SHARDED):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert [MaskRecord(**row) for row in found[0]] == records
        assert found[1:] == [updates, pass_rate]
    alone = observed("collab", ())
    alone.load(tmp_path)
    observed("collab", range(4, 8), telemetry=alone)
    assert state_of(alone) == state_of(uninterrupted)


def test_records_and_updates_are_read_as_they_were_written(tmp_path: Path) -> None:
    telemetry = observed("collab", range(4))
    write_masks(tmp_path, telemetry.records)
    updates = telemetry.neuron_updates()
    write_neuron_updates(tmp_path, updates, telemetry.recorded_steps, "0123456789abcdef")
    for place in ("", "masks.jsonl"):
        assert read_masks(tmp_path / place) == telemetry.records
    for place in ("", "neuron_updates.safetensors"):
        found = read_neuron_updates(tmp_path / place)
        assert np.array_equal(found.share, updates) and found.share.dtype == np.float32
        assert found.recorded_steps == 2


def test_damaged_artefacts_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"masks\.jsonl: no such file"):
        read_masks(tmp_path)
    write_masks(tmp_path, observed("random", range(1)).records)
    lines = (tmp_path / "masks.jsonl").read_text().splitlines()
    row = json.loads(lines[1]) | {"pass_rate": None}
    (tmp_path / "masks.jsonl").write_text("\n".join([lines[0], json.dumps(row)]))
    with pytest.raises(InputError, match=r"masks\.jsonl line 2: pass_rate: expected a number"):
        read_masks(tmp_path)
    file = tmp_path / "neuron_updates.safetensors"
    write_tensors(file, Header("neuron-updates", 1, ""), {"share": np.zeros((1, 2))})
    with pytest.raises(InputError, match="'recorded_steps' is missing"):
        read_neuron_updates(tmp_path)
    write_tensors(file, Header("clusters", 1, ""), {"share": np.zeros((1, 2))})
    with pytest.raises(InputError, match="expected neuron-updates of schema 1, found clusters"):
        read_neuron_updates(tmp_path)
