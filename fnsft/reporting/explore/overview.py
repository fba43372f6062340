"""The experiment as a whole: what there is, what is missing, and what makes it."""

from typing import Any

from fnsft.reporting.explore.files import ResultFiles
from fnsft.reporting.explore.gather import Gathered
from fnsft.reporting.explore.metrics import methods_of
from fnsft.reporting.explore.neurons import HomeData

SNAKEMAKE = "snakemake --profile cpu"


def overview(files: ResultFiles, gathered: Gathered) -> dict[str, Any]:
    """Return the experiment's models, tasks, methods and seeds, and what it has and lacks."""
    records = [r for found in gathered.metrics.values() for r in found]
    tuned = [record for record in records if record.stage]
    homes = gathered.homes
    return {
        "experiment": files.folder.resolve().name,
        "models": _each(r.model for r in records) or _each(h.home.model for h in homes),
        "tasks": _each(r.task for r in tuned) or _each(h.home.task for h in homes),
        "methods": methods_of(tuned),
        "seeds": sorted({record.seed for record in tuned if record.seed is not None})
        or sorted({home.home.seed for home in homes}),
        "found": _found(files, gathered),
        "missing": _missing(files, gathered),
        "tables": list(files.tables),
        "figures": list(files.figures),
    }


def _each(names: Any) -> list[str]:
    return list(dict.fromkeys(name for name in names if name))


def _found(files: ResultFiles, gathered: Gathered) -> list[tuple[str, int]]:
    homes = gathered.homes
    networks = [found for home in homes for found in home.networks]
    return [
        ("metric records", sum(map(len, gathered.metrics.values()))),
        ("runs", len(files.runs)),
        ("runs joined over stages", len(files.transfer)),
        ("collaboration graphs", sum(len(home.graphs) for home in homes)),
        ("graphs with clusters", sum(g.clusters is not None for h in homes for g in h.graphs)),
        ("graphs with measures", sum(bool(g.measures) for h in homes for g in h.graphs)),
        ("sets of functional networks", len(networks)),
        ("sets of networks with lesions", sum(bool(found.effects) for found in networks)),
        ("runs with update frequencies", len(files.updates)),
        ("neuron descriptions", sum(len(d) for h in homes for d in h.descriptions.values())),
        ("tables", len(files.tables)),
        ("figures", len(files.figures)),
    ]


def _missing(files: ResultFiles, gathered: Gathered) -> list[tuple[str, str]]:
    """Return what is missing, each with the command that makes it."""
    wanted = [
        (not files.metrics, "scores of methods", "results/table1.tex"),
        (not files.transfer, "learned against kept over stages", "results/table2.tex"),
        (not gathered.homes, "graphs and clusters", "results/figures/structure_by_layer.pdf"),
        (not files.updates, "how often neurons could change", "results/figures/neuron_updates.pdf"),
    ]
    missing = [(what, f"{SNAKEMAKE} {target}") for absent, what, target in wanted if absent]
    experiment = f"results/{files.folder.resolve().name}"
    for home in gathered.homes:
        below = f"{experiment}/{home.home.folder.relative_to(files.folder)}"
        name = f"{home.home.model} on {home.home.task}, seed {home.home.seed}"
        missing += [
            (f"{what} of {name}", f"{SNAKEMAKE} {target}") for what, target in _lacks(home, below)
        ]
    return missing


def _lacks(home: HomeData, below: str) -> list[tuple[str, str]]:
    lacks = [] if home.graphs else [("the graph", f"{below}/graphs/paper.safetensors")]
    for graph in home.graphs:
        if graph.clusters is None:
            lacks.append((f"clusters ({graph.name})", f"{below}/clusters/{graph.name}.safetensors"))
        if not graph.measures:
            lacks.append((f"measures ({graph.name})", f"{below}/measures/{graph.name}.jsonl"))
    if not home.networks:
        lacks.append(("functional networks", f"{below}/networks/ica.safetensors"))
    at = below.replace("/neurons/", "/lesions/")
    for found in home.networks:
        if not found.effects:
            lacks.append((f"lesions ({found.name})", f"{at}/{found.name}.jsonl"))
    if home.described_from is None:
        lacks.append(("descriptions", f"{below}/descriptions.jsonl.gz"))
    return lacks
