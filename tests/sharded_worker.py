"""What each process of a sharded test runs: ``python sharded_worker.py WHAT FOLDER``.

The processes meet on gloo; what they find goes to ``FOLDER/<what>-<rank>.pt``.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from matrices import Matrix, fractional_policies, mlp_matrices, of_experts, whole_policies
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.nn import Parameter
from transformers import AutoModelForCausalLM

import fnsft.architectures
from fnsft.errors import InputError
from fnsft.masks.masker import GradientMasker
from fnsft.masks.optimizer import MaskedAdamW
from fnsft.masks.policies import Policy

NEURONS, WIDTH = 25, 7  # 50 and 7 rows, which neither two nor three processes share evenly
MOE_POLICIES = ("collab", "mofo", "network", "columns")
STEPS, BATCH, LENGTH = 20, 8, 24


def policies(neurons: int) -> dict[str, Policy]:
    return fractional_policies(neurons) | whole_policies(neurons, WIDTH)


def cases() -> list[tuple[torch.dtype, bool]]:
    return [(torch.float32, False), (torch.float32, True), (torch.bfloat16, True)]


def masks() -> dict[str, list[torch.Tensor]]:
    """Return every policy's masked gradients and update masks, of what this process holds."""
    found = masks_of(lambda matrices: matrices, cases(), policies(NEURONS))
    some = {name: policies(NEURONS)[name] for name in MOE_POLICIES}
    moe = masks_of(of_experts, cases()[1:2], some)
    return found | {f"moe {name}": parts for name, parts in moe.items()}


def masks_of(
    change: Callable[[list[Matrix]], list[Matrix]],
    cases: list[tuple[torch.dtype, bool]],
    policies: dict[str, Policy],
) -> dict[str, list[torch.Tensor]]:
    found = {}
    for dtype, ties in cases:
        for name, policy in policies.items():
            matrices = sharded(change(mlp_matrices(NEURONS, WIDTH, dtype, ties)))
            masker = GradientMasker(matrices, policy)
            masker.require_finite()
            holders = dict.fromkeys(m.parameter for m in matrices)
            moments = {parameter: {"exp_avg": parameter.detach()} for parameter in holders}
            update = [masker.masks_at(3, moments).get(parameter) for parameter in holders]
            masker.apply_to_gradients(3)
            found[f"{name} {dtype} {ties}"] = update + [p.grad.to_local() for p in holders]
    return found


def sharded(matrices: list[Matrix]) -> list[Matrix]:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    holders = {}
    for matrix in matrices:
        whole = matrix.parameter
        if whole not in holders:
            holders[whole] = Parameter(distribute_tensor(whole.detach(), mesh, [Shard(0)]))
            holders[whole].grad = distribute_tensor(whole.grad, mesh, [Shard(0)])
        matrix.parameter = holders[whole]
    return matrices


def refusals() -> dict[str, str]:
    """Return the messages for a broken gradient in one process, and for columns as shards."""
    messages = {}
    matrices = sharded(mlp_matrices(NEURONS, WIDTH))
    if dist.get_rank() == 1:
        matrices[3].parameter.grad.to_local()[-1, 2] = float("nan")
    try:
        GradientMasker(matrices, policies(NEURONS)["random"]).require_finite()
    except InputError as error:
        messages["nan"] = str(error)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    matrix = mlp_matrices(NEURONS, WIDTH)[0]
    matrix.parameter = Parameter(distribute_tensor(matrix.parameter.detach(), mesh, [Shard(1)]))
    try:
        GradientMasker([matrix], policies(NEURONS)["random"])
    except InputError as error:
        messages["columns"] = str(error)
    return messages


def run(folder: Path) -> dict[str, list]:
    """Train ``FOLDER/model``, which FSDP2 shards if there are several processes."""
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    if dist.get_world_size() > 1:
        for layer in model.model.layers:
            fully_shard(layer)
        fully_shard(model)
    matrices = fnsft.architectures.mlp_matrices(model)
    assert isinstance(matrices[0].parameter, DTensor) == (dist.get_world_size() > 1)
    masker = GradientMasker(matrices, policies(matrices[0].d_mlp)["collab"])
    optimizer = MaskedAdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
    found: dict[str, list] = {"losses": [], "masks": []}
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(step)
        batch = torch.randint(3, 300, (BATCH, LENGTH), generator=generator)
        share = batch.chunk(dist.get_world_size())[dist.get_rank()]
        loss = model(input_ids=share, labels=share, use_cache=False).loss
        loss.backward()
        masker.require_finite()
        of_step = masker.masks_at(step)
        found["masks"].append([of_step.get(matrix.parameter) for matrix in matrices])
        optimizer.masks = of_step
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        total = loss.detach()
        dist.all_reduce(total)
        found["losses"].append(float(total) / dist.get_world_size())
    return found


def main() -> None:
    what, folder = sys.argv[1], Path(sys.argv[2])
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = f"file://{folder}/{what}-{world}.store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world)
    found = {"masks": masks, "refusals": refusals, "run": lambda: run(folder)}[what]()
    torch.save(found, folder / f"{what}-{world}-{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
