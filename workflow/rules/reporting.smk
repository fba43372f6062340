# Tables and figures, from records alone, and the cheap copies that people ask for.
localrules:
    transfer,
    table,
    figure,
    choose,
    publish_table,
    publish_figure,
    sweep,
    write_paper,
    typeset,
    publish_paper,
    paper,
    made,
    explore,
    publish_explore,


rule table:
    input:
        records=table_records,
        runs=table_runs,
        per_item=table_items,
    output:
        tex=results("{table}.tex"),
        csv=results("{table}.csv"),
        md=results("{table}.md"),
        html=report(
            results("{table}.html"),
            caption="../report/table.rst",
            category="Tables",
            subcategory=lambda wildcards: EXPERIMENT.table(wildcards.table).kind,
            labels={"table": "{table}"},
        ),
    log:
        logs("table/{table}.log"),
    params:
        stage=lambda wildcards: stage(table_settings(wildcards.table)),
        paired=lambda wildcards, input: (
            f"--items {input.per_item}" if input.per_item else ""
        ),
        kind=lambda wildcards: EXPERIMENT.table(wildcards.table).kind,
    message:
        "make {wildcards.table}"
    shell:
        "fnsft table --records {input.records} {params.paired} --training {input.runs} "
        "--output {output.tex} --csv {output.csv} --markdown {output.md} --html {output.html} "
        "{params.stage[0]} 2> {log}"


rule figure:
    input:
        figure_inputs,
    output:
        pdf=results("figures/{figure}.pdf"),
        png=report(
            results("figures/{figure}.png"),
            caption="../report/figure.rst",
            category="Figures",
            subcategory=lambda wildcards: EXPERIMENT.figure(wildcards.figure).kind,
            labels={"figure": "{figure}"},
        ),
    log:
        logs("figure/{figure}.log"),
    params:
        stage=lambda wildcards: stage(figure_settings(wildcards.figure)),
        caption=lambda wildcards: caption_of(EXPERIMENT.figure(wildcards.figure).kind),
    message:
        "draw {wildcards.figure}"
    shell:
        "fnsft figure --inputs {input} --output {output.pdf} {params.stage[0]} 2> {log}"


rule choose:
    input:
        [
            results(f"runs/{model}/{EXPERIMENT.selection().task}/{variant}/seed{seed}")
            for model in EXPERIMENT.selection().models
            for variant in EXPERIMENT.sweep_variants()
            for seed in EXPERIMENT.sweep().seeds
        ],
    output:
        results("sweep.yaml"),
    log:
        logs("choose.log"),
    params:
        stage=stage(ChooseSettings()),
    message:
        "choose a learning rate for every method"
    shell:
        "fnsft choose --training {input} --output {output} {params.stage[0]} 2> {log}"


rule sweep:
    input:
        results("sweep.yaml"),


rule publish_table:
    input:
        multiext(results("{table}"), ".tex", ".csv", ".md", ".html"),
    output:
        multiext("results/{table}", tex=".tex", csv=".csv", md=".md", html=".html"),
    log:
        logs("publish/{table}.log"),
    message:
        "publish {wildcards.table} of this experiment"
    shell:
        "cp {input} $(dirname {output.tex}) 2> {log}"


rule publish_figure:
    input:
        multiext(results("figures/{figure}"), ".pdf", ".png"),
    output:
        multiext("results/figures/{figure}", pdf=".pdf", png=".png"),
    log:
        logs("publish/{figure}.log"),
    message:
        "publish the figure {wildcards.figure} of this experiment"
    shell:
        "cp {input} $(dirname {output.pdf}) 2> {log}"


rule write_paper:
    input:
        tables=[results(f"{name}.tex") for name in EXPERIMENT.paper().tables],
        figures=[results(f"figures/{name}.pdf") for name in EXPERIMENT.paper().figures],
    output:
        results("paper.tex"),
    log:
        logs("write_paper.log"),
    params:
        stage=stage(paper_settings()),
    message:
        "put tables and figures into one document"
    shell:
        "fnsft paper --tables {input.tables} --figures {input.figures} "
        "--output {output} {params.stage[0]} 2> {log}"


rule typeset:
    input:
        document=results("paper.tex"),
        figures=rules.write_paper.input.figures,
    output:
        results("paper.pdf"),
    log:
        logs("typeset.log"),
    params:
        stage=stage(TypesetSettings()),
    message:
        "typeset the paper"
    shell:
        "fnsft typeset {input.document} --output {output} {params.stage[0]} 2> {log}"


rule publish_paper:
    input:
        results("paper.pdf"),
    output:
        "results/paper.pdf",
    log:
        logs("publish/paper.log"),
    message:
        "publish the paper of this experiment"
    shell:
        "cp {input} {output} 2> {log}"


rule paper:
    input:
        "results/paper.pdf",
        [f"results/{name}.tex" for name in EXPERIMENT.paper().tables],
        [f"results/figures/{name}.pdf" for name in EXPERIMENT.paper().figures],


# The target of a report, which then asks for nothing that was not made:
# snakemake --report report.html made
rule made:
    input:
        made(),


# It shows what there is, and so has no input that could ask for more; what was written since
# then makes it anew.
rule explore:
    output:
        results("explore.html"),
    log:
        logs("explore.log"),
    params:
        stage=stage(ExploreSettings()),
        results=lambda wildcards, output: str(Path(output[0]).parent),
        newest=lambda wildcards: newest_result(),
    message:
        "make one page of this experiment's results"
    shell:
        "fnsft explore {params.results} --output {output} {params.stage[0]} 2> {log}"


rule publish_explore:
    input:
        results("explore.html"),
    output:
        "results/explore.html",
    log:
        logs("publish/explore.log"),
    message:
        "publish the page of this experiment"
    shell:
        "cp {input} {output} 2> {log}"
