# The data flows from top to bottom; every rule runs one `fnsft` stage and adds only paths.
report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/sources.smk"
include: "workflow/rules/neurons.smk"
include: "workflow/rules/training.smk"
include: "workflow/rules/benchmarks.smk"
include: "workflow/rules/networks.smk"
include: "workflow/rules/reporting.smk"


rule all:
    default_target: True
    input:
        "results/table1.tex",
        "results/figures/validation_perplexity.pdf",
