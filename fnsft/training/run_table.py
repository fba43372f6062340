"""What a run will do, in one table before its first step."""

import psutil
import torch

from fnsft.artifacts.storage import size_in_words
from fnsft.artifacts.training import Run
from fnsft.config.stages import FRACTION_METHODS, RANKED_METHODS, TrainSettings
from fnsft.data.tokens import EncodedSplit
from fnsft.training.arguments import accumulation, samples_a_step, total_steps
from fnsft.training.files import RunFiles
from fnsft.training.loading import attention_of
from fnsft.training.memory import MemoryEstimate, estimate, shape_or_none
from fnsft.training.networks import trained_share
from fnsft.training.processes import Processes


def run_lines(
    files: RunFiles,
    settings: TrainSettings,
    processes: Processes,
    device: torch.device,
    train: EncodedSplit,
    validation: EncodedSplit,
    of_stage: dict[str, str],
) -> list[str]:
    """Return the run's table, aligned, and a warning where its memory may not suffice.

    ``train`` holds all that is learned from, replayed samples among them.
    """
    shape, free = shape_or_none(files.model, settings), free_bytes(device)
    own_attention = shape.attention if shape else "the model's own"
    attention = attention_of(settings, device) or own_attention
    rows = {
        "model": files.base_name + (f", {shape.parameters / 1e6:,.1f}M parameters" if shape else "")
    }
    rows |= of_stage
    rows |= settings_in_words(settings, processes, len(train.samples))
    times = min(settings.validations, total_steps(settings, processes, len(train.samples)))
    rows["validation"] = f"{len(validation.samples):,} samples, about {times} times"
    rows["attention"] = attention
    warning = []
    if shape is None:
        rows["memory"] = "unknown for this architecture"
    else:
        longest = max(sample.longest for sample in (*train.samples, *validation.samples))
        eager = attention == "eager"
        neurons = None
        if settings.compact and files.networks is not None:
            width = shape.graph_layers * shape.graph_width // shape.layers
            neurons = trained_share(files.networks, settings, shape.layers, width)
        expected = estimate(shape, settings, longest, eager, processes.n, neurons)
        rows["memory"] = f"about {size_in_words(expected.total)} at the peak, beside libraries"
        rows[""] = expected.parts_in_words
        warning = warning_lines(expected, free, settings)
    rows["device"] = f"{device.type}, {size_in_words(free)} free"
    rows["checkpoints"] = str(files.checkpoints)
    return [f"{name:<14} {words}" for name, words in rows.items()] + warning


def stage_in_words(run: Run, settings: TrainSettings, n_replayed: int) -> dict[str, str]:
    """Return the rows about a sequence of stages: none for a plain first stage."""
    rows = {"stage": f"{run.stage} of {run.sequence}"} if run.stage > 1 else {}
    if n_replayed or (settings.replay_fraction and run.stage > 1):
        rows["replay"] = f"{n_replayed:,} samples of earlier stages among them"
    elif settings.replay_fraction:
        rows["replay"] = "nothing: a first stage has none before it"
    if settings.l2_to_start:
        rows["penalty"] = f"{settings.l2_to_start:g} / 2 of the squared distance to the start"
    if settings.average_with_start:
        rows["saved"] = f"averaged with {settings.average_with_start:.0%} of the first weights"
    return rows


def settings_in_words(
    settings: TrainSettings, processes: Processes, n_samples: int
) -> dict[str, str]:
    """Return the rows of the table that settings and the number of samples decide."""
    steps = total_steps(settings, processes, n_samples)
    passes = accumulation(settings, processes)
    share = "process" if processes.n == 1 else "processes"
    return {
        "method": method_in_words(settings),
        **objective_in_words(settings),
        "learning rate": f"{settings.learning_rate:g} ({_origin(settings)}), {settings.schedule}",
        "batch": f"{samples_a_step(settings)} samples = "
        f"{settings.pass_samples(processes.n)} a pass x {passes} passes x {processes.n} {share}",
        "steps": f"{steps:,}, of at most {settings.epochs} epochs over {n_samples:,} samples",
        "precision": precision_in_words(settings),
    }


def method_in_words(settings: TrainSettings) -> str:
    """Say what may change, such as ``highest: half of …``."""
    words: str = settings.method
    if settings.method in FRACTION_METHODS:
        what = "gradients" if settings.applies_to == "gradient" else "updates"
        of = "MLP matrix" if settings.neurons == "mlp" else "matrix of attention heads"
        words += f", {settings.fraction:.0%} of every {of} ({what} are masked)"
    if settings.method in RANKED_METHODS:
        what = "neurons" if settings.neuron_wise else f"columns by {settings.column_score}"
        words += f", highest {what}: {settings.polarity}"
    if settings.affinity:
        words += f", affinity {settings.affinity}"
    if settings.method == "lora":
        words += f", rank {settings.lora_rank} on {settings.lora_targets}"
    if settings.mask_mode:
        ids = ", ".join(map(str, settings.component_ids))
        what = "as many random neurons as networks" if settings.random_networks else "networks"
        words += f", {settings.mask_mode} {what} {ids}"
    if settings.compact:
        words += ", compact"
    return words


def objective_in_words(settings: TrainSettings) -> dict[str, str]:
    """Return the row about what is minimised, where that is not the loss of completions."""
    if settings.objective == "completion":
        return {}
    words = f"DPO, beta {settings.dpo_beta:g}: a sample is a prompt with two answers"
    return {"objective": words}


def precision_in_words(settings: TrainSettings) -> str:
    """Say in what precision weights are held and products are taken."""
    held = f"{settings.quantise} base" if settings.quantise else f"{settings.dtype} weights"
    adapters = ", float32 adapters" if settings.method == "lora" else ""
    return held + adapters + (", computed in bfloat16" if settings.bf16_autocast else "")


def warning_lines(expected: MemoryEstimate, free: int, settings: TrainSettings) -> list[str]:
    """Return what to do when a run may not fit, or nothing."""
    if expected.total <= free:
        return []
    remedies = []
    if settings.micro_batch_size > 1:
        remedies.append(f"--micro-batch-size {settings.micro_batch_size // 2}")
    if not settings.gradient_checkpointing:
        remedies.append("--gradient-checkpointing")
    if (settings.mask_mode, settings.method) == ("train-only", "sft") and not (
        settings.compact or settings.unfreeze
    ):
        remedies.append("--compact")
    if settings.method != "lora":
        remedies.append("--method lora")
    elif not settings.quantise:
        remedies.append("--quantise nf4")
    remedies.append("--max-tokens with fewer")
    return [
        f"warning: the run may need {size_in_words(expected.total)}, and "
        f"{size_in_words(free)} are free; try {', '.join(remedies)}"
    ]


def free_bytes(device: torch.device) -> int:
    """Return how much memory a device has free."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return psutil.virtual_memory().available


def _origin(settings: TrainSettings) -> str:
    default = TrainSettings(method=settings.method).learning_rate
    return "the method's default" if settings.learning_rate == default else "given"
