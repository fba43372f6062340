# From the training split to collaboration graphs, their clusters, and what they are worth.
NEURONS = RESULTS + "/neurons/{model}/{task}/seed{seed}"
SPLITS = RESULTS + "/data/{task}/seed{seed}"
TRAIN_SPLIT = SPLITS + "/train.jsonl"
GRAPH = NEURONS + "/graphs/{graph}.safetensors"
CLUSTERS = NEURONS + "/clusters/{graph}.safetensors"
DESCRIPTIONS = NEURONS + "/descriptions.jsonl.gz"
SIMILARITY = NEURONS + "/similarity/{graph}.jsonl"


def source_flags(wildcards):
    """Who a graph is, for the rows of its measures: a model's own, or a control's."""
    source = "token-shuffled" if "+null" in wildcards.graph else "model"
    if wildcards.model.endswith(TWIN):
        source = "random-init"
    name, graph = wildcards.model.removesuffix(TWIN), wildcards.graph.split("+")[0]
    return (
        f"--model-name {name} --task {wildcards.task} --graph-name {graph} "
        f"--run-seed {wildcards.seed} --source {source}"
    )


def other_clusters(wildcards):
    """The clusters of the same model on the task that measures compare with, if any."""
    against = EXPERIMENT.against
    if not against or against == wildcards.task:
        return []
    return [CLUSTERS.format(**dict(wildcards) | {"task": against})]


def described_by(wildcards):
    """What a model's neurons are described by: a published database, or the training split."""
    database = EXPERIMENT.database(wildcards.model)
    if database:
        return {"database": users_own(Path(database))}
    return {"data": TRAIN_SPLIT.format(task=wildcards.task, seed=wildcards.seed)}


def similarities(name):
    """The similarities that a table shows: of its graph, the twin's, and the null's.

    A database describes no twin, which would have to be compared by other descriptions.
    """
    entry, selection = EXPERIMENT.table(name), EXPERIMENT.selection("tables", name)
    return [
        SIMILARITY.format(
            model=model + twin,
            task=selection.task,
            seed=seed,
            graph=entry.graph + null,
        )
        for model in selection.models
        for seed in selection.seeds
        for twin, null in [("", ""), (TWIN, ""), ("", NULL)]
        if not (twin and EXPERIMENT.database(model))
    ]


rule statistics:
    input:
        model=model_of,
        data=TRAIN_SPLIT,
    output:
        NEURONS + "/tokens.safetensors",
    log:
        LOGS + "/statistics/{model}/{task}-seed{seed}.log",
    benchmark:
        COSTS + "/statistics/{model}/{task}-seed{seed}.tsv"
    params:
        stage=stage(EXPERIMENT.statistics()),
    message:
        "count the tokens of {wildcards.task} for {wildcards.model}"
    shell:
        "fnsft statistics --model {input.model} --data {input.data} --output {output} "
        "{params.stage[0]} 2> {log}"


rule capture:
    input:
        model=model_of,
        data=lambda wildcards: SPLITS
        + ("/train.jsonl" if wildcards.dump == "activations" else "/validation.jsonl"),
    output:
        directory(NEURONS + "/{dump}"),
    log:
        LOGS + "/capture/{model}/{task}-seed{seed}-{dump}.log",
    benchmark:
        COSTS + "/capture/{model}/{task}-seed{seed}-{dump}.tsv"
    resources:
        gpu=1,
        mem_mb=48_000,
        runtime=120,
    params:
        stage=lambda wildcards: stage(
            EXPERIMENT.capture(with_values=wildcards.dump == "activations")
        ),
    message:
        "record the activated neurons of {wildcards.model} on {wildcards.task}"
    shell:
        "fnsft capture --model {input.model} --data {input.data} --output {output} "
        "{params.stage[0]} 2> {log}"


rule project:
    input:
        statistics=NEURONS + "/tokens.safetensors",
        activations=NEURONS + "/activations",
    output:
        GRAPH,
    log:
        LOGS + "/project/{model}/{task}-seed{seed}-{graph}.log",
    benchmark:
        COSTS + "/project/{model}/{task}-seed{seed}-{graph}.tsv"
    threads: 8
    resources:
        mem_mb=8_000,
        runtime=240,
    params:
        stage=lambda wildcards: stage(EXPERIMENT.project(wildcards.graph)),
    message:
        "project the collaboration graph {wildcards.graph} of {wildcards.model} "
        "on {wildcards.task}"
    shell:
        "NUMBA_NUM_THREADS={threads} fnsft project --statistics {input.statistics} "
        "--activations {input.activations} --output {output} {params.stage[0]} 2> {log}"


