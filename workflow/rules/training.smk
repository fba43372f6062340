# Fine-tuning, and what every model can do afterwards.


rule train:
    input:
        model=model_of,
        data=multiext(
            results("data/{task}/seed{seed}/"), "train.jsonl", "validation.jsonl"
        ),
        graph=graph_file,
        networks=networks_file,
        replay=replayed,
        calibration=calibrated,
    output:
        directory(results(f"runs/{RUN}")),
    log:
        logs(f"train/{RUN}.log"),
    benchmark:
        costs(f"train/{RUN}.tsv")
    resources:
        gpu=lambda wildcards: EXPERIMENT.model(StageModel.of(wildcards.model).base).gpus,
        mem_mb=more(200_000),
        runtime=more(720),
    params:
        stage=lambda wildcards: stage(training_of(wildcards)),
        data=lambda wildcards, input: Path(input.data[0]).parent,
        structure=structure_flags,
        replay=lambda wildcards, input: " ".join(
            ["--replay"] * bool(input.replay)
            + [str(Path(file).parent) for file in input.replay]
        ),
        calibration=lambda wildcards, input: " ".join(
            f"--calibration {Path(file).parent}" for file in input.calibration
        ),
        base=lambda wildcards: StageModel.of(wildcards.model).base,
        method=lambda wildcards: EXPERIMENT.method_of(wildcards.variant),
        checkpoints=f"checkpoints/{EXPERIMENT.name}/{RUN}",
    message:
        "fine-tune {wildcards.model} with {wildcards.variant}, seed {wildcards.seed}"
    # In the shell's place: told to end with all others, a shell would end before the checkpoint.
    shell:
        "exec fnsft train --model {input.model} --data {params.data} {params.structure} "
        "{params.replay} {params.calibration} --output {output} --checkpoints {params.checkpoints} "
        "--model-name {params.base} --task {wildcards.task} "
        "--method-name {params.method} --processes {resources.gpu} {params.stage[0]} 2> {log}"


# Kept: an adapter of the next stage holds the place of these weights, and is nothing without them.
rule plain:
    input:
        results(f"runs/{RUN}"),
    output:
        directory(results(f"plain/{RUN}")),
    log:
        logs(f"plain/{RUN}.log"),
    benchmark:
        costs(f"plain/{RUN}.tsv")
    resources:
        mem_mb=more(64_000),
        runtime=more(30),
    params:
        stage=stage(MergeSettings()),
    message:
        "fold the adapter or mask of {wildcards.variant} into weights to go on from"
    shell:
        "fnsft merge {input} --output {output} {params.stage[0]} 2> {log}"


rule evaluate:
    input:
        unpack(benchmark_files),
        model=results(f"runs/{RUN}"),
    output:
        results(f"metrics/{RUN}.jsonl"),
    log:
        logs(f"evaluate/{RUN}.log"),
    benchmark:
        costs(f"evaluate/{RUN}.tsv")
    resources:
        gpu=1,
        mem_mb=more(48_000),
        runtime=more(240),
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
        results(f"metrics/{RUN}.mask-off.jsonl"),
    log:
        logs(f"evaluate/{RUN}.mask-off.log"),
    benchmark:
        costs(f"evaluate/{RUN}.mask-off.tsv")
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
        results("metrics/{model}/{task}/base.jsonl"),
    log:
        logs("evaluate/{model}/{task}/base.log"),
    benchmark:
        costs("evaluate/{model}/{task}/base.tsv")
    resources:
        gpu=1,
        mem_mb=more(48_000),
        runtime=more(240),
    params:
        stage=stage(EXPERIMENT.evaluate()),
        benchmarks=benchmark_flags,
    message:
        "evaluate {wildcards.model} before fine-tuning"
    shell:
        "fnsft evaluate --model {input.model} --output {output} {params.benchmarks} "
        "--model-name {wildcards.model} --task {wildcards.task} {params.stage[0]} 2> {log}"
