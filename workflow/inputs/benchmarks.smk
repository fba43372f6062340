# What the jobs of rules/benchmarks.smk read, and the flags that say so.


def test_split(task):
    """A task's test split, which is the same for every seed."""
    seed = EXPERIMENT.selection().seeds[0]
    return results(f"data/{task}/seed{seed}/test.jsonl")


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


def stages_of(wildcards):
    """The models of a sequence, from the base model to the one after its last stage."""
    return EXPERIMENT.stage_models(
        wildcards.model, wildcards.sequence, wildcards.variant
    )


def scores_of(model, seed, suites):
    """The records of a model's suites."""
    place = f"{model}/seed{seed}" if model.stages else f"{model}/base"
    return [results(f"metrics/{place}/{suite}.jsonl") for suite in suites]


def stage_scores(wildcards):
    """The records of a sequence's models, stage by stage."""
    suites = EXPERIMENT.sequence(wildcards.sequence).suites
    _, *stages = stages_of(wildcards)
    return [
        file for model in stages for file in scores_of(model, wildcards.seed, suites)
    ]
