"""``fnsft train``: fine-tune one model with one method."""

import argparse
import contextlib
import dataclasses
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fnsft.cli.flags import read_settings
from fnsft.cli.own_graph import make_graph, read_structure, wanted_structure
from fnsft.cli.train_flags import add_paths
from fnsft.config.stages import DataSettings, NetworksSettings, TrainSettings
from fnsft.errors import InputError

if TYPE_CHECKING:
    from fnsft.artifacts.training import Run, TrainingRecord
    from fnsft.training.files import RunFiles
    from fnsft.training.own_data import Source
    from fnsft.training.stages import Lineage

__all__ = ["SETTINGS", "add_paths", "run"]

SETTINGS = TrainSettings


def run(arguments: argparse.Namespace, settings: TrainSettings) -> None:
    """Check the inputs, prepare what is raw, train, and remove the checkpoints."""
    from fnsft.artifacts.identity import model_identity
    from fnsft.artifacts.storage import existing
    from fnsft.hub.models import local_model
    from fnsft.training.checkpoints import (
        clear,
        is_claimed,
        locked,
        require_ours,
        saved_checkpoint,
    )
    from fnsft.training.files import RunFiles
    from fnsft.training.preferences import require_objective
    from fnsft.training.processes import (
        Processes,
        launch,
        require_as_launched,
        require_whole_layers,
    )
    from fnsft.training.replay import require_replay
    from fnsft.training.stages import (
        lineage_of,
        require_first_structure,
        require_plain_start,
        structure_identity,
    )

    processes = Processes.of_environment()
    require_as_launched(settings, processes)
    require_whole_layers(settings, max(arguments.processes, processes.n))
    wanted = wanted_structure(arguments, settings)
    _require_networks(arguments.networks, settings)
    _require_calibrated(arguments.calibration, settings)
    source = _source(arguments)
    model = local_model(arguments.model, arguments.model_revision)
    require_plain_start(model)
    lineage = lineage_of(model, model_identity(model))
    given = getattr(arguments, wanted) if wanted else None
    require_first_structure(settings, lineage, given, arguments.networks)
    require_replay(arguments.replay, settings, lineage.stage)
    if given is not None:
        read_structure(existing(given), settings, structure_identity(settings, lineage))
    for path in filter(None, (arguments.networks, arguments.validation, arguments.registry)):
        existing(path)
    _name(arguments, source, lineage)
    lineage.sequence(arguments.task)  # refuses a name that would read as two tasks
    files = RunFiles(
        model=model,
        data=Path(source.data),
        checkpoints=arguments.checkpoints
        or arguments.output.with_name(f"{arguments.output.name}.checkpoints"),
        output=arguments.output,
        networks=arguments.networks,
        replay=tuple(arguments.replay),
        calibration=arguments.calibration,
    )
    read = (arguments.validation, arguments.registry, arguments.networks, arguments.calibration)
    beside = (*read, *files.replay)
    files.require_apart(*beside, given)
    require_ours(files.checkpoints)
    shared = arguments.processes > 1 and processes.n == 1
    with locked(files.checkpoints) if processes.is_main else contextlib.nullcontext():
        if arguments.resume == "never":
            _start_anew(files.checkpoints, processes.n)
        elif arguments.resume == "require" and saved_checkpoint(files.checkpoints) is None:
            raise InputError(
                f"{files.checkpoints}: resume: expected a checkpoint to go on from, found none; "
                "leave --resume off to start anew"
            )
        before = set(files.checkpoints.glob("*")) if is_claimed(files.checkpoints) else None
        try:
            files = dataclasses.replace(files, data=_prepared(source, files, processes.n))
            splits = (files.train, files.validation, *(f / "train.jsonl" for f in files.replay))
            require_objective(splits, settings.objective)
            if wanted and given is None:
                given = _made_structure(files, settings, processes.n)
            if not shared:
                _train(arguments, settings, files, lineage, wanted, given)
        except InputError:
            if processes.is_main:
                clear(files.checkpoints, before)
            raise
    if shared:  # of these the main one locks and clears; what ends all may be no fault of the input
        launch(arguments.processes, _words(arguments, settings, files, wanted, given))


def _train(
    arguments: argparse.Namespace,
    settings: TrainSettings,
    files: "RunFiles",
    lineage: "Lineage",
    wanted: str | None,
    structure: Path | None,
) -> None:
    """Train in this process, alone or as one of several."""
    from fnsft.artifacts.manifest import recorded_stage
    from fnsft.training.checkpoints import claim
    from fnsft.training.finetuning import fine_tune
    from fnsft.training.processes import Processes
    from fnsft.training.stages import structure_identity

    processes = Processes.of_environment()
    inputs = {"model": files.model, "data": files.data}
    graph = None
    if wanted and structure is not None:
        inputs[wanted] = structure
        graph = read_structure(structure, settings, structure_identity(settings, lineage))
    if files.networks is not None:
        inputs["networks"] = files.networks
    if files.calibration is not None:
        inputs["calibration"] = files.calibration
    inputs |= {f"replay {number}": folder for number, folder in enumerate(files.replay, start=1)}
    resume_from = claim(files.checkpoints, settings, inputs, processes.is_main)
    files = dataclasses.replace(files, resume_from=resume_from)
    if resume_from is not None and processes.is_main:
        print(f"going on from {resume_from}", file=sys.stderr)
    identity = _identity(arguments, settings, lineage)
    with recorded_stage(settings, inputs, files.output, processes.is_main) as record:
        done = fine_tune(files, settings, graph, identity, lineage, record, processes)
        record.note(resumed_from=resume_from.name if resume_from else None)
    if not processes.is_main:
        return
    shutil.rmtree(files.checkpoints)
    print(
        f"{files.output}: {identity.method}, {done.optimizer_steps} steps, best epoch "
        f"{done.best_epoch:g}, validation perplexity {done.best_validation_perplexity:.4f}"
        f"{_after_averaging(done)}{_of_pairs(done)}; "
        f"{record.notes['train_samples_left_out']} longer samples left out",
        file=sys.stderr,
    )


