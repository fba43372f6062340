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


# Kinds of figures that say what was trained on.
TASK_KINDS = ("perplexity", "bars", "trade-off", "rates")


def labels_of(models):
    """How tables and figures call models."""
    return tuple(EXPERIMENT.model(model).label or model for model in models)


def benchmark_settings(entry, selection):
    """Which benchmarks a table or figure shows, and how it calls them."""
    suites = ()
    if entry.kind in SUITE_KINDS:
        suites = selection.suites
    if entry.kind in SEQUENCE_KINDS:
        suites = EXPERIMENT.sequence(selection.sequence).suites
    asked = tuple(b for suite in suites for b in EXPERIMENT.suite(suite))
    shown = entry.benchmarks or asked
    labels = (EXPERIMENT.benchmark_entry(name).label or name for name in shown)
    return {"benchmarks": shown, "benchmark_labels": tuple(labels)}


def table_settings(name):
    """What a table covers and how it calls it."""
    selection, entry = EXPERIMENT.selection("tables", name), EXPERIMENT.table(name)
    return TableSettings(
        kind=entry.kind,
        benchmark=entry.benchmark,
        metric=entry.metric,
        models=selection.models,
        model_labels=labels_of(selection.models),
        methods=("base", *selection.methods),
        controls=selection.controls,
        title=entry.title,
        layout=entry.layout,
        reference=entry.reference,
        curve=entry.curve,
        **benchmark_settings(entry, selection),
    )


def figure_points(name):
    """A sweep figure's hyperparameters, values and runs, for every model and seed."""
    selection = EXPERIMENT.selection("figures", name)
    return [
        (axis, value, f"{model}/{selection.task}/{variant}/seed{seed}")
        for axis, value, variant in EXPERIMENT.points(name)
        for model in selection.models
        for seed in selection.seeds
    ]


def figure_inputs(wildcards):
    """The files that a figure is drawn from, by its kind."""
    entry = EXPERIMENT.figure(wildcards.figure)
    selection = EXPERIMENT.selection("figures", wildcards.figure)
    if entry.kind in ("updates", "telemetry"):
        selection = EXPERIMENT.with_masks(selection)
    if entry.kind == "perplexity" and selection.sequence:
        return stage_runs(selection)
    if entry.kind in ("perplexity", "updates", "telemetry"):
        tasks = entry.tasks or (selection.task,)
        selections = [dataclasses.replace(selection, task=task) for task in tasks]
        return [
            f"{RESULTS}/runs/{run}" for found in selections for run in runs_of(found)
        ]
    if entry.kind == "bars":
        return suite_records(selection)
    if entry.kind in SEQUENCE_KINDS:
        variants = EXPERIMENT.rates(wildcards.figure) if entry.kind == "rates" else None
        runs = sequence_runs(selection, variants)
        return [f"{RESULTS}/transfer/{run}.jsonl" for run in runs]
    if entry.kind == "sweep":
        return [
            f"{RESULTS}/runs/{run}" for _, _, run in figure_points(wildcards.figure)
        ]
    file = {
        "agreement": NEURONS + "/measures/{graph}.jsonl",
        "structure": NEURONS + "/measures/{graph}.jsonl",
        "scores": NEURONS + "/measures/{graph}.scores.safetensors",
        "overlap": NEURONS + "/overlap/{graph}.jsonl",
        "activations": NEURONS + "/activations",
        "influence": NEURONS + "/tokens.safetensors",
        "clusters": CLUSTERS,
        "connectivity": NETWORKS,
        "coverage": NETWORKS,
        "lesions": LESIONS,
        "networks-clusters": AGREEMENT,
    }[entry.kind]
    sources = [("", "")]
    if entry.kind in ("agreement", "structure", "scores", "networks-clusters"):
        sources += [(TWIN, ""), ("", NULL)]
    one_seed = ("activations", "influence", "clusters", "scores")
    one_seed += ("connectivity", "coverage")
    return [
        file.format(
            model=model + twin,
            task=selection.task,
            seed=seed,
            graph=entry.graph + null,
            networks=entry.networks + null,
        )
        for model in selection.models
        for seed in (selection.seeds[:1] if entry.kind in one_seed else selection.seeds)
        for twin, null in sources
    ]


def stage_runs(selection):
    """The runs of every stage of a sequence, each once."""
    variants = EXPERIMENT.variants(
        (*selection.methods, *selection.controls), selection.fractions
    )
    runs = [
        f"{RESULTS}/runs/{stage}/seed{seed}"
        for model in selection.models
        for variant in map(str, variants)
        for stage in EXPERIMENT.stage_models(model, selection.sequence, variant)[1:]
        for seed in selection.seeds
    ]
    return list(dict.fromkeys(runs))


