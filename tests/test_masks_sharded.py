"""Masks of sharded matrices: bit for bit those of one process, whatever the shards."""

from pathlib import Path

import pytest
import torch
from matrices import mlp_matrices, of_experts
from models import write_tiny_model
from ranks import in_processes
from sharded_worker import MOE_POLICIES, NEURONS, STEPS, WIDTH, cases, policies

from fnsft.masks.masker import GradientMasker

pytestmark = pytest.mark.processes
WORKER = Path(__file__).with_name("sharded_worker.py")


def processes(what: str, world: int, folder: Path) -> list:
    """Run the worker in ``world`` processes and return what each has found."""
    code, said = in_processes(world, [str(WORKER), what, str(folder)])
    assert code == 0, said
    return [torch.load(folder / f"{what}-{world}-{rank}.pt") for rank in range(world)]


@pytest.fixture(scope="module", params=[2, 3])
def shards(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    return processes("masks", request.param, tmp_path_factory.mktemp("masks"))


@pytest.mark.parametrize("name", policies(NEURONS))
@pytest.mark.parametrize(("dtype", "ties"), cases(), ids=str)
def test_sharded_masks_are_bitwise_those_of_one_process(shards, name, dtype, ties) -> None:
    """Of uneven shards, one of which may hold nothing of a matrix; with few values and zeros."""
    matrices = mlp_matrices(NEURONS, WIDTH, dtype, ties)
    masker = GradientMasker(matrices, policies(NEURONS)[name])
    holders = dict.fromkeys(matrix.parameter for matrix in matrices)
    moments = {parameter: {"exp_avg": parameter.detach()} for parameter in holders}
    expected = [masker.masks_at(3, moments).get(parameter) for parameter in holders]
    masker.apply_to_gradients(3)
    expected += [parameter.grad for parameter in holders]
    parts = [shard[f"{name} {dtype} {ties}"] for shard in shards]
    assert len({part[0].shape for part in parts}) > 1 or len(shards) == 2, "shards are even"
    for whole, *local in zip(expected, *parts, strict=True):
        assert torch.equal(torch.cat(local), whole)


@pytest.mark.parametrize("name", MOE_POLICIES)
def test_sharded_masks_of_moe_experts_are_bitwise_those_of_their_matrices_alone(
    shards, name
) -> None:
    """Experts lie whole in one process, and of three processes one has none of two experts."""
    dtype, ties = cases()[1]
    matrices = mlp_matrices(NEURONS, WIDTH, dtype, ties)
    masker = GradientMasker(matrices, policies(NEURONS)[name])
    moments = {m.parameter: {"exp_avg": m.parameter.detach()} for m in matrices}
    masks = masker.masks_at(3, moments)
    expected = [matrix.view(masks.get(matrix.parameter)) for matrix in matrices]
    masker.apply_to_gradients(3)
    expected += [matrix.view(matrix.parameter.grad) for matrix in matrices]
    parts = [shard[f"moe {name} {dtype} {ties}"] for shard in shards]
    whole = [torch.cat(local) for local in zip(*parts, strict=True)]
    gate_up, down, *gradients = whole
    stacked = of_experts(mlp_matrices(NEURONS, WIDTH, dtype, ties))
    found = [m.view(down if m.role == "down" else gate_up) for m in stacked]
    found += [m.view(gradients[int(m.role == "down")]) for m in stacked]
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_a_broken_gradient_in_one_process_is_refused_in_all(tmp_path: Path) -> None:
    for found in processes("refusals", 2, tmp_path):
        assert "layers.1.up: expected a finite gradient, found 1 of 175" in found["nan"]
        assert "expected parameters sharded by rows, as FSDP2 does" in found["columns"]


def test_twenty_steps_under_fsdp2_are_those_of_one_process(tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "model")
    (whole,) = processes("run", 1, tmp_path)
    parts = processes("run", 2, tmp_path)
    assert len(whole["losses"]) == STEPS
    for losses in (part["losses"] for part in parts):
        assert losses == pytest.approx(whole["losses"], abs=1e-4)
    assert whole["losses"][-1] < whole["losses"][0] - 0.05, "nothing was learnt"
    both = either = 0
    for step in range(STEPS):
        for number, mask in enumerate(whole["masks"][step]):
            other = torch.cat([part["masks"][step][number] for part in parts])
            both += int((mask & other).sum())
            either += int((mask | other).sum())
    assert both / either >= 0.999
