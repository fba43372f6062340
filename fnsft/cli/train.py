"""``fnsft train``: fine-tune one model with one method."""

import argparse
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fnsft.config.stages import CLUSTER_AFFINITIES, TrainSettings
from fnsft.errors import InputError

if TYPE_CHECKING:
    from fnsft.training.masking import Structure

SETTINGS = TrainSettings


def add_paths(parser: argparse.ArgumentParser) -> None:
    """Add the files that the stage reads and writes, and the run's names in tables."""
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face model folder")
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of fnsft prepare with the three splits"
    )
    parser.add_argument(
        "--graph", type=Path, help="collaboration graph (collab; a dense one for affinity dense)"
    )
    parser.add_argument(
        "--clusters", type=Path, help="clusters (collab with affinity cluster, cluster-shuffled)"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the tuned model")
    parser.add_argument(
        "--checkpoints",
        type=Path,
        help="folder that an interrupted run resumes from; removed at success "
        "(default: beside the output)",
    )
    parser.add_argument("--model-name", help="the model's name in tables (default: its folder's)")
    parser.add_argument("--task", help="the task's name in tables (default: the data folder's)")
    parser.add_argument("--method-name", help="the method's name in tables (default: the method)")


def run(arguments: argparse.Namespace, settings: TrainSettings) -> None:
    """Check the inputs, train, and remove the checkpoints."""
    from fnsft.artifacts.identity import model_identity
    from fnsft.artifacts.manifest import recorded_stage
    from fnsft.artifacts.storage import existing
    from fnsft.artifacts.training import Run
    from fnsft.training.checkpoints import claim

    source = _source(arguments, settings)
    inputs = {"model": arguments.model, "data": existing(arguments.data)}
    model = model_identity(arguments.model)
    structure = None
    if source is not None:
        inputs[source] = getattr(arguments, source)
        structure = _read_structure(inputs[source], settings, model)
    checkpoints = arguments.checkpoints or arguments.output.with_name(
        f"{arguments.output.name}.checkpoints"
    )
    resume_from = claim(checkpoints, settings, inputs)

    from fnsft.training.finetuning import RunFiles, fine_tune

    identity = Run(
        model=arguments.model_name or arguments.model.name,
        task=arguments.task or arguments.data.name,
        method=arguments.method_name or settings.method,
        fraction=settings.fraction,
        lam=settings.lam if settings.method == "collab" else None,
        affinity=settings.affinity,
        applies_to=settings.applies_to if settings.fraction is not None else None,
        stage=1,
        seed=settings.seed,
        learning_rate=settings.learning_rate,
    )
    files = RunFiles(arguments.model, arguments.data, checkpoints, arguments.output)
    try:
        with recorded_stage(settings, inputs, arguments.output) as record:
            done = fine_tune(files, settings, structure, identity, resume_from, record)
            record.note(resumed_from=resume_from.name if resume_from else None)
    except InputError:
        if not list(checkpoints.glob("checkpoint-*")):
            shutil.rmtree(checkpoints)  # nothing to resume from
        raise
    shutil.rmtree(checkpoints)
    print(
        f"{arguments.output}: {identity.method}, {done.optimizer_steps} steps, best epoch "
        f"{done.best_epoch}, validation perplexity {done.best_validation_perplexity:.4f}; "
        f"{record.notes['train_samples_left_out']} longer samples left out",
        file=sys.stderr,
    )


def _source(arguments: argparse.Namespace, settings: TrainSettings) -> str | None:
    """Return which file the method needs, ``graph``, ``clusters`` or none; refuse the other."""
    needed = None
    if settings.method == "collab":
        needed = "clusters" if settings.affinity in CLUSTER_AFFINITIES else "graph"
    what = f"method {settings.method!r}"
    what += f" with affinity {settings.affinity!r}" if settings.affinity else ""
    for source, words in (("graph", "a graph"), ("clusters", "clusters")):
        given = getattr(arguments, source) is not None
        if given and source != needed:
            raise InputError(f"{what} takes no {source}; leave --{source} out")
        if not given and source == needed:
            raise InputError(f"{what} needs {words}: give --{source}")
    return needed


def _read_structure(path: Path, settings: TrainSettings, model: str) -> "Structure":
    """Read the graph or the clusters of this model that the affinity is made from."""
    from fnsft.artifacts.clusters import read_clusters
    from fnsft.artifacts.graphs import open_dense_graph, read_graph

    if settings.affinity in CLUSTER_AFFINITIES:
        return read_clusters(path, model)
    return (
        open_dense_graph(path, model) if settings.affinity == "dense" else read_graph(path, model)
    )