def _source(arguments: argparse.Namespace) -> "Source":
    """Return what the data is made of; a preset may say where it is."""
    from fnsft.config.presets import TaskPreset
    from fnsft.training.own_data import Source, is_prepared, require_plain

    settings = read_settings(arguments, DataSettings)
    preset = TaskPreset.read(arguments.preset) if arguments.preset else None
    data = arguments.data or (preset and preset.preset.hub_name)
    if not data:
        raise InputError(
            "--data: expected a file, a folder or a name, found none; give it, or a --preset that "
            "has a name on the hub"
        )
    source = Source(data, settings, preset, arguments.validation, arguments.registry)
    if is_prepared(Path(data)):
        require_plain(source)
    return source


def _prepared(source: "Source", files: "RunFiles", n_processes: int) -> Path:
    """Return the folder of the run's splits, which is made where the data is raw."""
    from fnsft.training.own_data import is_prepared, prepare_once

    if is_prepared(files.data):
        return files.data
    _require_one(n_processes, f"--data: {source.data} is raw; use fnsft train --processes")
    return prepare_once(source, files.model, files.checkpoints)


def _made_structure(files: "RunFiles", settings: TrainSettings, n_processes: int) -> Path:
    _require_one(n_processes, "--graph: none is given; use fnsft train --processes, or give one")
    return make_graph(files, settings)


def _require_one(n_processes: int, what: str) -> None:
    """Refuse what one process does ahead of those that share a run."""
    if n_processes > 1:
        raise InputError(
            f"{what}: it is made once, before the run is shared, found {n_processes} processes"
        )


def _start_anew(checkpoints: Path, n_processes: int) -> None:
    _require_one(n_processes, "--resume never: use fnsft train --processes")
    shutil.rmtree(checkpoints, ignore_errors=True)


def _after_averaging(record: "TrainingRecord") -> str:
    averaged = record.averaged_validation_perplexity
    return "" if averaged is None else f" ({averaged:.4f} averaged with the start)"


def _of_pairs(record: "TrainingRecord") -> str:
    if record.objective != "dpo":
        return ""
    accuracy = next(p["accuracy"] for p in record.validation if p["step"] == record.best_step)
    return f" of the chosen answers, DPO's loss {record.criterion:.4f}, accuracy {accuracy:.3f}"


def _name(arguments: argparse.Namespace, source: "Source", lineage: "Lineage") -> None:
    """Put in what the run is called in tables where it was not said."""
    known = lineage.before.model if lineage.before else Path(arguments.model).name
    arguments.model_name = arguments.model_name or known
    arguments.task = arguments.task or (source.preset.name if source.preset else _stem(source.data))


def _stem(data: str) -> str:
    return Path(data).stem if Path(data).is_file() else Path(data).name


def _words(
    arguments: argparse.Namespace,
    settings: TrainSettings,
    files: "RunFiles",
    wanted: str | None,
    structure: Path | None,
) -> list[str]:
    """Return the command of a process that shares the run, whose data is prepared by now."""
    paths = {
        "--model": files.model,
        "--data": files.data,
        "--output": files.output,
        "--checkpoints": files.checkpoints,
        "--networks": files.networks,
        "--calibration": files.calibration,
        f"--{wanted}": structure if wanted else None,
        "--model-name": arguments.model_name,
        "--task": arguments.task,
        "--method-name": arguments.method_name,
    }
    given = [word for flag, value in paths.items() if value for word in (flag, str(value))]
    if files.replay:
        given += ["--replay", *map(str, files.replay)]
    return [settings.stage, *given, *shlex.split(settings.flags())]


def _identity(arguments: argparse.Namespace, settings: TrainSettings, lineage: "Lineage") -> "Run":
    """Return what tells this run from others in tables."""
    from fnsft.artifacts.training import Run

    return Run(
        model=arguments.model_name,
        task=arguments.task,
        method=arguments.method_name or settings.method,
        fraction=settings.fraction,
        lam=settings.lam if settings.method == "collab" else None,
        affinity=settings.affinity,
        applies_to=settings.applies_to if settings.masked else None,
        mask_mode=settings.mask_mode,
        stage=lineage.stage,
        seed=settings.seed,
        learning_rate=settings.learning_rate,
        sequence=lineage.sequence(arguments.task),
    )


def _require_calibrated(folder: Path | None, settings: TrainSettings) -> None:
    """Refuse samples that no score looks at, and a folder without any."""
    from fnsft.artifacts.storage import existing

    if folder is None:
        return
    if settings.method != "ssu" or settings.column_score != "wanda":
        raise InputError(
            f"--calibration: is about ssu with the score 'wanda', found method "
            f"{settings.method!r}; leave it out"
        )
    existing(folder / "train.jsonl")


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
