"""What compact training saves: memory and time of a step, beside full fine-tuning.

    python benchmarks/compact.py [--quick] [--share 0.02] [--steps 7]

A Llama of SmolLM2's shape (135M parameters, 30 layers of 1,536 neurons), random weights, float32,
trained by the trainers of ``fnsft train`` (TRL's loss, clipping, fused AdamW), without validation
and checkpoints, on the same random batches, 256 tokens a step. Full fine-tuning trains all of it;
compact training a share of every layer's neurons, drawn at random, and nothing else.
Each has a process of its own; they take their steps in turn, one waiting while the other computes.
The last line is one JSON object:

``memory_ratio``
    Peak of the compact process over that of the full one, each above what it held after its
    imports (VmHWM less VmRSS then).
``memory_ratio_whole``
    The same of whole processes, libraries and all.
``step_time_ratio``
    Median seconds of a step of the one over those of the other; the first of each does not count.
``step_cpu_ratio``
    The same in seconds of the processor, over all threads, which other programs blur less.
``full_…``, ``compact_…``
    What they are made of: ``peak_mib``, ``imports_mib``, ``step_seconds``, ``step_cpu_seconds``,
    ``trained_parameters``.
``load``
    Processes that were running or waiting, in the mean of the last minute, before and after.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

KINDS = ("full", "compact")
SMOLLM2 = {
    "vocab_size": 49_152,
    "hidden_size": 576,
    "intermediate_size": 1_536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
}
QUICK = SMOLLM2 | {"vocab_size": 512, "num_hidden_layers": 2}


def main() -> None:
    """Parse, start a process of each kind, let them step in turn, print what they took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small model, to try the script")
    parser.add_argument("--share", type=float, default=0.02, help="of the neurons that train")
    parser.add_argument("--steps", type=int, default=7, help="steps of each that count")
    parser.add_argument("--batch", type=int, default=2, help="sequences of a step")
    parser.add_argument("--tokens", type=int, default=128, help="tokens of a sequence")
    parser.add_argument("--gradient-checkpointing", action="store_true", help="in both")
    parser.add_argument("--kind", choices=KINDS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.kind:
        step_when_told(arguments)
    else:
        print(json.dumps(measure(arguments)))


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what the last line holds."""
    load = os.getloadavg()[0]
    started = {
        kind: subprocess.Popen(
            [sys.executable, *sys.argv, "--kind", kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for kind in KINDS
    }
    found: dict[str, Any] = {kind: answer(process) for kind, process in started.items()}
    steps: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    for _ in range(1 + arguments.steps):
        for kind, process in started.items():
            steps[kind].append(answer(process, "step"))
    for kind, process in started.items():
        found[kind] |= answer(process)
        for name in ("step_seconds", "step_cpu_seconds"):
            found[kind][name] = statistics.median(step[name] for step in steps[kind][1:])
    full, compact = (found[kind] for kind in KINDS)
    above = [one["peak_mib"] - one["imports_mib"] for one in (compact, full)]
    ratios = {
        "memory_ratio": above[0] / above[1],
        "memory_ratio_whole": compact["peak_mib"] / full["peak_mib"],
        "step_time_ratio": compact["step_seconds"] / full["step_seconds"],
        "step_cpu_ratio": compact["step_cpu_seconds"] / full["step_cpu_seconds"],
    }
    parts = {f"{kind}_{name}": value for kind in KINDS for name, value in found[kind].items()}
    return {
        **{name: round(value, 4) for name, value in ratios.items()},
        **{name: round(value, 3) for name, value in parts.items()},
        "load": [round(load, 1), round(os.getloadavg()[0], 1)],
    }


def answer(process: "subprocess.Popen[str]", told: str | None = None) -> dict[str, Any]:
    """Tell a process what to do, and return what it says."""
    assert process.stdin is not None and process.stdout is not None
    if told:
        print(told, file=process.stdin, flush=True)
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"a process ended with code {process.wait()}; its message is above")
    found: dict[str, Any] = json.loads(line)
    return found


def step_when_told(arguments: argparse.Namespace) -> None:
    """Train as ``fnsft train`` does, but for its files; take a step for every line that comes."""
    # What others print must not come between the answers.
    answers, sys.stdout = sys.stdout, sys.stderr

    def tell(**values: float) -> None:
        print(json.dumps(values), file=answers, flush=True)

    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, TrainerCallback

    from fnsft.config.stages import TrainSettings
    from fnsft.data.tokens import Encoded
    from fnsft.training.allocator import give_back_large_blocks
    from fnsft.training.arguments import trainer_arguments
    from fnsft.training.finetuning import make_trainer
    from fnsft.training.networks import NeuronChoice
    from fnsft.training.processes import Processes

    imports = memory_mib("VmRSS")
    give_back_large_blocks()
    config = LlamaConfig(**(QUICK if arguments.quick else SMOLLM2))
    only: dict[str, Any] = (
        {"mask_mode": "train-only", "compact": True} if arguments.kind == "compact" else {}
    )
    batch, n_steps = arguments.batch, 1 + arguments.steps
    settings = TrainSettings(
        epochs=1,
        batch_size=batch,
        micro_batch_size=batch,
        gradient_checkpointing=arguments.gradient_checkpointing,
        **only,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    d_mlp, n_layers = config.intermediate_size, config.num_hidden_layers
    draws = [torch.randperm(d_mlp).numpy() < arguments.share * d_mlp for _ in range(n_layers)]
    ids = torch.randint(0, config.vocab_size, (batch * n_steps, arguments.tokens))
    samples = [Encoded((row[0],), tuple(row[1:])) for row in ids.tolist()]
    with tempfile.TemporaryDirectory() as folder:
        given = trainer_arguments(settings, Path(folder), Processes(1, 0), len(samples))
        given.save_strategy = "no"
        choice = NeuronChoice("intermediate", [draws])
        trainer = make_trainer(model, a_tokenizer(), samples, settings, given, choice)
        trained = [p.numel() for p in trainer.model.parameters() if p.requires_grad]

        class Told(TrainerCallback):
            def on_step_begin(self, *_: Any, **__: Any) -> None:
                sys.stdin.readline()
                self.start = time.perf_counter(), time.process_time()

            def on_step_end(self, *_: Any, **__: Any) -> None:
                clock, cpu = self.start
                tell(
                    step_seconds=time.perf_counter() - clock,
                    step_cpu_seconds=time.process_time() - cpu,
                )

        trainer.add_callback(Told())
        tell(imports_mib=imports, trained_parameters=sum(trained))
        trainer.train()
    tell(peak_mib=memory_mib("VmHWM"))


def a_tokenizer() -> Any:
    """Return a tokenizer of a few words: the samples are numbers already."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<pad>": 0, "</s>": 1}, unk_token="<pad>"))
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>")


def memory_mib(name: str) -> float:
    """Return a line of Linux' account of this process: VmRSS now, VmHWM at its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


if __name__ == "__main__":
    main()
