# The data flows from top to bottom; every rule runs one `fnsft` stage and adds only paths.
report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/paths.smk"
include: "workflow/inputs/neurons.smk"
include: "workflow/inputs/training.smk"
include: "workflow/inputs/benchmarks.smk"
include: "workflow/inputs/networks.smk"
include: "workflow/inputs/reporting.smk"
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
