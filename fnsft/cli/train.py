"""``fnsft train``: fine-tune one model with one method."""

import argparse
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fnsft.config.settings import fields_of, flag_of
from fnsft.config.stages import CLUSTER_AFFINITIES, NetworksSettings, TrainSettings
from fnsft.errors import InputError

if TYPE_CHECKING:
    from fnsft.artifacts.training import Run
    from fnsft.training.masking import Graph

SETTINGS = TrainSettings
SOURCES = {"graph": "a graph", "clusters": "clusters"}


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
    parser.add_argument(
        "--networks",
        type=Path,
        help="networks that mask_mode is about: networks.safetensors, or JSON such as "
        '{"0": [10, 50]}; absent: found in the training split first',
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the tuned model")
    parser.add_argument(
        "--checkpoints",
        type=Path,
        help="folder that an interrupted run resumes from; removed at success "
        "(default: beside the output)",
    )
    parser.add_argument(
        "--processes",
        type=int,
        default=1,
        metavar="N",
        help="processes, one a GPU, that share the run (default 1)",
    )
    parser.add_argument("--model-name", help="the model's name in tables (default: its folder's)")
    parser.add_argument("--task", help="the task's name in tables (default: the data folder's)")
    parser.add_argument("--method-name", help="the method's name in tables (default: the method)")


def run(arguments: argparse.Namespace, settings: TrainSettings) -> None:
    """Check the inputs, train, and remove the checkpoints."""
    from fnsft.artifacts.identity import model_identity
    from fnsft.artifacts.manifest import recorded_stage
    from fnsft.artifacts.storage import existing
    from fnsft.training.checkpoints import claim
    from fnsft.training.processes import Processes, launch

    processes = Processes.of_environment()
    source = _source(arguments, settings)
    _require_networks(arguments.networks, settings)
    inputs = {"model": arguments.model, "data": existing(arguments.data)}
    model = model_identity(arguments.model)
    structure = None
    if source is not None:
        inputs[source] = existing(getattr(arguments, source))
        structure = _read_structure(inputs[source], settings, model)
    if arguments.networks is not None:
        inputs["networks"] = existing(arguments.networks)
    checkpoints = arguments.checkpoints or arguments.output.with_name(
        f"{arguments.output.name}.checkpoints"
    )
    if arguments.processes > 1 and processes.n == 1:
        launch(
            arguments.processes,
            [settings.stage, *_words(arguments), *shlex.split(settings.flags())],
        )
        return
    resume_from = claim(checkpoints, settings, inputs, processes.is_main)

    from fnsft.training.files import RunFiles
    from fnsft.training.finetuning import fine_tune

    files = RunFiles(
        model=arguments.model,
        data=arguments.data,
        checkpoints=checkpoints,
        output=arguments.output,
        networks=arguments.networks,
        resume_from=resume_from,
    )
    identity = _identity(arguments, settings)
    try:
        with recorded_stage(settings, inputs, arguments.output, processes.is_main) as record:
            done = fine_tune(files, settings, structure, identity, record, processes)
            record.note(resumed_from=resume_from.name if resume_from else None)
    except InputError:
        if processes.is_main and not list(checkpoints.glob("checkpoint-*")):
            shutil.rmtree(checkpoints)  # nothing to resume from
        raise
    if not processes.is_main:
        return
    shutil.rmtree(checkpoints)
    print(
        f"{arguments.output}: {identity.method}, {done.optimizer_steps} steps, best epoch "
        f"{done.best_epoch}, validation perplexity {done.best_validation_perplexity:.4f}; "
        f"{record.notes['train_samples_left_out']} longer samples left out",
        file=sys.stderr,
    )


def _words(arguments: argparse.Namespace) -> list[str]:
    """Return the flags that are no settings as they were given, for processes that share a run."""
    others = {name: value for name, value in vars(arguments).items() if value is not None}
    for name in ("stage", "processes", *fields_of(SETTINGS)):
        others.pop(name, None)
    return [word for name, value in others.items() for word in (flag_of(name), str(value))]


def _identity(arguments: argparse.Namespace, settings: TrainSettings) -> "Run":
    """Return what tells this run from others in tables."""
    from fnsft.artifacts.training import Run

    return Run(
        model=arguments.model_name or arguments.model.name,
        task=arguments.task or arguments.data.name,
        method=arguments.method_name or settings.method,
        fraction=settings.fraction,
        lam=settings.lam if settings.method == "collab" else None,
        affinity=settings.affinity,
        applies_to=settings.applies_to if settings.masked else None,
        mask_mode=settings.mask_mode,
        stage=1,
        seed=settings.seed,
        learning_rate=settings.learning_rate,
    )


def _source(arguments: argparse.Namespace, settings: TrainSettings) -> str | None:
    """Return which file the method needs (graph, clusters), or none; refuse others."""
    needed = None
    if settings.method == "collab":
        needed = "clusters" if settings.affinity in CLUSTER_AFFINITIES else "graph"
    what = f"method {settings.method!r}"
    what += f" with affinity {settings.affinity!r}" if settings.affinity else ""
    for source, words in SOURCES.items():
        given = getattr(arguments, source) is not None
        if given and source != needed:
            raise InputError(f"{what} takes no {source}; leave --{source} out")
        if not given and source == needed:
            raise InputError(f"{what} needs {words}: give --{source}")
    return needed


def _require_networks(file: Path | None, settings: TrainSettings) -> None:
    """Refuse networks that no mask is about, and those that will not be found without a file."""
    if file is not None and settings.mask_mode is None:
        raise InputError(
            "--networks: expected a mask_mode, found none; say --mask-mode lesion, preserve, "
            "train-only or freeze, or leave --networks out"
        )
    n_networks = NetworksSettings().n_components
    asked = [*settings.component_ids, *(i for ids in settings.unfreezing() for i in ids)]
    if file is None and settings.mask_mode is not None and max(asked) >= n_networks:
        raise InputError(
            f"component_ids: expected networks 0 to {n_networks - 1} of those found in the "
            f"training split, found {max(asked)}; find more with fnsft networks and give --networks"
        )


def _read_structure(path: Path, settings: TrainSettings, model: str) -> "Graph":
    """Read the graph or clusters of this model."""
    from fnsft.artifacts.clusters import read_clusters
    from fnsft.artifacts.graphs import open_dense_graph, read_graph

    if settings.affinity in CLUSTER_AFFINITIES:
        return read_clusters(path, model)
    return (
        open_dense_graph(path, model) if settings.affinity == "dense" else read_graph(path, model)
    )
