# What the jobs of rules/reporting.smk read, and the flags that say so.

# Kinds of tables and figures that say what was trained on.
TASK_KINDS = ("perplexity", *SUITE_KINDS, *SEQUENCE_KINDS)


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
        **task_settings(entry, selection),
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
            results(f"runs/{run}") for found in selections for run in runs_of(found)
        ]
    if entry.kind == "bars":
        return suite_records(selection)
    if entry.kind in SEQUENCE_KINDS:
        variants = EXPERIMENT.rates(wildcards.figure) if entry.kind == "rates" else None
        runs = sequence_runs(selection, variants)
        return [results(f"transfer/{run}.jsonl") for run in runs]
    if entry.kind == "sweep":
        return [results(f"runs/{run}") for _, _, run in figure_points(wildcards.figure)]
    file = {
        "agreement": neurons("measures/{graph}.jsonl"),
        "structure": neurons("measures/{graph}.jsonl"),
        "scores": neurons("measures/{graph}.scores.safetensors"),
        "overlap": neurons("overlap/{graph}.jsonl"),
        "activations": neurons("activations"),
        "influence": neurons("tokens.safetensors"),
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
        results(f"runs/{stage}/seed{seed}")
        for model in selection.models
        for variant in map(str, variants)
        for stage in EXPERIMENT.stage_models(model, selection.sequence, variant)[1:]
        for seed in selection.seeds
    ]
    return list(dict.fromkeys(runs))


def task_settings(entry, selection):
    """Which tasks the runs of a table or figure were trained on, and how it calls them."""
    if entry.kind not in TASK_KINDS:
        return {}
    tasks = getattr(entry, "tasks", ()) or (selection.task,)
    if selection.sequence:
        tasks = EXPERIMENT.sequence(selection.sequence).tasks
    labels = tuple(EXPERIMENT.task(task).label or task for task in tasks)
    return {"tasks": tasks, "task_labels": labels}


def last_rates(name):
    """The learning rate of the last stage, in the order of a figure's inputs."""
    selection = EXPERIMENT.selection("figures", name)
    stages = EXPERIMENT.sequence(selection.sequence).tasks
    return tuple(
        EXPERIMENT.training(str(variant), seed, len(stages), stages[-1]).learning_rate
        for _ in selection.models
        for variant in EXPERIMENT.rates(name)
        for seed in selection.seeds
    )


def suite_records(selection):
    """The scores of a selection's base models and runs."""
    places = [f"{model}/base" for model in selection.models] + runs_of(selection)
    return [
        results(f"metrics/{place}/{suite}.jsonl")
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
        **task_settings(entry, selection),
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
        return [results(f"transfer/{run}.jsonl") for run in sequence_runs(selection)]
    if entry.kind in SUITE_KINDS:
        return suite_records(selection)
    runs = [f"{model}/{selection.task}/base" for model in selection.models]
    runs += runs_of(selection)
    if entry.kind == "selective":
        masked = runs_of(selection, only=EXPERIMENT.has_forward_mask)
        runs += [f"{run}.mask-off" for run in masked]
    return [results(f"metrics/{run}.jsonl") for run in runs]


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


def paper_settings():
    """What a paper says of itself."""
    selection = EXPERIMENT.selection()
    return PaperSettings(
        title=EXPERIMENT.paper().title,
        experiment=EXPERIMENT.name,
        models=labels_of(selection.models),
        seeds=selection.seeds,
    )


def made():
    """This experiment's tables and figures that are there, those of its paper first."""
    paper = EXPERIMENT.paper()
    tables = dict.fromkeys((*paper.tables, *config["tables"]))
    figures = dict.fromkeys((*paper.figures, *config["figures"]))
    files = [results(f"{name}.html") for name in tables]
    files += [results(f"figures/{name}.png") for name in figures]
    return [path for path in files if Path(path).exists()]


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