def figure_tasks(entry, selection):
    """The tasks that a figure's runs were trained on, and how it calls them."""
    tasks = entry.tasks or (selection.task,)
    if selection.sequence:
        tasks = EXPERIMENT.sequence(selection.sequence).tasks
    labels = tuple(EXPERIMENT.task(task).label or task for task in tasks)
    return {"tasks": tasks, "task_labels": labels}


def last_rates(name):
    """The learning rate of the last stage, in the order of a figure's inputs."""
    selection = EXPERIMENT.selection("figures", name)
    n_stages = len(EXPERIMENT.sequence(selection.sequence).tasks)
    return tuple(
        EXPERIMENT.training(str(variant), seed, n_stages).learning_rate
        for _ in selection.models
        for variant in EXPERIMENT.rates(name)
        for seed in selection.seeds
    )


def suite_records(selection):
    """The scores of a selection's base models and runs."""
    places = [f"{model}/base" for model in selection.models] + runs_of(selection)
    return [
        f"{RESULTS}/metrics/{place}/{suite}.jsonl"
        for place in places
        for suite in selection.suites
    ]


def figure_settings(name):
    """What a figure covers and how it calls it."""
    entry, selection = EXPERIMENT.figure(name), EXPERIMENT.selection("figures", name)
    points = figure_points(name) if entry.kind == "sweep" else []
    rates = last_rates(name) if entry.kind == "rates" else ()
    apart = entry.kind in SEQUENCE_KINDS  # elsewhere the legend's order says it
    return FigureSettings(
        kind=entry.kind,
        models=selection.models,
        model_labels=labels_of(selection.models),
        methods=(
            selection.methods if apart else (*selection.methods, *selection.controls)
        ),
        controls=selection.controls if apart else (),
        axes=tuple(axis for axis, _, _ in points),
        values=rates or tuple(value for _, value, _ in points),
        curve=entry.curve,
        **(figure_tasks(entry, selection) if entry.kind in TASK_KINDS else {}),
        **benchmark_settings(entry, selection),
        betas=entry.betas or FigureSettings().betas,
        layers=entry.layers,
    )


def table_records(wildcards):
    """What a table is made from: lesions, similarities, or records of base models and runs."""
    entry = EXPERIMENT.table(wildcards.table)
    selection = EXPERIMENT.selection("tables", wildcards.table)
    if entry.kind == "networks":
        return expand(
            LESIONS,
            model=selection.models,
            task=selection.task,
            seed=selection.seeds,
            networks=entry.networks,
        )
    if entry.kind in SIMILARITY_KINDS:
        return similarities(wildcards.table)
    if entry.kind in SEQUENCE_KINDS:
        return [f"{RESULTS}/transfer/{run}.jsonl" for run in sequence_runs(selection)]
    if entry.kind in SUITE_KINDS:
        return suite_records(selection)
    runs = [f"{model}/{selection.task}/base" for model in selection.models]
    runs += runs_of(selection)
    if entry.kind == "selective":
        masked = runs_of(selection, only=EXPERIMENT.has_forward_mask)
        runs += [f"{run}.mask-off" for run in masked]
    return [f"{RESULTS}/metrics/{run}.jsonl" for run in runs]


def table_items(wildcards):
    """The items that methods are compared on one by one: those of the last stage."""
    entry = EXPERIMENT.table(wildcards.table)
    selection = EXPERIMENT.selection("tables", wildcards.table)
    records = suite_records(selection) if entry.kind in SUITE_KINDS else []
    if entry.kind == "continual":
        methods = (*selection.methods, *selection.controls)
        suites = EXPERIMENT.sequence(selection.sequence).suites
        records = [
            file
            for model in selection.models
            for variant in map(str, EXPERIMENT.variants(methods, selection.fractions))
            for seed in selection.seeds
            for file in scores_of(
                EXPERIMENT.stage_models(model, selection.sequence, variant)[-1],
                seed,
                suites,
            )
        ]
    return [str(items_path(Path(file))) for file in records]


rule table:
    input:
        records=table_records,
        runs=table_runs,
        per_item=table_items,
    output:
        tex=RESULTS + "/{table}.tex",
        csv=RESULTS + "/{table}.csv",
        md=RESULTS + "/{table}.md",
        html=report(
            RESULTS + "/{table}.html",
            caption="../report/table.rst",
            category="Tables",
            subcategory=lambda wildcards: EXPERIMENT.table(wildcards.table).kind,
            labels={"table": "{table}"},
        ),
    log:
        LOGS + "/table/{table}.log",
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
        RESULTS + "/figures/{figure}.pdf",
        report(
            RESULTS + "/figures/{figure}.png",
            caption="../report/figure.rst",
            category="Figures",
            subcategory=lambda wildcards: EXPERIMENT.figure(wildcards.figure).kind,
            labels={"figure": "{figure}"},
        ),
    log:
        LOGS + "/figure/{figure}.log",
    params:
        stage=lambda wildcards: stage(figure_settings(wildcards.figure)),
        caption=lambda wildcards: caption_of(EXPERIMENT.figure(wildcards.figure).kind),
    message:
        "draw {wildcards.figure}"
    shell:
        "fnsft figure --inputs {input} --output {output[0]} {params.stage[0]} 2> {log}"


