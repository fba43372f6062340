"""What a fine-tuning run costs.

Symbols: those of :mod:`fnsft.planning.passes`; K parameters that train, M entries of the MLP
matrices, s optimizer steps, k neighbours.
"""

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from fnsft.config.stages import TrainSettings
from fnsft.planning.known import Model, Samples
from fnsft.planning.passes import both, forward, forward_flops
from fnsft.planning.work import Cost, Work

if TYPE_CHECKING:
    from fnsft.training.memory import ModelShape

# Bytes that Adam reads and writes of a parameter in float32: weight, gradient, two moments, and
# clipping's pass over the gradient.
ADAM_BYTES = 8 * 4
# A selection of M entries took .039 s and the sum over 20 neighbours .18 s (docs/lab-log.md, what
# masks cost): so much of a selection is one neighbour.
NEIGHBOUR_SHARE = 0.18 / 0.039 / 20
HASH_SHARE = 0.4  # random masks are hashed, not ranked
# Kernels of one matrix's mask, as passes of a layer: one that is ranked, and with neighbours.
MASK_PASSES = {"collab": 3}


def train_cost(
    model: Model, train: Samples, validation: Samples, settings: TrainSettings, gpus: int
) -> Cost:
    """Return the cost of a run on so many devices (0: a processor).

    Notes
    -----
    A micro-batch is padded to its longest sample; a pair of answers is two samples, each with a
    forward pass of the start before the first step. Its pass is one forward and two backward (LoRA:
    one, since weights have no gradient; compact: one and the share of parameters that train; with
    checkpointing one more forward), validations are forward. Every step Adam moves ``ADAM_BYTES`` a
    trained parameter; masks rank M entries. Disk: the best epoch, while it runs a second one, two
    checkpoints with Adam's moments.

    Raises
    ------
    InputError
        When the devices cannot share a batch evenly.
    """
    from fnsft.training.memory import estimate

    shape = model.shape(settings)
    n = round(train.n * (1 + settings.replay_fraction))
    gpus = max(1, gpus)
    micro = min(settings.pass_samples(gpus), n)
    steps = math.ceil(n / settings.batch_size) * settings.epochs
    steps = min(steps, settings.max_steps or steps)
    batches = math.ceil(settings.batch_size / micro) * steps
    half = settings.bf16_autocast or settings.dtype == "bfloat16"
    answers = settings.answers_a_sample
    padded = train.padded(micro * answers)
    trained = _trained(shape, settings)
    ways: float = 2 if settings.method == "lora" else 3
    if settings.compact:
        ways = 2 + trained / shape.parameters
    ways += settings.gradient_checkpointing
    is_masked = settings.masked and not settings.compact
    updates = steps / settings.window if settings.method == "gmt" else steps
    work = Work(
        start="training",
        dtype="bfloat16" if half else "float32",
        flops=ways * forward_flops(shape, batches * micro * answers * padded, padded),
        layer_passes=(shape.layers + 1) * (ways * batches + 2 * updates)
        + 3 * shape.layers * updates * (MASK_PASSES.get(settings.method, 1) * is_masked),
        device_bytes=ADAM_BYTES * trained * updates,
        selected_entries=_selected(shape, settings) * updates,
        tokens_read=train.tokens + validation.tokens,
    )
    points = 1 + min(settings.validations, steps) + settings.epochs - 1
    validated = forward(shape, validation, micro, work.dtype).times(answers)
    work = both(work, validated.times(points))
    if settings.objective == "dpo":
        asked = forward(shape, replace(train, n=n), micro, work.dtype).times(answers)
        work = both(both(work, asked), validated)
    if drawn := _drawing_passes(settings, n):  # before the first step
        work = work.plus(
            flops=drawn * forward_flops(shape, train.mean, train.mean),
            layer_passes=drawn * (shape.layers + 1),
        )
    width = 2 if settings.dtype == "bfloat16" else 4
    saved = trained * 4 if settings.method == "lora" else shape.parameters * width
    copies = 2 if settings.average_with_start else 1
    checkpoint = (trained * width if settings.compact else saved) + 2 * trained * width
    temporary = 2 * checkpoint + copies * saved
    written = saved * (settings.epochs + copies) + 3 * trained * width * settings.epochs
    memory = estimate(shape, settings, train.longest, processes=gpus)
    return Cost(
        work=replace(work, disk_bytes=model.disk_bytes + model.base_bytes + written),
        memory=memory.total,
        kept=saved,
        temporary=temporary,
        model=model.name,
        method=settings.method,
        way=way_of(settings),
    )


def way_of(settings: TrainSettings) -> str:
    """Return what of a method decides its memory: SFT full, masked, or LoRA."""
    if settings.method == "lora":
        return "lora"
    if settings.compact:
        return "compact"
    return "masked" if settings.masked else "full"


def _trained(shape: "ModelShape", settings: TrainSettings) -> float:
    if settings.method == "lora":
        return settings.lora_rank * shape.adapter_widths
    frozen = settings.masked and settings.unmasked == "freeze"
    if settings.compact:
        from fnsft.training.memory import neuron_share

        return neuron_share(settings) * shape.mlp + (0 if frozen else shape.parameters - shape.mlp)
    only_mlp = frozen or settings.method == "projections-only"
    return shape.mlp if only_mlp else shape.parameters


def _drawing_passes(settings: TrainSettings, n: int) -> int:
    """Return the forward passes of single samples that what is drawn once takes.

    A backward pass is two; what LIFT makes of the weights alone is left out.
    """
    looked_at = min(n, settings.calibration_samples)
    match settings.method:
        case "child-tuning-d":
            return 3 * min(n, settings.fisher_samples or n)
        case "collab-static":
            return 3 * looked_at
        case "active-neurons":
            return looked_at
        case "ssu":
            return looked_at if settings.column_score == "wanda" else 0
    return 0


def _selected(shape: "ModelShape", settings: TrainSettings) -> float:
    """Return how many entries are ranked a step; a neighbour's share counts for collab."""
    if settings.method in ("highest", "gmt", "mofo", "small-weights"):
        return shape.mlp
    if settings.method == "collab":
        walked = settings.diffusion_steps if settings.affinity == "diffusion" else 1
        return shape.mlp * (1 + settings.k * NEIGHBOUR_SHARE * walked)
    hashed = settings.masked and not settings.compact
    return HASH_SHARE * shape.mlp if hashed else 0
