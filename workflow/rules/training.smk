# Fine-tuning, and what every model can do afterwards.
RUN = "{model}/{task}/{variant}/seed{seed}"


def training_of(wildcards):
    """The settings of a run, which depend on its place in a sequence."""
    stage = len(StageModel.of(wildcards.model).stages) + 1
    return EXPERIMENT.training(wildcards.variant, int(wildcards.seed), stage)


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
    file = NEURONS + "/networks/{networks}.safetensors"
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
    test = f"{RESULTS}/data/{wildcards.task}/seed{seed}/test.jsonl"
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


rule train:
    input:
        model=model_of,
        data=multiext(
            RESULTS + "/data/{task}/seed{seed}/", "train.jsonl", "validation.jsonl"
        ),
        graph=graph_file,
        networks=networks_file,
        replay=replayed,
    output:
        directory(RESULTS + "/runs/" + RUN),
    log:
        LOGS + "/train/" + RUN + ".log",
    benchmark:
        COSTS + "/train/" + RUN + ".tsv"
    resources:
        gpu=4,
        mem_mb=200_000,
        runtime=720,
    params:
        stage=lambda wildcards: stage(training_of(wildcards)),
        data=lambda wildcards, input: Path(input.data[0]).parent,
        structure=structure_flags,
        replay=lambda wildcards, input: " ".join(
            ["--replay"] * bool(input.replay)
            + [str(Path(file).parent) for file in input.replay]
        ),
        base=lambda wildcards: StageModel.of(wildcards.model).base,
        method=lambda wildcards: EXPERIMENT.method_of(wildcards.variant),
        checkpoints=f"checkpoints/{EXPERIMENT.name}/{RUN}",
    message:
        "fine-tune {wildcards.model} with {wildcards.variant}, seed {wildcards.seed}"
    shell:
        "fnsft train --model {input.model} --data {params.data} {params.structure} "
        "{params.replay} --output {output} --checkpoints {params.checkpoints} "
        "--model-name {params.base} --task {wildcards.task} "
        "--method-name {params.method} --processes {resources.gpu} {params.stage[0]} 2> {log}"


# Kept: an adapter of the next stage holds the place of these weights, and is nothing without them.
rule plain:
    input:
        RESULTS + "/runs/" + RUN,
    output:
        directory(RESULTS + "/plain/" + RUN),
    log:
        LOGS + "/plain/" + RUN + ".log",
    benchmark:
        COSTS + "/plain/" + RUN + ".tsv"
    resources:
        mem_mb=64_000,
        runtime=30,
    params:
        stage=stage(MergeSettings()),
    message:
        "fold the adapter or mask of {wildcards.variant} into weights to go on from"
    shell:
        "fnsft merge {input} --output {output} {params.stage[0]} 2> {log}"


rule evaluate:
    input:
        unpack(benchmark_files),
        model=RESULTS + "/runs/" + RUN,
    output:
        RESULTS + "/metrics/" + RUN + ".jsonl",
    log:
        LOGS + "/evaluate/" + RUN + ".log",
    benchmark:
        COSTS + "/evaluate/" + RUN + ".tsv"
    resources:
        gpu=1,
        mem_mb=48_000,
        runtime=240,
    params:
        stage=stage(EXPERIMENT.evaluate()),
        benchmarks=benchmark_flags,
    message:
        "evaluate {wildcards.model} with {wildcards.variant}, seed {wildcards.seed}"
    shell:
        "fnsft evaluate --model {input.model} --output {output} {params.benchmarks} "
        "{params.stage[0]} 2> {log}"


use rule evaluate as evaluate_without_mask with:
    output:
        RESULTS + "/metrics/" + RUN + ".mask-off.jsonl",
    log:
        LOGS + "/evaluate/" + RUN + ".mask-off.log",
    benchmark:
        COSTS + "/evaluate/" + RUN + ".mask-off.tsv"
    params:
        stage=stage(EXPERIMENT.evaluate(forward_mask="off")),
        benchmarks=benchmark_flags,
    message:
        "evaluate {wildcards.model} with {wildcards.variant}, seed {wildcards.seed}, mask off"


rule evaluate_base:
    input:
        unpack(benchmark_files),
        model=model_of,
    output:
        RESULTS + "/metrics/{model}/{task}/base.jsonl",
    log:
        LOGS + "/evaluate/{model}/{task}/base.log",
    benchmark:
        COSTS + "/evaluate/{model}/{task}/base.tsv"
    resources:
        gpu=1,
        mem_mb=48_000,
        runtime=240,
    params:
        stage=stage(EXPERIMENT.evaluate()),
        benchmarks=benchmark_flags,
    message:
        "evaluate {wildcards.model} before fine-tuning"
    shell:
        "fnsft evaluate --model {input.model} --output {output} {params.benchmarks} "
        "--model-name {wildcards.model} --task {wildcards.task} {params.stage[0]} 2> {log}"
