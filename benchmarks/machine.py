"""The rates of a machine's cores, for ``fnsft plan``: see ``workflow/machines/cpu.yaml``.

    python benchmarks/machine.py [--jobs 2]

As many processes as the machine has cores measure at the same time, each on one thread, since
the workflow too keeps all cores busy: a core beside a busy one is slower than alone. In under two
minutes on two cores; the last line is one JSON object, means over the processes:

``float32_flops``, ``bfloat16_flops``, ``float64_flops``
    Operations a second, counted as the plan counts them, of a forward and backward pass (bfloat16:
    under autocast; float64: of a forward pass) through four layers of SmolLM2's shape.
``layer_pass_seconds``
    Of one layer of a tiny model and one token: what a pass costs whatever its size.
``device_bytes_per_second``
    Bytes of fused AdamW's steps, counted as the plan counts them.
``selected_entries_per_second``, ``bit_products_per_second``
    Of the masks' selection and of the projection.
``disk_bytes_per_second``
    Of a file that is written to ``--folder``, forced to the disk, and read.
``start_light`` … ``start_training``
    Seconds of the imports alone. Stages take some more before they begin: the machine's file says
    where its own come from.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TOKENS, SAMPLES = 256, 2
STARTS = {
    "light": "import fnsft.cli.main, fnsft.artifacts.manifest",
    "arrays": "import numpy, numba, scipy.sparse, sklearn.cluster",
    "model": "import fnsft.evaluation.loading, fnsft.data.tokens",
    "training": "import fnsft.training.finetuning",
}


def main() -> None:
    """Parse, start a process a core, print the means of what they found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes at a time")
    parser.add_argument("--folder", type=Path, help="on the disk that is measured")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            print(json.dumps(measure(Path(folder))))
        return
    names = ("OMP", "OPENBLAS", "MKL", "NUMBA")
    environment = os.environ | {f"{name}_NUM_THREADS": "1" for name in names}
    command = [sys.executable, *sys.argv, "--one"]
    started = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(arguments.jobs)
    ]
    found = [json.loads(one.communicate()[0].splitlines()[-1]) for one in started]
    means = {name: sum(one[name] for one in found) / len(found) for name in found[0]}
    print(json.dumps({name: float(f"{value:.3g}") for name, value in means.items()}))


def measure(folder: Path) -> dict[str, float]:
    """Return all rates of one core."""
    found = starts() | disk_rate(folder)
    import torch

    torch.set_num_threads(1)
    return found | flops() | layer_pass() | adam_rate() | selection_rate() | bit_rate(folder)


def starts() -> dict[str, float]:
    """Time imports in fresh processes, the second time, when the files are in memory."""
    found = {}
    for name, line in STARTS.items():
        command = [sys.executable, "-c", line]
        subprocess.run(command, check=True)
        found[f"start_{name}"] = seconds(lambda c=command: subprocess.run(c, check=True), 1)
    return found


def disk_rate(folder: Path) -> dict[str, float]:
    """Write 128 MiB, force them to the disk, read them."""
    block, path = os.urandom(1 << 20), folder / "block"

    def write_and_read() -> None:
        with path.open("wb") as file:
            for _ in range(128):
                file.write(block)
            os.fsync(file.fileno())
        path.read_bytes()

    return {"disk_bytes_per_second": 2 * (128 << 20) / seconds(write_and_read, 1)}


def llama(d_model: int, d_mlp: int, n_heads: int, n_layers: int) -> Any:
    """Return a Llama with random weights and the plan's view of its shape."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from fnsft.config.stages import TrainSettings
    from fnsft.training.memory import shape_of_config

    config = LlamaConfig(
        vocab_size=4_096,
        hidden_size=d_model,
        intermediate_size=d_mlp,
        num_hidden_layers=n_layers,
        num_attention_heads=n_heads,
        num_key_value_heads=n_heads,
    )
    return LlamaForCausalLM(config), shape_of_config(config, TrainSettings())


def flops() -> dict[str, float]:
    """Pass batches through layers of SmolLM2's width."""
    import torch

    from fnsft.planning.passes import forward_flops

    model, shape = llama(576, 1_536, 9, 4)
    ids = torch.randint(0, 4_096, (SAMPLES, TOKENS))
    operations = forward_flops(shape, SAMPLES * TOKENS, TOKENS)

    def step(half: bool) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        model.zero_grad()

    found = {
        "float32_flops": 3 * operations / seconds(lambda: step(False)),
        "bfloat16_flops": 3 * operations / seconds(lambda: step(True)),
    }
    model.double()
    with torch.no_grad():
        taken = seconds(lambda: model(input_ids=ids))
    return found | {"float64_flops": operations / taken}


def layer_pass() -> dict[str, float]:
    """Pass one token through a tiny model."""
    import torch

    model, shape = llama(128, 384, 4, 4)
    ids = torch.zeros(1, 1, dtype=torch.long)
    with torch.no_grad():
        taken = seconds(lambda: model(input_ids=ids), 50)
    return {"layer_pass_seconds": taken / (shape.layers + 1)}


def adam_rate() -> dict[str, float]:
    """Step fused AdamW on 16 million parameters."""
    import torch

    from fnsft.planning.training_costs import ADAM_BYTES

    weights = torch.nn.Parameter(torch.randn(1 << 24))
    weights.grad = torch.randn(1 << 24)
    optimizer = torch.optim.AdamW([weights], fused=True)

    def step() -> None:
        torch.nn.utils.clip_grad_norm_([weights], 1.0)
        optimizer.step()

    return {"device_bytes_per_second": ADAM_BYTES * (1 << 24) / seconds(step)}


def selection_rate() -> dict[str, float]:
    """Rank the entries of a matrix."""
    import torch

    from fnsft.masks.selection import select_top

    scores = torch.randn(1_536, 8_192).abs()
    taken = seconds(lambda: select_top(scores, 0.5, 0, None))
    return {"selected_entries_per_second": scores.numel() / taken}


def bit_rate(folder: Path) -> dict[str, float]:
    """Project a layer of 4,096 neurons and 32,768 tokens."""
    import numpy as np
    from graph import project, write_dump

    from fnsft.neurons.frequencies import frequency_ranks, token_weights

    (folder / "dump").mkdir()
    dump, ids = write_dump(folder / "dump", 4_096, 32_768)
    bits = dump.layer(0)
    weights = token_weights(ids, frequency_ranks(np.bincount(ids)), 1.3, 3)
    taken = seconds(lambda: project(bits, weights))
    return {"bit_products_per_second": 4_096**2 / 2 * 32_768 / taken}


def seconds(run: Callable[[], object], repeats: int = 3) -> float:
    """Return the mean time of a call by the clock, after one that does not count."""
    if repeats > 1:
        run()
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    return (time.perf_counter() - start) / repeats


if __name__ == "__main__":
    main()
