"""Which of a machine's devices a stage computes on, so that no two jobs share one.

``FNSFT_GPUS`` names the machine's pool, such as ``0,1,2,3`` (words of ``CUDA_VISIBLE_DEVICES``);
empty stands for none, and the processor computes; without it a stage sees what torch sees. A
stage takes its devices out of the pool before torch is imported, and holds them until its last
process ends, however it ends: a lock is the kernel's, on a file of ``FNSFT_GPU_LOCKS``.
"""

import fcntl
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from fnsft.errors import InputError

if TYPE_CHECKING:
    import torch

POOL = "FNSFT_GPUS"
FOLDER = "FNSFT_GPU_LOCKS"
HELD = "FNSFT_GPUS_HELD"  # for the processes that share a run: what the first of them has taken
VISIBLE = "CUDA_VISIBLE_DEVICES"
# Of the machine, not of a checkout or a job's TMPDIR.
DEFAULT_FOLDER = "/tmp/fnsft-gpus"
POLL_SECONDS = 0.1


def widest(device: "torch.device") -> "torch.dtype":
    """Return what sums are taken in: float64, and float32 on Apple's devices, which lack it."""
    import torch

    return torch.float32 if device.type == "mps" else torch.float64


def workflow_pool(n_gpus: int | None) -> str | None:
    """Return the pool for a workflow's jobs; None where there is none to name.

    Parameters
    ----------
    n_gpus
        How many devices its jobs may hold together (Snakemake's ``--resources gpu=N``), if that is
        limited. Which they are says ``FNSFT_GPUS``, or else ``CUDA_VISIBLE_DEVICES``; without both
        they are the first. SLURM assigns devices by itself.

    Raises
    ------
    InputError
        When fewer devices are named than jobs may hold.
    """
    given = os.environ.get(POOL)
    if n_gpus == 0:
        return ""
    if n_gpus is None or (given is None and "SLURM_JOB_ID" in os.environ):
        return given
    where = VISIBLE if given is None else POOL
    pool = os.environ.get(where, ",".join(map(str, range(n_gpus))))
    if len(_names(pool)) < n_gpus:
        raise InputError(
            f"--resources gpu={n_gpus}: expected at most as many devices as {where} names, found "
            f"{pool!r}; ask for fewer, or name more"
        )
    return pool


def take(n: int) -> None:
    """Make ``n`` devices of the pool the ones that this process and its children see.

    Without a pool nothing changes, nor under SLURM or a launcher of processes, which assign
    devices by themselves. A process whose parent has taken devices shares those. Where too few are
    free it waits, in a queue, so that a job that needs many is not passed by those that need few.

    Raises
    ------
    InputError
        When the pool has fewer.
    """
    pool = os.environ.get(POOL)
    if held := os.environ.get(HELD):
        for name in _names(held):
            _share(_opened(name))
    elif pool is not None and (not _names(pool) or n < 1):
        os.environ |= {POOL: "", VISIBLE: ""}
    elif pool is not None and not {"SLURM_JOB_ID", "LOCAL_RANK"} & os.environ.keys():
        names = _names(pool)
        if n > len(names):
            raise InputError(
                f"{POOL}: expected at least {n} devices, one a process, found {len(names)} "
                f"({pool}); name more, or use fewer processes"
            )
        taken = ",".join(_taken(n, names))
        os.environ |= {VISIBLE: taken, HELD: taken}


def accelerator() -> "torch.device":
    """Return the current accelerator (cuda, mps, …), or the CPU where there is or may be none."""
    import torch

    found = torch.accelerator.current_accelerator(check_available=True)
    return torch.device("cpu") if found is None or os.environ.get(POOL) == "" else found


def _names(pool: str) -> list[str]:
    """Return a pool's devices, each once; as for CUDA, what comes after -1 does not count."""
    names = list(dict.fromkeys(name.strip() for name in pool.split(",") if name.strip()))
    return names[: names.index("-1")] if "-1" in names else names


def _taken(n: int, names: list[str]) -> list[str]:
    """Lock ``n`` of the devices as soon as so many are free."""
    queue = _opened("queue")
    waits = not _locked(queue)
    if waits:
        _say_waiting(n, names)
        fcntl.flock(queue, fcntl.LOCK_EX)
    free: dict[str, int] = {}
    # Only the head of the queue takes, so that what it has found free stays so meanwhile.
    while len(free) < n:
        for name in names:
            if name not in free and len(free) < n:
                lock = _opened(name)
                if _locked(lock):
                    free[name] = lock
                else:
                    os.close(lock)
        if len(free) < n:
            if not waits:
                _say_waiting(n, names)
            waits = True
            time.sleep(POLL_SECONDS)
    for lock in free.values():
        _share(lock)
    os.close(queue)
    return [name for name in names if name in free]


def _say_waiting(n: int, names: list[str]) -> None:
    print(f"waiting for {n} of the devices {','.join(names)} ({POOL})", file=sys.stderr, flush=True)


def _opened(name: str) -> int:
    """Open a lock's file for as long as the process lives; any user of the machine may."""
    folder = Path(os.environ.get(FOLDER, DEFAULT_FOLDER))
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o1777)
    path = folder / f"{name.replace('/', '_')}.lock"
    try:
        return os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)


def _locked(file: int) -> bool:
    """Lock an open file unless another process holds it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _share(file: int) -> None:
    """Hold a lock together with the processes that share the run, which may outlive this one."""
    fcntl.flock(file, fcntl.LOCK_SH)
    os.set_inheritable(file, True)
