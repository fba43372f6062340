# From the training split to a collaboration graph.
NEURONS = RESULTS + "/neurons/{model}/{task}/seed{seed}"
TRAIN_SPLIT = RESULTS + "/data/{task}/seed{seed}/train.jsonl"


rule statistics:
    input:
        model=lambda wildcards: model_folder(wildcards.model),
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
        model=lambda wildcards: model_folder(wildcards.model),
        data=TRAIN_SPLIT,
    output:
        directory(NEURONS + "/activations"),
    log:
        LOGS + "/capture/{model}/{task}-seed{seed}.log",
    benchmark:
        COSTS + "/capture/{model}/{task}-seed{seed}.tsv"
    resources:
        gpu=1,
        mem_mb=48_000,
        runtime=120,
    params:
        stage=stage(EXPERIMENT.capture()),
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
        NEURONS + "/graphs/{graph}.safetensors",
    log:
        LOGS + "/project/{model}/{task}-seed{seed}-{graph}.log",
    benchmark:
        COSTS + "/project/{model}/{task}-seed{seed}-{graph}.tsv"
    resources:
        mem_mb=16_000,
        runtime=720,
    params:
        stage=lambda wildcards: stage(EXPERIMENT.project(wildcards.graph)),
    message:
        "project the collaboration graph {wildcards.graph} of {wildcards.model}"
    shell:
        "fnsft project --statistics {input.statistics} --activations {input.activations} "
        "--output {output} {params.stage[0]} 2> {log}"
