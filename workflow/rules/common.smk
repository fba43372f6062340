# The configuration, checked before anything else, and the paths that the rules share.
import dataclasses
import os
import shlex
import sys
from pathlib import Path

from fnsft.config.stages import (
    ChooseSettings,
    ConvertSettings,
    ExploreSettings,
    FetchSettings,
    FigureSettings,
    MergeSettings,
    PaperSettings,
    TableSettings,
    TransferSettings,
    TwinSettings,
    TypesetSettings,
)

from snakemake.settings.enums import Quietness
from snakemake.utils import min_version

from fnsft.artifacts.items import items_path
from fnsft.artifacts.locks import join_heads
from fnsft.artifacts.storage import existing
from fnsft.config.checks import check
from fnsft.config.experiment import (
    SEQUENCE_KINDS,
    SIMILARITY_KINDS,
    SUITE_KINDS,
    Experiment,
)
from fnsft.config.names import HEADS, NULL, TWIN, StageModel
from fnsft.config.needs import needs_of
from fnsft.config.schema import validate
from fnsft.devices import POOL, workflow_pool
from fnsft.errors import InputError
from fnsft.reporting.explore.files import result_files
from fnsft.reporting.figures.captions import caption_of
from fnsft.reporting.progress import report_progress

min_version("9.27")


configfile: "config.yaml"


def refuse(error):
    """End with one line and the exit code of bad input, before anything is planned."""
    print(f"configuration: {error}", file=sys.stderr)
    sys.exit(2)


try:
    validate(config)
    EXPERIMENT = Experiment(config)
    check(EXPERIMENT)
    DEVICES = workflow_pool(workflow.global_resources.get("gpu").value)
except InputError as error:
    refuse(error)

# For the jobs that this process or one on a node of the cluster starts: where they find devices,
# and that fetching alone uses a network.
os.environ |= {"FNSFT_OFFLINE": "1"} | ({} if DEVICES is None else {POOL: DEVICES})

if workflow.is_main_process and Quietness.RULES in (
    workflow.output_settings.quiet or ()
):
    report_progress()  # in place of Snakemake's own

if workflow.is_main_process:
    join_heads(Path(".snakemake"))


# Only with --software-deployment-method apptainer; without it jobs run in the environment that
# runs snakemake. The image is made of workflow/fnsft.def.
container: "fnsft.sif"


DATA_DIR = config.get("data_dir", "data")
REGISTRY = [str(p) for p in [Path(DATA_DIR) / "registry.yaml"] if p.is_file()]


def one_of(names):
    """A wildcard's pattern that matches these names alone."""
    return "|".join(map(re.escape, names)) or "(?!)"


def models_from(origin):
    """A wildcard's pattern that matches the models of one origin."""
    return one_of(m for m in config["models"] if EXPERIMENT.model(m).origin == origin)


VARIANT = r"[A-Za-z0-9][A-Za-z0-9._-]*"


wildcard_constraints:
    # A base model, or one after stages: each a task and a variant.
    model=rf"({one_of(config['models'])})(\+twin)?(/({one_of(config['tasks'])})/{VARIANT})*",
    task=one_of(config["tasks"]),
    graph=rf"({one_of(config.get('graphs', {}))})(\+[a-z]+[0-9.]*)*",
    networks=rf"({one_of(config.get('networks', {}))})({re.escape(NULL)})?",
    dump=f"(activations|unseen)({HEADS})?",
    table=one_of(config["tables"]),
    figure=one_of(config["figures"]),
    variant=VARIANT,
    benchmark=one_of(config.get("benchmarks", {})),
    suite=one_of(config.get("suites", {})),
    sequence=one_of(config.get("sequences", {})),
    seed=r"\d+",


def stage(settings):
    """A stage's params: one string of flags, and its version so that a new one re-runs it."""
    return settings.flags(), f"{settings.stage} version {settings.version}"


def more(amount):
    """A resource of which every further attempt gets as much again: the last had too little."""
    return lambda wildcards, attempt: amount * attempt


