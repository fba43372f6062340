# What the jobs of rules/neurons.smk read, and the flags that say so.


def dump_of(name):
    """The dump, by its name, of the neurons that a graph is of."""
    return lambda wildcards: neurons(
        name + HEADS * (EXPERIMENT.neurons_of(wildcards.graph) == "heads")
    )


def captured(dump):
    """The settings of a dump; sampled values are for the figures, which show MLPs."""
    return EXPERIMENT.capture(
        with_values=dump == "activations",
        neurons="heads" if dump.endswith(HEADS) else "mlp",
    )


def source_flags(wildcards):
    """Who a graph is, for the rows of its measures: a model's own, or a control's."""
    source = "token-shuffled" if "+null" in wildcards.graph else "model"
    if wildcards.model.endswith(TWIN):
        source = "random-init"
    name, graph = wildcards.model.removesuffix(TWIN), wildcards.graph.split("+")[0]
    return (
        f"--model-name {name} --task {wildcards.task} --graph-name {graph} "
        f"--run-seed {wildcards.seed} --source {source}"
    )


def other_clusters(wildcards):
    """The clusters of the same model on the task that measures compare with, if any."""
    against = EXPERIMENT.against
    if not against or against == wildcards.task:
        return []
    return [CLUSTERS.format(**dict(wildcards) | {"task": against})]


def described_by(wildcards):
    """What a model's neurons are described by: a published database, or the training split."""
    database = EXPERIMENT.database(wildcards.model)
    if database:
        return {"database": users_own(Path(database))}
    return {"data": TRAIN_SPLIT.format(task=wildcards.task, seed=wildcards.seed)}


def similarities(name):
    """The similarities that a table shows: of its graph, the twin's, and the null's.

    A database describes no twin, which would have to be compared by other descriptions.
    """
    entry, selection = EXPERIMENT.table(name), EXPERIMENT.selection("tables", name)
    return [
        SIMILARITY.format(
            model=model + twin,
            task=selection.task,
            seed=seed,
            graph=entry.graph + null,
        )
        for model in selection.models
        for seed in selection.seeds
        for twin, null in [("", ""), (TWIN, ""), ("", NULL)]
        if not (twin and EXPERIMENT.database(model))
    ]
