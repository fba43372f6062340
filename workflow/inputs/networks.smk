# What the jobs of rules/networks.smk read, and the flags that say so.


def lesion_benchmarks(wildcards):
    """What accuracy is measured on; problems are answered where the configuration wants it."""
    files = benchmark_files(wildcards)
    wanted = {"cloze": True, "gsm8k": EXPERIMENT.lesion().gsm8k_limit != 0}
    return {name: file for name, file in files.items() if wanted.get(name)}
