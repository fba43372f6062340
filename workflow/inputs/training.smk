# What the jobs of rules/training.smk read, and the flags that say so.


def training_of(wildcards):
    """The settings of a run, which depend on its place in a sequence."""
    stage = len(StageModel.of(wildcards.model).stages) + 1
    seed = int(wildcards.seed)
    return EXPERIMENT.training(wildcards.variant, seed, stage, wildcards.task)


def neurons_of(wildcards):
    """Where a run's structures come from: its own stage's model and data, or the first's."""
    before = StageModel.of(wildcards.model)
    if before.stages and training_of(wildcards).structure == "first":
        return {
            "model": before.base,
            "task": before.stages[0][0],
            "seed": wildcards.seed,
        }
    return dict(wildcards)


def graph_file(wildcards):
    """The graph, or its clusters, that a variant reads: a list of none or one."""
    graph = EXPERIMENT.graph_of(wildcards.variant)
    if not graph:
        return []
    kind = CLUSTERS if EXPERIMENT.reads_clusters(wildcards.variant) else GRAPH
    return [kind.format(**neurons_of(wildcards) | {"graph": graph})]


def networks_file(wildcards):
    """The networks that a variant masks: a list of none or one."""
    networks = EXPERIMENT.networks_of(wildcards.variant)
    file = neurons("networks/{networks}.safetensors")
    place = neurons_of(wildcards) | {"networks": networks}
    return [file.format(**place)] if networks else []


def replayed(wildcards):
    """The training splits of earlier stages that a run draws samples from."""
    stages = StageModel.of(wildcards.model).stages
    wanted = training_of(wildcards).replay_fraction > 0
    return [
        TRAIN_SPLIT.format(task=task, seed=wildcards.seed)
        for task, _ in stages
        if wanted
    ]


def calibrated(wildcards):
    """The training split of what a variant protects, if it looks at any: none or one."""
    stages = StageModel.of(wildcards.model).stages
    before = stages[-1][0] if stages else None
    task = EXPERIMENT.calibration_of(wildcards.variant, before)
    return [TRAIN_SPLIT.format(task=task, seed=wildcards.seed)] if task else []


def structure_flags(wildcards, input):
    """What a variant's masks are made from, as flags."""
    clusters = EXPERIMENT.reads_clusters(wildcards.variant)
    flags = {
        "--clusters" if clusters else "--graph": input.graph,
        "--networks": input.networks,
    }
    return " ".join(f"{flag} {file}" for flag, file in flags.items() if file)


def benchmark_files(wildcards):
    """What a model is measured on; the test set is the same for every seed."""
    task = EXPERIMENT.task(wildcards.task)
    seed = getattr(wildcards, "seed", EXPERIMENT.selection().seeds[0])
    test = results(f"data/{wildcards.task}/seed{seed}/test.jsonl")
    files = {"perplexity": test}
    if task.generate:
        files["gsm8k"] = test
    if task.cloze:
        files["cloze"] = data_file(wildcards.task, task.cloze)
    return files


def benchmark_flags(wildcards):
    """The same as flags."""
    return " ".join(
        f"--{name} {file}" for name, file in benchmark_files(wildcards).items()
    )
