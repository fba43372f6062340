# What a model answers before and after every stage, how the answers score, how far a stage
# moved the model, and what a sequence of stages learned and forgot.


rule fetch_benchmark:
    output:
        results("sources/benchmarks/{benchmark}/{split}.jsonl"),
    log:
        logs("fetch_benchmark/{benchmark}-{split}.log"),
    params:
        stage=lambda wildcards: stage(
            FetchSettings(
                kind={"hub": "dataset"}.get(
                    EXPERIMENT.benchmark_entry(wildcards.benchmark).origin, "evalplus"
                ),
                name=EXPERIMENT.benchmark_entry(wildcards.benchmark).name,
                config=EXPERIMENT.benchmark_entry(wildcards.benchmark).hub_config,
                split=wildcards.split,
            )
        ),
    message:
        "fetch the benchmark {wildcards.benchmark}, {wildcards.split}"
    shell:
        "fnsft fetch --output {output} {params.stage[0]} 2> {log}"


rule answer:
    input:
        model=results(f"runs/{RUN}"),
        files=suite_files,
    output:
        directory(ANSWERS),
    log:
        logs(f"answer/{RUN_SUITE}.log"),
    benchmark:
        costs(f"answer/{RUN_SUITE}.tsv")
    resources:
        gpu=1,
        mem_mb=more(48_000),
        runtime=more(480),
    params:
        stage=stage(EXPERIMENT.answer()),
        benchmarks=suite_flags,
    message:
        "ask {wildcards.model} the suite {wildcards.suite} after {wildcards.task} with "
        "{wildcards.variant}, seed {wildcards.seed}"
    shell:
        "fnsft answer --model {input.model} --output {output} {params.benchmarks} "
        "{params.stage[0]} 2> {log}"


rule answer_base:
    input:
        model=model_of,
        files=suite_files,
    output:
        directory(BASE_ANSWERS),
    log:
        logs("answer/{model}/base/{suite}.log"),
    benchmark:
        costs("answer/{model}/base/{suite}.tsv")
    resources:
        gpu=1,
        mem_mb=more(48_000),
        runtime=more(480),
    params:
        stage=stage(EXPERIMENT.answer()),
        benchmarks=suite_flags,
    message:
        "ask {wildcards.model} the suite {wildcards.suite} before fine-tuning"
    shell:
        "fnsft answer --model {input.model} --model-name {wildcards.model} --output {output} "
        "{params.benchmarks} {params.stage[0]} 2> {log}"


rule score:
    input:
        answers=ANSWERS,
        files=suite_files,
    output:
        multiext(
            results(f"metrics/{RUN_SUITE}"), records=".jsonl", per_item=".items.jsonl"
        ),
    log:
        logs(f"score/{RUN_SUITE}.log"),
    benchmark:
        costs(f"score/{RUN_SUITE}.tsv")
    threads: EXPERIMENT.score().workers
    resources:
        mem_mb=more(16_000),
        runtime=more(120),
    params:
        stage=stage(EXPERIMENT.score()),
    message:
        "score {wildcards.model} on the suite {wildcards.suite} after {wildcards.task} with "
        "{wildcards.variant}, seed {wildcards.seed}"
    shell:
        "fnsft score {input.answers} --output {output.records} {params.stage[0]} 2> {log}"


use rule score as score_base with:
    input:
        answers=BASE_ANSWERS,
        files=suite_files,
    output:
        multiext(
            results("metrics/{model}/base/{suite}"),
            records=".jsonl",
            per_item=".items.jsonl",
        ),
    log:
        logs("score/{model}/base/{suite}.log"),
    benchmark:
        costs("score/{model}/base/{suite}.tsv")
    message:
        "score {wildcards.model} on the suite {wildcards.suite} before fine-tuning"


rule drift:
    input:
        model=results(f"runs/{RUN}"),
        base=model_of,
        data=lambda wildcards: test_split(wildcards.task),
    output:
        multiext(results(f"drift/{RUN}"), records=".jsonl", per_item=".items.jsonl"),
    log:
        logs(f"drift/{RUN}.log"),
    benchmark:
        costs(f"drift/{RUN}.tsv")
    resources:
        gpu=1,
        mem_mb=more(96_000),
        runtime=more(120),
    params:
        stage=stage(EXPERIMENT.drift()),
    message:
        "measure how far {wildcards.variant} moved {wildcards.model} on {wildcards.task}"
    shell:
        "fnsft drift --model {input.model} --base {input.base} --data {input.data} "
        "--output {output.records} {params.stage[0]} 2> {log}"


rule transfer:
    input:
        base=lambda wildcards: scores_of(
            stages_of(wildcards)[0],
            None,
            EXPERIMENT.sequence(wildcards.sequence).suites,
        ),
        stages=stage_scores,
        drift=lambda wildcards: [
            results(f"drift/{model}/seed{wildcards.seed}.jsonl")
            for model in stages_of(wildcards)[1:]
        ],
    output:
        TRANSFER,
    log:
        logs("transfer/{model}/{sequence}/{variant}/seed{seed}.log"),
    params:
        stage=stage(TransferSettings()),
    message:
        "measure what {wildcards.variant} learned and forgot in {wildcards.sequence}, seed "
        "{wildcards.seed}"
    shell:
        "fnsft transfer --base {input.base} --stages {input.stages} --drift {input.drift} "
        "--output {output} {params.stage[0]} 2> {log}"