rule choose:
    input:
        [
            f"{RESULTS}/runs/{model}/{EXPERIMENT.selection().task}/{variant}/seed{seed}"
            for model in EXPERIMENT.selection().models
            for variant in EXPERIMENT.sweep_variants()
            for seed in EXPERIMENT.sweep().seeds
        ],
    output:
        RESULTS + "/sweep.yaml",
    log:
        LOGS + "/choose.log",
    params:
        stage=stage(ChooseSettings()),
    message:
        "choose a learning rate for every method"
    shell:
        "fnsft choose --training {input} --output {output} {params.stage[0]} 2> {log}"


rule sweep:
    input:
        RESULTS + "/sweep.yaml",


rule publish_table:
    input:
        multiext(RESULTS + "/{table}", ".tex", ".csv", ".md", ".html"),
    output:
        multiext("results/{table}", ".tex", ".csv", ".md", ".html"),
    message:
        "publish {wildcards.table} of this experiment"
    shell:
        "cp {input} $(dirname {output[0]})"


rule publish_figure:
    input:
        multiext(RESULTS + "/figures/{figure}", ".pdf", ".png"),
    output:
        multiext("results/figures/{figure}", ".pdf", ".png"),
    message:
        "publish the figure {wildcards.figure} of this experiment"
    shell:
        "cp {input} $(dirname {output[0]})"


def paper_settings():
    """What a paper says of itself."""
    selection = EXPERIMENT.selection()
    return PaperSettings(
        title=EXPERIMENT.paper().title,
        experiment=EXPERIMENT.name,
        models=labels_of(selection.models),
        seeds=selection.seeds,
    )


rule write_paper:
    input:
        tables=[f"{RESULTS}/{name}.tex" for name in EXPERIMENT.paper().tables],
        figures=[f"{RESULTS}/figures/{name}.pdf" for name in EXPERIMENT.paper().figures],
    output:
        RESULTS + "/paper.tex",
    log:
        LOGS + "/write_paper.log",
    params:
        stage=stage(paper_settings()),
    message:
        "put tables and figures into one document"
    shell:
        "fnsft paper --tables {input.tables} --figures {input.figures} "
        "--output {output} {params.stage[0]} 2> {log}"


rule typeset:
    input:
        document=RESULTS + "/paper.tex",
        figures=rules.write_paper.input.figures,
    output:
        RESULTS + "/paper.pdf",
    log:
        LOGS + "/typeset.log",
    params:
        stage=stage(TypesetSettings()),
    message:
        "typeset the paper"
    shell:
        "fnsft typeset {input.document} --output {output} {params.stage[0]} 2> {log}"


rule publish_paper:
    input:
        RESULTS + "/paper.pdf",
    output:
        "results/paper.pdf",
    message:
        "publish the paper of this experiment"
    shell:
        "cp {input} {output}"


rule paper:
    input:
        "results/paper.pdf",
        [f"results/{name}.tex" for name in EXPERIMENT.paper().tables],
        [f"results/figures/{name}.pdf" for name in EXPERIMENT.paper().figures],


def made():
    """This experiment's tables and figures that are there, those of its paper first."""
    paper = EXPERIMENT.paper()
    tables = dict.fromkeys((*paper.tables, *config["tables"]))
    figures = dict.fromkeys((*paper.figures, *config["figures"]))
    files = [f"{RESULTS}/{name}.html" for name in tables]
    files += [f"{RESULTS}/figures/{name}.png" for name in figures]
    return [path for path in files if Path(path).exists()]


# The target of a report, which then asks for nothing that was not made:
# snakemake --report report.html made
rule made:
    input:
        made(),


def newest_result():
    """When the last of an experiment's artefacts was written, how many, and what lies beside."""
    try:
        found = result_files(Path(RESULTS))
    except InputError:
        return "none"
    times = [path.stat().st_mtime_ns for path in found.read]
    return " ".join(
        [str(max(times)), str(len(times)), *found.tables, "/", *found.figures]
    )


# It shows what there is, and so has no input that could ask for more; what was written since
# then makes it anew.
rule explore:
    output:
        RESULTS + "/explore.html",
    log:
        LOGS + "/explore.log",
    params:
        stage=stage(ExploreSettings()),
        results=RESULTS,
        newest=lambda wildcards: newest_result(),
    message:
        "make one page of this experiment's results"
    shell:
        "fnsft explore {params.results} --output {output} {params.stage[0]} 2> {log}"


rule publish_explore:
    input:
        RESULTS + "/explore.html",
    output:
        "results/explore.html",
    message:
        "publish the page of this experiment"
    shell:
        "cp {input} {output}"
