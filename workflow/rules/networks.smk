# From a model and its data to functional networks, what their loss costs, and whether they are
# the clusters of the collaboration graph.


rule networks:
    input:
        model=model_of,
        data=lambda wildcards: [
            TRAIN_SPLIT.format(task=task, seed=wildcards.seed)
            for task in EXPERIMENT.networks_tasks(wildcards.networks, wildcards.task)
        ],
    output:
        networks=NETWORKS,
        json=neurons("networks/{networks}.json"),
    log:
        logs("networks/{model}/{task}-seed{seed}-{networks}.log"),
    benchmark:
        costs("networks/{model}/{task}-seed{seed}-{networks}.tsv")
    resources:
        gpu=1,
        mem_mb=more(48_000),
        runtime=more(120),
    params:
        stage=lambda wildcards: stage(EXPERIMENT.networks(wildcards.networks)),
    message:
        "find the networks {wildcards.networks} of {wildcards.model} on {wildcards.task}"
    shell:
        "fnsft networks {input.model} {input.data} --output {output.networks} "
        "{params.stage[0]} 2> {log}"


rule agree:
    input:
        networks=NETWORKS,
        clusters=CLUSTERS,
    output:
        AGREEMENT,
    log:
        logs("agree/{model}/{task}-seed{seed}-{networks}-{graph}.log"),
    benchmark:
        costs("agree/{model}/{task}-seed{seed}-{networks}-{graph}.tsv")
    resources:
        mem_mb=more(8_000),
        runtime=more(60),
    params:
        stage=stage(EXPERIMENT.agree()),
        source=source_flags,
        name=lambda wildcards: wildcards.networks.removesuffix(NULL),
    message:
        "compare networks and clusters of {wildcards.model} on {wildcards.task}"
    shell:
        "fnsft agree --networks {input.networks} --clusters {input.clusters} "
        "--networks-name {params.name} {params.source} --output {output} "
        "{params.stage[0]} 2> {log}"


rule lesion:
    input:
        unpack(lesion_benchmarks),
        model=model_of,
        networks=NETWORKS,
        ranking=splits("validation.jsonl"),
        evaluation=splits("test.jsonl"),
    output:
        LESIONS,
    log:
        logs("lesion/{model}/{task}-seed{seed}-{networks}.log"),
    benchmark:
        costs("lesion/{model}/{task}-seed{seed}-{networks}.tsv")
    resources:
        gpu=1,
        mem_mb=more(48_000),
        runtime=more(480),
    params:
        stage=stage(EXPERIMENT.lesion()),
        accuracy=lambda wildcards: " ".join(
            f"--{name} {file}" for name, file in lesion_benchmarks(wildcards).items()
        ),
    message:
        "remove and keep the networks {wildcards.networks} of {wildcards.model}"
    shell:
        "fnsft lesion --model {input.model} --networks {input.networks} "
        "--ranking {input.ranking} --evaluation {input.evaluation} {params.accuracy} "
        "--model-name {wildcards.model} --task {wildcards.task} "
        "--networks-name {wildcards.networks} --run-seed {wildcards.seed} "
        "--output {output} {params.stage[0]} 2> {log}"