def model_folder(name, seed=None):
    """A model's folder: the user's own, the one that a rule makes, or that of a stage's run."""
    stages = StageModel.of(name).stages
    if stages:
        kind = "runs" if EXPERIMENT.is_plain(stages[-1][1]) else "plain"
        return results(f"{kind}/{name}/seed{seed}")
    entry = EXPERIMENT.model(name)
    users_own = entry.origin == "folder" and not name.endswith(TWIN)
    return entry.name if users_own else results(f"models/{name}")


def model_of(wildcards):
    """The folder of the model that a job is about."""
    return model_folder(wildcards.model, getattr(wildcards, "seed", None))


def users_own(path):
    """A file that the user provides; where it is missing, that is all that is said."""
    try:
        return str(existing(path))
    except InputError as error:
        refuse(error)


def file_of(origin, owner, name):
    """A file of data: of the world, fetched, or the user's below data_dir (or in it)."""
    if origin == "world":
        return results(f"world/{name}")
    if origin in ("hub", "evalplus"):
        return results(f"sources/{owner}/{name}.jsonl")
    below = Path(DATA_DIR) / name
    beside = Path(DATA_DIR) / Path(name).name
    return users_own(beside if beside.exists() and not below.exists() else below)


def data_file(task, name):
    """A task's file."""
    return file_of(EXPERIMENT.task(task).origin, task, name)


def files_of(task):
    """The files of a task: training, test and cloze, of those that it has."""
    entry = EXPERIMENT.task(task)
    names = (entry.train, entry.test, entry.cloze)
    return [data_file(task, name) for name in names if name]


def fetched():
    """Everything that the network gives to the run, tables and figures."""
    needs = needs_of(EXPERIMENT)
    file = {
        "hub": results("models/{}"),
        "gguf-wheel": results("sources/{}.whl"),
    }
    models = [(m, EXPERIMENT.model(m).origin) for m in needs.models]
    tasks = [task for task in needs.tasks if EXPERIMENT.task(task).origin == "hub"]
    asked = [(b, EXPERIMENT.benchmark_entry(b)) for b in needs.benchmarks]
    return (
        [file[origin].format(m) for m, origin in models if origin in file]
        + [path for task in tasks for path in files_of(task)]
        + [
            file_of(entry.origin, f"benchmarks/{name}", part)
            for name, entry in asked
            for part in (entry.file, entry.examples)
            if part and entry.origin in ("hub", "evalplus")
        ]
    )


def users_files():
    """The files and folders that the user, and no rule, provides for the run."""
    selection = EXPERIMENT.selection()
    task = EXPERIMENT.task(selection.task)
    models = [
        name for name in selection.models if EXPERIMENT.model(name).origin == "folder"
    ]
    files = files_of(selection.task) if task.origin == "folder" else []
    return files + [model_folder(m) for m in models]


for path in users_files():
    users_own(Path(path))


def runs_of(selection, only=lambda method: True):
    """The runs that a table or figure covers, as paths below runs/ and metrics/."""
    methods = tuple(filter(only, (*selection.methods, *selection.controls)))
    return [
        f"{model}/{selection.task}/{variant}/seed{seed}"
        for model in selection.models
        for variant in EXPERIMENT.variants(methods, selection.fractions)
        for seed in selection.seeds
    ]


def sequence_runs(selection, variants=None):
    """The runs of a sequence that a table or figure covers, as paths below transfer/."""
    methods = (*selection.methods, *selection.controls)
    variants = variants or EXPERIMENT.variants(methods, selection.fractions)
    return [
        f"{model}/{selection.sequence}/{variant}/seed{seed}"
        for model in selection.models
        for variant in variants
        for seed in selection.seeds
    ]


def table_runs(wildcards):
    """The folders of the runs that a table covers."""
    runless = ("networks", *SEQUENCE_KINDS, *SIMILARITY_KINDS)
    if EXPERIMENT.table(wildcards.table).kind in runless:
        return []
    runs = runs_of(EXPERIMENT.selection("tables", wildcards.table))
    return [results(f"runs/{run}") for run in runs]