rule cluster:
    input:
        GRAPH,
    output:
        clusters=CLUSTERS,
        json=NEURONS + "/clusters/{graph}.json",
    log:
        LOGS + "/cluster/{model}/{task}-seed{seed}-{graph}.log",
    benchmark:
        COSTS + "/cluster/{model}/{task}-seed{seed}-{graph}.tsv"
    resources:
        mem_mb=8_000,
        runtime=120,
    params:
        stage=stage(EXPERIMENT.cluster()),
    message:
        "cluster the graph {wildcards.graph} of {wildcards.model} on {wildcards.task}"
    shell:
        "fnsft cluster --graph {input} --output {output.clusters} {params.stage[0]} 2> {log}"


rule measure:
    input:
        model=model_of,
        graph=GRAPH,
        clusters=CLUSTERS,
        unseen=NEURONS + "/unseen",
        half_graphs=expand(
            NEURONS + "/graphs/{graph}+{half}.safetensors",
            half=["even", "odd"],
            allow_missing=True,
        ),
        half_clusters=expand(
            NEURONS + "/clusters/{graph}+{half}.safetensors",
            half=["even", "odd"],
            allow_missing=True,
        ),
        other=other_clusters,
    output:
        measures=NEURONS + "/measures/{graph}.jsonl",
        histograms=NEURONS + "/measures/{graph}.scores.safetensors",
    log:
        LOGS + "/measure/{model}/{task}-seed{seed}-{graph}.log",
    benchmark:
        COSTS + "/measure/{model}/{task}-seed{seed}-{graph}.tsv"
    resources:
        mem_mb=48_000,
        runtime=120,
    params:
        stage=lambda wildcards: stage(EXPERIMENT.measure(wildcards.graph)),
        source=source_flags,
        other=lambda wildcards, input: (
            f"--other-clusters {input.other}" if input.other else ""
        ),
    message:
        "measure the graph {wildcards.graph} of {wildcards.model} on {wildcards.task}"
    shell:
        "fnsft measure --model {input.model} --graph {input.graph} "
        "--clusters {input.clusters} --activations {input.unseen} "
        "--halves-graphs {input.half_graphs} --halves-clusters {input.half_clusters} "
        "{params.other} {params.source} --output {output.measures} "
        "--histograms {output.histograms} {params.stage[0]} 2> {log}"


rule overlap:
    input:
        model=model_of,
        data=TRAIN_SPLIT,
        graph=GRAPH,
    output:
        NEURONS + "/overlap/{graph}.jsonl",
    log:
        LOGS + "/overlap/{model}/{task}-seed{seed}-{graph}.log",
    benchmark:
        COSTS + "/overlap/{model}/{task}-seed{seed}-{graph}.tsv"
    resources:
        gpu=1,
        mem_mb=96_000,
        runtime=120,
    params:
        stage=stage(EXPERIMENT.overlap()),
    message:
        "compare masks with and without the graph {wildcards.graph} of {wildcards.model}"
    shell:
        "fnsft overlap --model {input.model} --data {input.data} --graph {input.graph} "
        "--model-name {wildcards.model} --task {wildcards.task} "
        "--graph-name {wildcards.graph} --run-seed {wildcards.seed} --output {output} "
        "{params.stage[0]} 2> {log}"


rule describe:
    input:
        unpack(described_by),
        model=model_of,
    output:
        DESCRIPTIONS,
    log:
        LOGS + "/describe/{model}/{task}-seed{seed}.log",
    benchmark:
        COSTS + "/describe/{model}/{task}-seed{seed}.tsv"
    resources:
        gpu=1,
        mem_mb=48_000,
        runtime=120,
    params:
        stage=stage(EXPERIMENT.describe()),
        texts=lambda wildcards: " ".join(
            f"--{name} {shlex.quote(str(file))}"
            for name, file in described_by(wildcards).items()
        ),
    message:
        "describe the neurons of {wildcards.model} on {wildcards.task}"
    shell:
        "fnsft describe --model {input.model} {params.texts} --output {output} "
        "{params.stage[0]} 2> {log}"


rule similarity:
    input:
        graph=GRAPH,
        descriptions=DESCRIPTIONS,
    output:
        SIMILARITY,
    log:
        LOGS + "/similarity/{model}/{task}-seed{seed}-{graph}.log",
    benchmark:
        COSTS + "/similarity/{model}/{task}-seed{seed}-{graph}.tsv"
    resources:
        mem_mb=16_000,
        runtime=120,
    params:
        stage=stage(EXPERIMENT.similarity()),
        source=source_flags,
    message:
        "compare the descriptions of neighbours in {wildcards.graph} of {wildcards.model}"
    shell:
        "fnsft similarity --graph {input.graph} --descriptions {input.descriptions} "
        "{params.source} --output {output} {params.stage[0]} 2> {log}"
