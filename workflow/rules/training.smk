# Fine-tuning, and what every model can do afterwards.
RUN = "{model}/{task}/{variant}/seed{seed}"


def graph_file(wildcards):
    """The graph, or its clusters, that a variant reads: a list of none or one."""
    graph = EXPERIMENT.graph_of(wildcards.variant)
    if not graph:
        return []
    kind = CLUSTERS if EXPERIMENT.reads_clusters(wildcards.variant) else GRAPH
    return [kind.format(graph=graph, **wildcards)]


def networks_file(wildcards):
    """The networks that a variant masks: a list of none or one."""
    networks = EXPERIMENT.networks_of(wildcards.variant)
    file = NEURONS + "/networks/{networks}.safetensors"
    return [file.format(networks=networks, **wildcards)] if networks else []


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
        model=lambda wildcards: model_folder(wildcards.model),
        data=multiext(
            RESULTS + "/data/{task}/seed{seed}/", "train.jsonl", "validation.jsonl"
        ),
        graph=graph_file,
        networks=networks_file,
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
        stage=lambda wildcards: stage(
            EXPERIMENT.training(wildcards.variant, int(wildcards.seed))
        ),
        data=lambda wildcards, input: Path(input.data[0]).parent,
        structure=structure_flags,
        method=lambda wildcards: EXPERIMENT.method_of(wildcards.variant),
        checkpoints=f"checkpoints/{EXPERIMENT.name}/{RUN}",
    message:
        "fine-tune {wildcards.model} with {wildcards.variant}, seed {wildcards.seed}"
    shell:
        "fnsft train --model {input.model} --data {params.data} {params.structure} "
        "--output {output} --checkpoints {params.checkpoints} "
        "--model-name {wildcards.model} --task {wildcards.task} "
        "--method-name {params.method} --processes {resources.gpu} {params.stage[0]} 2> {log}"


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
        model=lambda wildcards: model_folder(wildcards.model),
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
