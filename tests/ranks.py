"""Programs and functions that several processes share, as ranks 0, 1, … of one run.

All are forked from one process that has imported what they need, which takes each ten seconds
else. That torchrun, `accelerate launch` and `--processes` start runs alike is tested beside them.
"""

import os
import runpy
import socket
import sys
import tempfile
from collections.abc import Callable
from multiprocessing import connection
from pathlib import Path

import torch

SECONDS = 600
PROGRAMS = {"ddp": ["-m", "fnsft"], "fsdp": [str(Path(__file__).with_name("sharded_train.py"))]}
CONTEXT = torch.multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["trl", "peft", "transformers.models.llama.modeling_llama", "sklearn.decomposition"]
    + ["torch.distributed.fsdp", "fnsft.training.trainer", "fnsft.training.arguments"]
)


def in_processes(n: int, command: list[str], **environment: str) -> tuple[int, str]:
    """Run ``SCRIPT …`` or ``-m MODULE …`` in ``n`` processes; return how it ended and stderr.

    The exit code is that of the first process that fails, which ends the others.
    """
    with socket.socket() as free, tempfile.NamedTemporaryFile("r") as said:
        free.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        shared = os.environ | environment | meeting
        shared |= {"WORLD_SIZE": str(n), "LOCAL_WORLD_SIZE": str(n)}
        free.close()
        ranks = [
            CONTEXT.Process(
                target=_run,
                args=(command, shared | {"RANK": str(i), "LOCAL_RANK": str(i)}, said.name),
            )
            for i in range(n)
        ]
        for process in ranks:
            process.start()
        running = {process.sentinel: process for process in ranks}
        code = 0
        while running and code == 0:
            ended = connection.wait(running, timeout=SECONDS)
            codes = [running.pop(sentinel).exitcode for sentinel in ended]
            code = next((code for code in codes if code), 0 if ended else -1)
        for process in running.values():
            process.kill()
        for process in ranks:
            process.join()
        return code, said.read()


def call_in_processes(n: int, function: Callable[..., None], *arguments: object) -> None:
    """Call ``function(rank, *arguments)`` in ``n`` processes; what one raises is raised here."""
    torch.multiprocessing.start_processes(function, arguments, n, start_method="forkserver")


def _run(command: list[str], environment: dict[str, str], said: str) -> None:
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)
    errors = os.open(said, os.O_WRONLY | os.O_APPEND)
    os.dup2(errors, 1)
    os.dup2(errors, 2)
    if command[0] == "-m":
        sys.argv = command[1:]
        runpy.run_module(command[1], run_name="__main__")
    else:
        sys.argv = command
        sys.path.insert(0, str(Path(command[0]).parent))
        runpy.run_path(command[0], run_name="__main__")
