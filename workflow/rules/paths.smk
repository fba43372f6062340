# Where everything lies: below the experiment's folder, by model, task, variant and seed.
RESULTS = f"results/{EXPERIMENT.name}"
RUN = "{model}/{task}/{variant}/seed{seed}"
RUN_SUITE = f"{RUN}/{{suite}}"


def results(path):
    """A path below the experiment's folder."""
    return f"{RESULTS}/{path}"


def logs(path):
    """Where a job's log lies."""
    return f"{RESULTS}/logs/{path}"


def costs(path):
    """Where Snakemake writes a job's time and memory."""
    return f"{RESULTS}/benchmarks/{path}"


def splits(path):
    """A path below the splits of a task."""
    return f"{RESULTS}/data/{{task}}/seed{{seed}}/{path}"


def neurons(path):
    """A path below what is known of a model's neurons on a task."""
    return f"{RESULTS}/neurons/{{model}}/{{task}}/seed{{seed}}/{path}"


TRAIN_SPLIT = splits("train.jsonl")

GRAPH = neurons("graphs/{graph}.safetensors")
CLUSTERS = neurons("clusters/{graph}.safetensors")
DESCRIPTIONS = neurons("descriptions.jsonl.gz")
SIMILARITY = neurons("similarity/{graph}.jsonl")
NETWORKS = neurons("networks/{networks}.safetensors")
AGREEMENT = neurons("agreement/{networks}/{graph}.jsonl")
LESIONS = results("lesions/{model}/{task}/seed{seed}/{networks}.jsonl")

ANSWERS = results(f"answers/{RUN_SUITE}")
BASE_ANSWERS = results("answers/{model}/base/{suite}")
TRANSFER = results("transfer/{model}/{sequence}/{variant}/seed{seed}.jsonl")
