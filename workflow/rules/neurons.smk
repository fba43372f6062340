# From the training split to collaboration graphs, their clusters, and what they are worth.


rule statistics:
    input:
        model=model_of,
        data=TRAIN_SPLIT,
    output:
        neurons("tokens.safetensors"),
    log:
        logs("statistics/{model}/{task}-seed{seed}.log"),
    benchmark:
        costs("statistics/{model}/{task}-seed{seed}.tsv")
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
        data=lambda wildcards: splits(
            "train.jsonl"
            if wildcards.dump.startswith("activations")
            else "validation.jsonl"
        ),
    output:
        directory(neurons("{dump}")),
    log:
        logs("capture/{model}/{task}-seed{seed}-{dump}.log"),
    benchmark:
        costs("capture/{model}/{task}-seed{seed}-{dump}.tsv")
    resources:
        gpu=1,
        mem_mb=more(48_000),
        runtime=more(120),
    params:
        stage=lambda wildcards: stage(captured(wildcards.dump)),
    message:
        "record the activated neurons of {wildcards.model} on {wildcards.task}"
    shell:
        "fnsft capture --model {input.model} --data {input.data} --output {output} "
        "{params.stage[0]} 2> {log}"


rule project:
    input:
        statistics=neurons("tokens.safetensors"),
        activations=dump_of("activations"),
    output:
        GRAPH,
    log:
        logs("project/{model}/{task}-seed{seed}-{graph}.log"),
    benchmark:
        costs("project/{model}/{task}-seed{seed}-{graph}.tsv")
    threads: 8
    resources:
        mem_mb=more(8_000),
        runtime=more(240),
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
        json=neurons("clusters/{graph}.json"),
    log:
        logs("cluster/{model}/{task}-seed{seed}-{graph}.log"),
    benchmark:
        costs("cluster/{model}/{task}-seed{seed}-{graph}.tsv")
    resources:
        mem_mb=more(8_000),
        runtime=more(120),
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
        unseen=dump_of("unseen"),
        half_graphs=expand(
            neurons("graphs/{graph}+{half}.safetensors"),
            half=["even", "odd"],
            allow_missing=True,
        ),
        half_clusters=expand(
            neurons("clusters/{graph}+{half}.safetensors"),
            half=["even", "odd"],
            allow_missing=True,
        ),
        other=other_clusters,
    output:
        measures=neurons("measures/{graph}.jsonl"),
        histograms=neurons("measures/{graph}.scores.safetensors"),
    log:
        logs("measure/{model}/{task}-seed{seed}-{graph}.log"),
    benchmark:
        costs("measure/{model}/{task}-seed{seed}-{graph}.tsv")
    resources:
        mem_mb=more(48_000),
        runtime=more(120),
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
        neurons("overlap/{graph}.jsonl"),
    log:
        logs("overlap/{model}/{task}-seed{seed}-{graph}.log"),
    benchmark:
        costs("overlap/{model}/{task}-seed{seed}-{graph}.tsv")
    resources:
        gpu=1,
        mem_mb=more(96_000),
        runtime=more(120),
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
        logs("describe/{model}/{task}-seed{seed}.log"),
    benchmark:
        costs("describe/{model}/{task}-seed{seed}.tsv")
    resources:
        gpu=1,
        mem_mb=more(48_000),
        runtime=more(120),
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
        logs("similarity/{model}/{task}-seed{seed}-{graph}.log"),
    benchmark:
        costs("similarity/{model}/{task}-seed{seed}-{graph}.tsv")
    resources:
        mem_mb=more(16_000),
        runtime=more(120),
    params:
        stage=stage(EXPERIMENT.similarity()),
        source=source_flags,
    message:
        "compare the descriptions of neighbours in {wildcards.graph} of {wildcards.model}"
    shell:
        "fnsft similarity --graph {input.graph} --descriptions {input.descriptions} "
        "{params.source} --output {output} {params.stage[0]} 2> {log}"
