# What a model answers before and after every stage, how the answers score, how far a stage
# moved the model, and what a sequence of stages learned and forgot.
ANSWERS = RESULTS + "/answers/" + RUN + "/{suite}"
SCORES = RESULTS + "/metrics/" + RUN + "/{suite}.jsonl"
BASE_ANSWERS = RESULTS + "/answers/{model}/base/{suite}"
BASE_SCORES = RESULTS + "/metrics/{model}/base/{suite}.jsonl"
TRANSFER = RESULTS + "/transfer/{model}/{sequence}/{variant}/seed{seed}.jsonl"


def test_split(task):
    """A task's test split, which is the same for every seed."""
    seed = EXPERIMENT.selection().seeds[0]
    return f"{RESULTS}/data/{task}/seed{seed}/test.jsonl"


def benchmark_of(name):
    """A benchmark with its files in place."""
    entry = EXPERIMENT.benchmark_entry(name)
    if entry.origin == "task":
        return EXPERIMENT.benchmark(name, test_split(entry.task), None)
    names = [entry.file, entry.examples]
    files = [
        file and file_of(entry.origin, f"benchmarks/{name}", file) for file in names
    ]
    return EXPERIMENT.benchmark(name, *files)


def suite_files(wildcards):
    """The files of a suite's benchmarks, each once."""
    benchmarks = map(benchmark_of, EXPERIMENT.suite(wildcards.suite))
    files = (file for b in benchmarks for file in (b.file, b.examples) if file)
    return list(dict.fromkeys(files))


def suite_flags(wildcards):
    """A suite as flags."""
    return " ".join(
        f"--benchmark {name} {benchmark_of(name).words()}"
        for name in EXPERIMENT.suite(wildcards.suite)
    )


rule fetch_benchmark:
    output:
        RESULTS + "/sources/benchmarks/{benchmark}/{split}.jsonl",
    log:
        LOGS + "/fetch_benchmark/{benchmark}-{split}.log",
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
        model=RESULTS + "/runs/" + RUN,
        files=suite_files,
    output:
        directory(ANSWERS),
    log:
        LOGS + "/answer/" + RUN + "/{suite}.log",
    benchmark:
        COSTS + "/answer/" + RUN + "/{suite}.tsv"
    resources:
        gpu=1,
        mem_mb=48_000,
        runtime=480,
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
        LOGS + "/answer/{model}/base/{suite}.log",
    benchmark:
        COSTS + "/answer/{model}/base/{suite}.tsv"
    resources:
        gpu=1,
        mem_mb=48_000,
        runtime=480,
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
        multiext(RESULTS + "/metrics/" + RUN + "/{suite}", ".jsonl", ".items.jsonl"),
    log:
        LOGS + "/score/" + RUN + "/{suite}.log",
    benchmark:
        COSTS + "/score/" + RUN + "/{suite}.tsv"
    threads: EXPERIMENT.score().workers
    resources:
        mem_mb=16_000,
        runtime=120,
    params:
        stage=stage(EXPERIMENT.score()),
    message:
        "score {wildcards.model} on the suite {wildcards.suite} after {wildcards.task} with "
        "{wildcards.variant}, seed {wildcards.seed}"
    shell:
        "fnsft score {input.answers} --output {output[0]} {params.stage[0]} 2> {log}"


use rule score as score_base with:
    input:
        answers=BASE_ANSWERS,
        files=suite_files,
    output:
        multiext(RESULTS + "/metrics/{model}/base/{suite}", ".jsonl", ".items.jsonl"),
    log:
        LOGS + "/score/{model}/base/{suite}.log",
    benchmark:
        COSTS + "/score/{model}/base/{suite}.tsv"
    message:
        "score {wildcards.model} on the suite {wildcards.suite} before fine-tuning"


rule drift:
    input:
        model=RESULTS + "/runs/" + RUN,
        base=model_of,
        data=lambda wildcards: test_split(wildcards.task),
    output:
        multiext(RESULTS + "/drift/" + RUN, ".jsonl", ".items.jsonl"),
    log:
        LOGS + "/drift/" + RUN + ".log",
    benchmark:
        COSTS + "/drift/" + RUN + ".tsv"
    resources:
        gpu=1,
        mem_mb=96_000,
        runtime=120,
    params:
        stage=stage(EXPERIMENT.drift()),
    message:
        "measure how far {wildcards.variant} moved {wildcards.model} on {wildcards.task}"
    shell:
        "fnsft drift --model {input.model} --base {input.base} --data {input.data} "
        "--output {output[0]} {params.stage[0]} 2> {log}"


def stages_of(wildcards):
    """The models of a sequence, from the base model to the one after its last stage."""
    return EXPERIMENT.stage_models(
        wildcards.model, wildcards.sequence, wildcards.variant
    )


def scores_of(model, seed, suites):
    """The records of a model's suites."""
    place = f"{model}/seed{seed}" if model.stages else f"{model}/base"
    return [f"{RESULTS}/metrics/{place}/{suite}.jsonl" for suite in suites]


def stage_scores(wildcards):
    """The records of a sequence's models, stage by stage."""
    suites = EXPERIMENT.sequence(wildcards.sequence).suites
    _, *stages = stages_of(wildcards)
    return [
        file for model in stages for file in scores_of(model, wildcards.seed, suites)
    ]


rule transfer:
    input:
        base=lambda wildcards: scores_of(
            stages_of(wildcards)[0],
            None,
            EXPERIMENT.sequence(wildcards.sequence).suites,
        ),
        stages=stage_scores,
        drift=lambda wildcards: [
            f"{RESULTS}/drift/{model}/seed{wildcards.seed}.jsonl"
            for model in stages_of(wildcards)[1:]
        ],
    output:
        TRANSFER,
    log:
        LOGS + "/transfer/{model}/{sequence}/{variant}/seed{seed}.log",
    params:
        stage=stage(TransferSettings()),
    message:
        "measure what {wildcards.variant} learned and forgot in {wildcards.sequence}, seed "
        "{wildcards.seed}"
    shell:
        "fnsft transfer --base {input.base} --stages {input.stages} --drift {input.drift} "
        "--output {output} {params.stage[0]} 2> {log}"
