"""The configuration: schema, catalogues, selections, and the runs that they amount to."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from fnsft.config.checks import check
from fnsft.config.experiment import Experiment
from fnsft.config.names import StageModel, Variant
from fnsft.config.schema import schema_text, validate
from fnsft.errors import InputError

OVERLAYS = {
    "papers": [],
    "tiny": ["tiny"],
    "smoke": ["tiny", "smoke"],
    "tiny+three-seeds": ["tiny", "three-seeds"],
    "smollm2": ["smollm2"],
    "smollm2-continual": ["smollm2", "smollm2-continual"],
}


def merged(base: dict[str, Any], overlay: dict[str, Any]) -> dict[str, Any]:
    """Merge as Snakemake does: mappings merge, everything else is replaced."""
    result = copy.deepcopy(base)
    for key, value in overlay.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else value
    return result


def load(repository: Path, name: str) -> dict[str, Any]:
    config = yaml.safe_load((repository / "config.yaml").read_text())
    for overlay in OVERLAYS[name]:
        text = (repository / "workflow/configs" / f"{overlay}.yaml").read_text()
        config = merged(config, yaml.safe_load(text))
    return config


@pytest.fixture
def papers(repository: Path) -> dict[str, Any]:
    return load(repository, "papers")


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_configuration_is_valid(repository: Path, name: str) -> None:
    config = load(repository, name)
    validate(config)
    check(Experiment(config))
    assert config["experiment"] == name.removesuffix("+three-seeds")


def test_the_committed_schema_is_that_of_the_dataclasses(repository: Path) -> None:
    committed = (repository / "workflow/schemas/config.schema.json").read_text()
    assert committed == schema_text(), "run: python -m fnsft.config.schema"


def test_the_papers_numbers_are_those_of_the_papers(papers: dict[str, Any]) -> None:
    experiment = Experiment(papers)
    collab = experiment.training("collab-p0.5", seed=0)
    assert (collab.lam, collab.learning_rate, collab.batch_size) == (0.5, 1e-5, 32)
    assert (collab.weight_decay, collab.epochs, collab.affinity) == (0.01, 3, "knn")
    graph = experiment.project("paper")
    assert (graph.alpha, graph.beta, graph.drop_top_tokens) == (2.5, 1.3, 3)
    prepare = experiment.prepare("gsm8k", seed=0)
    assert (prepare.n_train, prepare.n_validation) == (4_000, 1_000)
    lams = [
        experiment.training(f"{method}-p0.5", seed=0).lam
        for method in ("collab-cluster", "collab-cluster-l0.7")
    ]
    assert lams == [0.5, 0.7]


def test_masked_methods_have_a_variant_a_fraction_and_others_one(papers: dict[str, Any]) -> None:
    variants = Experiment(papers).variants(("sft", "random"), (0.5, 0.7))
    assert variants == [Variant("sft"), Variant("random", 0.5), Variant("random", 0.7)]
    assert [str(variant) for variant in variants] == ["sft", "random-p0.5", "random-p0.7"]


def test_a_methods_own_setting_wins_over_the_shared_one(papers: dict[str, Any]) -> None:
    papers["methods"]["lora"]["learning_rate"] = 3.0e-5
    experiment = Experiment(papers)
    assert experiment.training("lora", seed=3).learning_rate == 3e-5
    assert experiment.training("sft", seed=3).learning_rate == 1e-5
    assert experiment.training("sft", seed=3).seed == 3


def test_a_sweep_has_a_variant_a_rate(repository: Path) -> None:
    experiment = Experiment(load(repository, "tiny"))
    names = [str(variant) for variant in experiment.sweep_variants()]
    assert "highest-p0.5-lr0.001" in names
    assert experiment.training("highest-p0.5-lr0.0005", seed=100).learning_rate == 5e-4


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("graphs.paper.alhpa", 2, "graphs.paper: unknown key 'alhpa'; did you mean 'alpha'?"),
        ("trainning", {}, "unknown key 'trainning'; did you mean 'training'?"),
        ("run.method", ["sft"], "run: unknown key 'method'; did you mean 'methods'?"),
        ("run.methods", ["sfft"], "methods: no entry 'sfft'; there are active-neurons, "),
        ("run.models", ["gpt"], "models: no entry 'gpt'"),
        ("run.fractions", [1.5], "above 0, at most 1, found 1.5"),
        ("graphs.paper.alpha", -1, "graphs.paper.alpha: expected a number at least 0, found -1"),
        ("methods.collab.k", 100, "k=100 is more than graphs.paper keeps, k_max=64"),
        ("methods.collab.graph", None, "graph"),
        ("methods.lift.graph", "paper", "graph: needed if method is 'collab' or 'collab-static'"),
        ("methods.sft.polarity", "train", "networks: needed with a mask_mode alone, found None"),
        ("methods.sft.calibration", "gsm8k", "calibration: is about method 'ssu' with the score"),
        ("methods.ssu-random.calibration", "gsm8k", "calibration: is about method 'ssu' with"),
        ("methods.ssu.calibration", "gsm9k", "tasks: no entry 'gsm9k'"),
        ("methods.active-neurons.networks", "ica", "networks: needed with a mask_mode alone"),
        ("training.learning_rate", "fast", "training: learning_rate: expected a number"),
        ("experiment", "../elsewhere", "experiment: expected a folder's name"),
        ("models.llama-3.1-8b.name", None, "name: needed unless origin is 'pretrain'"),
        ("benchmarks.gsm8k.task", None, "benchmarks.gsm8k: task: needed if origin is 'task'"),
        (
            "benchmarks.mmlu.examples",
            None,
            "mmlu: examples: rows that shots are taken from",
        ),
        ("benchmarks.mmlu.measures", "trivia", "tasks: no entry 'trivia'"),
        ("benchmarks.gsm8k.kind", "gsm9k", "benchmarks.gsm8k.kind: expected one of gsm8k, exact"),
        ("training.schedule", "linnear", "constant, found 'linnear'; did you mean 'linear'?"),
        ("training.bf16_autocast", "yes", "bf16_autocast: expected true or false, found 'yes'"),
        ("run.methods", "sft", "run.methods: expected a list, found 'sft'"),
        ("tables.table2", [], "tables.table2: expected a mapping, found []"),
        ("suites.code.benchmarks", ["humanevil"], "benchmarks: no entry 'humanevil'"),
        ("sequences.math-code.tasks", ["gsm8k"], "tasks: expected two or more, each once"),
        ("sequences.math-code.suites", [], "suites: expected at least one, found none"),
        ("tables.table2.sequence", "code-math", "sequences: no entry 'code-math'"),
        ("tables.table2.sequence", "", "tables.table2: kind 'continual' needs a sequence"),
        ("tables.table_medical.suites", [], "kind 'benchmarks' needs suites"),
        ("figures.learning_retention.factors", [], "kind 'rates' needs factors"),
        ("figures.perplexity_by_task.tasks", ["gsm9k"], "tasks: no entry 'gsm9k'"),
        ("figures.perplexity_by_task.sequence", "math-code", "'perplexity' of sequence math-code"),
        ("figures.clusters.tasks", ["gsm8k"], "without a sequence, found kind 'clusters'; name"),
        ("methods.replay.earlier", "sfft", "methods: no entry 'sfft'"),
        ("methods.replay.earlier", "collab", "'collab' has a fraction, and 'replay' none"),
        ("suites.code.benchmarks", [], "benchmarks: expected at least one, each once"),
        ("suites.code.benchmarks", ["gsm8k"], "math-code: suites: 'gsm8k' is in two of them"),
        ("tables.table2.reference", "gold", "reference: 'gold' is none of its methods"),
        ("tables.table_continual_metrics.curve", ["slow"], "curve: 'slow' is none of its"),
    ],
)
def test_a_mistake_is_named_with_its_place(
    papers: dict[str, Any], path: str, value: Any, message: str
) -> None:
    *parents, key = path.replace("llama-3.1-8b", "LLAMA").split(".")
    target = papers
    for parent in parents:
        target = target[parent.replace("LLAMA", "llama-3.1-8b")]
    target[key] = value
    with pytest.raises(InputError) as caught:
        validate(papers)
        check(Experiment(papers))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_workflows_own_names_of_graphs_change_one_thing_each(papers: dict[str, Any]) -> None:
    experiment = Experiment(papers)
    paper = experiment.project("paper")
    assert experiment.project("paper+null") == replace(paper, shuffle_tokens=True)
    assert experiment.project("paper+odd") == replace(paper, documents="odd")
    assert experiment.project("paper+beta0.65") == replace(paper, beta=0.65)
    both = replace(paper, shuffle_tokens=True, documents="even")
    assert experiment.project("paper+null+even") == both
    assert experiment.measure("paper+null+even").shuffle_tokens
    assert not experiment.measure("paper").shuffle_tokens
    assert experiment.model("mistral-7b+twin") == experiment.model("mistral-7b")


def test_a_sweep_figure_trains_every_value_of_every_hyperparameter(papers: dict[str, Any]) -> None:
    papers["figures"]["sweep_k_beta"] |= {"ks": [5, 40], "betas": [0.65], "controls": []}
    experiment = Experiment(papers)
    points = [(axis, value, str(v)) for axis, value, v in experiment.points("sweep_k_beta")]
    assert points == [
        ("k", 5, "collab-p0.7-k5"),
        ("k", 40, "collab-p0.7-k40"),
        ("beta", 0.65, "collab-p0.7-beta0.65"),
    ]
    assert experiment.training("collab-p0.7-k40", 0).k == 40
    assert experiment.graph_of("collab-p0.7-k40") == "paper"
    assert experiment.graph_of("collab-p0.7-beta0.65") == "paper+beta0.65"
    papers["figures"]["sweep_k_beta"]["ks"] = [65]
    with pytest.raises(InputError, match="k=65 is more than graphs.paper keeps, k_max=64"):
        check(Experiment(papers))


def names_of(experiment: Experiment, sequence: str, variant: str) -> list[str]:
    return [str(model) for model in experiment.stage_models("mistral-7b", sequence, variant)]


def test_a_continual_stage_has_the_model_of_the_one_before(papers: dict[str, Any]) -> None:
    experiment = Experiment(papers)
    first = "mistral-7b/gsm8k/collab-p0.5"
    second = f"{first}/codealpaca/collab-p0.5"
    assert names_of(experiment, "math-code", "collab-p0.5") == ["mistral-7b", first, second]
    three = names_of(experiment, "math-code-medical", "collab-p0.5")
    assert three == ["mistral-7b", first, second, f"{second}/medical-o1/collab-p0.5"]
    assert [str(StageModel.of(name)) for name in three] == three


def test_continual_methods_that_change_the_last_stage_share_the_ones_before(
    papers: dict[str, Any],
) -> None:
    experiment = Experiment(papers)
    for name, first in (("replay", "sft"), ("collab-first-p0.5", "collab-p0.5")):
        stages = names_of(experiment, "math-code", name)
        assert stages[1:] == [f"mistral-7b/gsm8k/{first}", f"{stages[1]}/codealpaca/{name}"]
    stages = names_of(experiment, "math-code", "lora-x0.5")
    assert stages[1:] == ["mistral-7b/gsm8k/lora", "mistral-7b/gsm8k/lora/codealpaca/lora-x0.5"]
    assert not experiment.is_plain("lora-x0.5") and experiment.is_plain("replay")


def test_later_continual_stages_keep_a_methods_settings_but_those_of_their_own(
    repository: Path,
) -> None:
    experiment = Experiment(load(repository, "tiny"))
    first, second = (experiment.training("lora", seed=0, stage=stage) for stage in (1, 2))
    assert (first.learning_rate, second.learning_rate) == (4e-3, 1.6e-3)
    assert (first.epochs, second.epochs) == (2, 1)
    rest = {"learning_rate": first.learning_rate, "epochs": first.epochs}
    assert replace(second, **rest) == first
    assert experiment.training("lora-x0.25", 0, stage=2).learning_rate == 4e-4


def test_a_benchmark_is_a_string_of_words_that_its_command_takes(papers: dict[str, Any]) -> None:
    benchmark = Experiment(papers).benchmark("mmlu", "a file.jsonl", "dev.jsonl")
    assert benchmark.words() == (
        "kind=mmlu 'file=a file.jsonl' examples=dev.jsonl shots=5 max_new_tokens=256 template=auto"
    )
    papers["benchmarks"]["mmlu"]["shots"] = 0
    words = Experiment(papers).benchmark("mmlu", "a file.jsonl", None).words()
    assert "shots=0" in words, "without it the command would take five"


def test_a_reference_with_several_fractions_is_refused(papers: dict[str, Any]) -> None:
    papers["tables"]["table2"] |= {"reference": "collab", "fractions": [0.5, 0.7]}
    with pytest.raises(InputError, match="tables.table2: reference: 'collab' has several fract"):
        check(Experiment(papers))


def test_a_figure_of_a_dense_graph_is_refused(papers: dict[str, Any]) -> None:
    papers["figures"]["scores"]["graph"] = "no_knn"
    with pytest.raises(InputError, match="figures.scores: expected a graph of neighbours"):
        check(Experiment(papers))


def test_methods_without_a_mask_are_left_out_of_a_selection(papers: dict[str, Any]) -> None:
    experiment = Experiment(papers)
    masked = experiment.with_masks(experiment.selection())
    assert masked.methods == ("random", "highest", "gmt", "collab")
    assert masked.controls == ("shuffled",)
    assert masked.models == experiment.selection().models


def test_a_graph_of_heads_has_a_dump_and_methods_of_its_own(papers: dict[str, Any]) -> None:
    papers["graphs"]["of_heads"] = {"neurons": "heads", "alpha": 2.0}
    papers["methods"]["collab"] |= {"graph": "of_heads", "neurons": "heads"}
    experiment = Experiment(papers)
    assert experiment.neurons_of("of_heads+null") == "heads"
    assert experiment.project("of_heads").alpha == 2.0
    assert experiment.capture(neurons="heads").neurons == "heads"
    assert experiment.capture().neurons == experiment.neurons_of("paper") == "mlp"
    papers["methods"]["collab"]["neurons"] = "mlp"
    with pytest.raises(InputError, match="'mlp' needs a graph of these; graphs.of_heads is of 'h"):
        check(Experiment(papers))
    papers["methods"]["collab"]["graph"] = "paper"
    papers["capture"] = {"neurons": "heads"}
    with pytest.raises(InputError, match="capture: neurons: a graph says"):
        check(Experiment(papers))


def test_an_affinity_is_given_the_graph_that_it_can_read(papers: dict[str, Any]) -> None:
    papers["methods"]["collab"]["graph"] = "no_knn"
    with pytest.raises(InputError, match="affinity 'knn' needs a graph with dense: false"):
        check(Experiment(papers))
