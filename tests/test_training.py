"""Training runs on a two-layer model: what a mask lets through, and what a run leaves behind."""

import json
import shutil
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import BASIC, first_samples, train, weights, write_prepared
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config

from fnsft.architectures import mlp_matrices
from fnsft.artifacts.clusters import Clusters, read_clusters, write_clusters
from fnsft.artifacts.graphs import read_graph
from fnsft.artifacts.identity import model_identity
from fnsft.artifacts.rows import numbered_rows
from fnsft.artifacts.training import read_training
from fnsft.config.stages import TrainSettings
from fnsft.data.audit import audit
from fnsft.data.tokens import IGNORED, Encoded, load_split, load_tokenizer
from fnsft.masks.affinity import shuffled_labels
from fnsft.masks.gradients import accumulate_gradients
from fnsft.masks.selection import top_fraction
from fnsft.training.arguments import trainer_arguments
from fnsft.training.completion_loss import completion_loss
from fnsft.training.finetuning import as_dataset, make_trainer
from fnsft.training.processes import Processes


def test_the_loss_is_on_the_completion_alone() -> None:
    row = as_dataset([Encoded(prompt_ids=(5, 6), completion_ids=(7, 2))])[0]
    assert row == {"input_ids": [5, 6, 7, 2], "labels": [IGNORED, IGNORED, 7, 2]}


def test_a_mask_that_lets_everything_through_is_plain_fine_tuning(
    tiny_model_dir: Path, data: Path, tmp_path: Path
) -> None:
    train(tiny_model_dir, data, tmp_path / "sft", method="sft")
    train(tiny_model_dir, data, tmp_path / "gradient", method="highest", fraction=1)
    train(
        tiny_model_dir, data, tmp_path / "update", method="random", fraction=1, applies_to="update"
    )
    plain = weights(tmp_path / "sft")
    for other in ("gradient", "update"):
        masked = weights(tmp_path / other)
        assert all(torch.equal(plain[name], masked[name]) for name in plain), other


def test_gmt_with_a_window_of_one_is_highest(
    tiny_model_dir: Path, data: Path, tmp_path: Path
) -> None:
    train(tiny_model_dir, data, tmp_path / "gmt", method="gmt", fraction=0.3, window=1)
    train(tiny_model_dir, data, tmp_path / "highest", method="highest", fraction=0.3)
    one, other = weights(tmp_path / "gmt"), weights(tmp_path / "highest")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_gmt_steps_once_a_window_and_applies_the_partial_one(
    tiny_model_dir: Path, data: Path, tmp_path: Path
) -> None:
    train(tiny_model_dir, data, tmp_path / "run", method="gmt", fraction=0.3, window=3, epochs=2)
    assert read_training(tmp_path / "run").optimizer_steps == 2 * 2


@pytest.mark.parametrize("method", ["random", "child-tuning-d", "highest", "collab"])
@pytest.mark.parametrize("applies_to", ["gradient", "update"])
def test_one_step_moves_at_most_the_fraction_of_every_mlp_matrix(
    tiny_model_dir: Path, data: Path, graph: Path, tmp_path: Path, method: str, applies_to: str
) -> None:
    """With one step there is no momentum, and without decay a zero gradient moves nothing."""
    extra = {"graph": graph, "affinity": "knn", "k": 5} if method == "collab" else {}
    output = tmp_path / "run"
    settings = {"batch_size": 14, "micro_batch_size": 14, "weight_decay": 0, "fraction": 0.3}
    train(tiny_model_dir, data, output, method=method, applies_to=applies_to, **settings, **extra)
    before, after = weights(tiny_model_dir), weights(output)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    for matrix in mlp_matrices(model):
        moved = int((before[matrix.name] != after[matrix.name]).sum())
        # An entry with an exactly zero gradient is chosen only when too few others are left.
        assert moved == round(0.3 * before[matrix.name].numel()), matrix.name
    assert read_training(output).mask_pass_rate == pytest.approx(0.3, abs=1e-3)
    assert not torch.equal(before["model.norm.weight"], after["model.norm.weight"])


def test_gmt_s_step_is_adam_on_the_largest_means_of_a_window_s_gradients(
    tiny_model_dir: Path, data: Path, tmp_path: Path
) -> None:
    """Γ is the mean over the tokens of 3 batches at fixed weights; the rest of the step is Adam."""
    settings = {"method": "gmt", "fraction": 0.3, "window": 3, "schedule": "constant"}
    settings |= {"weight_decay": 0, "max_grad_norm": 0, "unmasked": "freeze"}
    few = first_samples(data, 12, tmp_path / "few")
    assert train(tiny_model_dir, few, tmp_path / "run", **settings) == 0
    assert read_training(tmp_path / "run").optimizer_steps == 1
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    samples = load_split(few / "train.jsonl", load_tokenizer(tiny_model_dir), 1024).samples
    n_tokens = sum(len(sample.completion_ids) for sample in samples)
    accumulate_gradients(model, samples)
    after = weights(tmp_path / "run")
    for matrix in mlp_matrices(model):
        gradient = matrix.parameter.grad / n_tokens
        chosen = top_fraction(gradient.abs(), 0.3)
        # Adam's first step is lr·g/(|g| + ε).
        step = BASIC["learning-rate"] * gradient / (gradient.abs() + 1e-8) * chosen
        expected = matrix.parameter.detach() - step
        differ = (after[matrix.name] - expected).abs() > 1e-5
        assert int(differ.sum()) <= 2, matrix.name  # rounding may swap entries at the threshold


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_half_fine_tuning_leaves_half_of_the_matrices_bit_identical(
    tiny_model_dir: Path, data: Path, tmp_path: Path, decay: float
) -> None:
    settings = {"method": "hft", "fraction": 0.5, "applies_to": "update", "weight_decay": decay}
    assert train(tiny_model_dir, data, tmp_path / "run", epochs=2, **settings) == 0
    before, after = weights(tiny_model_dir), weights(tmp_path / "run")
    matrices = mlp_matrices(AutoModelForCausalLM.from_pretrained(tiny_model_dir))
    moved = [
        int((before[m.name] != after[m.name]).sum()) / before[m.name].numel() for m in matrices
    ]
    assert sorted(round(share) for share in moved) == [0, 0, 0, 1, 1, 1]
    assert sorted(moved)[:3] == [0, 0, 0]
    assert read_training(tmp_path / "run").mask_pass_rate == 0.5


@pytest.mark.parametrize("affinity", ["cluster", "cluster-shuffled"])
def test_clusters_decide_what_may_change(
    tiny_model_dir: Path, data: Path, clusters: Path, tmp_path: Path, affinity: str
) -> None:
    """With λ = 1 a row's score is its cluster's: the neurons of a cluster share their mask."""
    output = tmp_path / "run"
    settings = {"batch_size": 14, "micro_batch_size": 14, "weight_decay": 0, "fraction": 0.3}
    settings |= {"method": "collab", "affinity": affinity, "clusters": clusters, "lam": 1}
    assert train(tiny_model_dir, data, output, **settings) == 0
    before, after = weights(tiny_model_dir), weights(output)
    layers = [layer.labels for layer in read_clusters(clusters).layers]
    if affinity == "cluster-shuffled":
        layers = [shuffled_labels(labels, 0, number) for number, labels in enumerate(layers)]
    for matrix in mlp_matrices(AutoModelForCausalLM.from_pretrained(tiny_model_dir)):
        moved = before[matrix.name] != after[matrix.name]
        assert int(moved.sum()) == round(0.3 * moved.numel())
        rows = moved if matrix.neuron_axis == 0 else moved.t()
        labels = layers[matrix.layer]
        # Only the cluster at the threshold is divided, in one place a column or so.
        divided = 0
        for cluster in range(labels.max() + 1):
            share = rows[torch.from_numpy(labels == cluster)].float().mean(dim=0)
            divided += int(((share > 0) & (share < 1)).sum())
        assert divided <= 2, matrix.name
    notes = json.loads((tmp_path / "run.manifest.json").read_text())["notes"]
    assert notes["isolated_neurons"] == [int((labels == -1).sum()) for labels in layers]
    assert notes["isolated_neurons"][0] >= 3
    assert read_training(output).run.affinity == affinity


def test_a_dense_graph_of_the_stored_weights_is_the_knn_graph_with_all_of_them(
    tiny_model_dir: Path, data: Path, graph: Path, dense_graph: Path, tmp_path: Path
) -> None:
    k_max = read_graph(graph).k_max
    settings = {"method": "collab", "fraction": 0.3, "batch_size": 14, "micro_batch_size": 14}
    runs = {
        "knn": {"graph": graph, "affinity": "knn", "k": k_max},
        "dense": {"graph": dense_graph, "affinity": "dense"},
        "mutual": {"graph": graph, "affinity": "knn", "k": 5, "mutual": True},
        "cut": {"graph": graph, "affinity": "knn", "k": 5},
    }
    for name, extra in runs.items():
        assert train(tiny_model_dir, data, tmp_path / name, **settings, **extra) == 0
    differ = {}
    for one, other in (("knn", "dense"), ("cut", "mutual")):
        first, second = weights(tmp_path / one), weights(tmp_path / other)
        parts = [(first[name] != second[name]).float().mean().item() for name in first]
        differ[one] = max(parts)
    # Sums in another order may change places at the threshold, another affinity changes many.
    assert differ["knn"] < 0.002
    assert differ["cut"] > 0.01


@pytest.mark.parametrize(
    ("affinity", "source", "message"),
    [
        ("cluster", "graph", "with affinity 'cluster' takes no graph; leave --graph out"),
        ("knn", "clusters", "with affinity 'knn' takes no clusters; leave --clusters out"),
        ("dense", "graph", "expected dense-collaboration-graph of schema 1"),
        ("knn", "dense_graph", "expected collaboration-graph of schema 1"),
        (
            "mutual",
            "clusters",
            "mutual: expected the affinity knn, shuffled or diffusion, found cluster",
        ),
    ],
)
def test_an_affinity_with_another_ones_source_is_bad_input(
    tiny_model_dir: Path,
    data: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
    affinity: str,
    source: str | None,
    message: str,
) -> None:
    settings: dict[str, Any] = {"method": "collab", "fraction": 0.5, "affinity": affinity}
    if affinity == "mutual":
        settings |= {"affinity": "cluster", "mutual": True}
    if source:
        settings["clusters" if source == "clusters" else "graph"] = request.getfixturevalue(source)
    capsys.readouterr()
    assert train(tiny_model_dir, data, tmp_path / "run", **settings) == 2
    error = capsys.readouterr().err
    assert message in error
    assert not list(tmp_path.iterdir())


def test_clusters_of_another_shape_are_refused(
    tiny_model_dir: Path,
    data: Path,
    clusters: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = read_clusters(clusters)
    other = Clusters(found.layers[:1], found.d_mlp)
    path = tmp_path / "other" / "clusters.safetensors"
    write_clusters(path, other, model_identity(tiny_model_dir))
    settings = {"method": "collab", "fraction": 0.5, "affinity": "cluster", "clusters": path}
    assert train(tiny_model_dir, data, tmp_path / "run", **settings) == 2
    message = "expected 2 layers of 64 neurons, found 1 of 64; make them from this model"
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "settings",
    [{"method": "projections-only"}, {"method": "random", "fraction": 0.5, "unmasked": "freeze"}],
    ids=lambda settings: settings["method"],
)
def test_frozen_parameters_stay_bit_identical(
    tiny_model_dir: Path, data: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    train(tiny_model_dir, data, tmp_path / "run", **settings)
    before, after = weights(tiny_model_dir), weights(tmp_path / "run")
    for name in before:
        assert torch.equal(before[name], after[name]) == (".mlp." not in name), name


def test_the_best_epoch_is_what_is_saved(tiny_model_dir: Path, data: Path, tmp_path: Path) -> None:
    """At a rate that is too high, an epoch before the last is the best."""
    output = tmp_path / "run"
    train(tiny_model_dir, data, output, epochs=6, learning_rate=0.1, schedule="constant")
    record = read_training(output)
    ends = [point for point in record.validation if point["epoch_end"]]
    assert [point["epoch"] for point in ends] == [1, 2, 3, 4, 5, 6]
    assert record.best_epoch < 6, "pick another rate: the last epoch was the best"
    tokenizer = load_tokenizer(output)
    samples = load_split(data / "validation.jsonl", tokenizer, 1024).samples
    model = AutoModelForCausalLM.from_pretrained(output)
    perplexity = completion_loss(model, samples, 2).perplexity
    assert perplexity == pytest.approx(min(point["perplexity"] for point in ends), rel=1e-6)
    assert perplexity == pytest.approx(record.best_validation_perplexity, rel=1e-6)


def test_training_samples_that_are_too_long_are_counted(
    tiny_model_dir: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = load_split(data / "train.jsonl", load_tokenizer(tiny_model_dir), 1024).samples
    limit = max(len(sample.ids) for sample in samples) - 1
    too_long = sum(len(sample.ids) > limit for sample in samples)
    assert train(tiny_model_dir, data, tmp_path / "run", max_tokens=limit) == 0
    notes = json.loads((tmp_path / "run.manifest.json").read_text())["notes"]
    assert notes["train_samples_left_out"] == too_long > 0
    assert f"{too_long} longer samples left out" in capsys.readouterr().err


def test_the_audit_counts_the_labels_of_the_batches_that_train(
    tiny_model_dir: Path, data: Path, tmp_path: Path
) -> None:
    """Padding, pieces of texts and the collator change neither labels nor samples."""
    rows = [row for _, row in numbered_rows(data / "train.jsonl")]
    texts = [{"prompt": "", "completion": "Ada has 3 apples. " * n} for n in (1, 9)]
    folder = write_prepared(tmp_path, {"train": rows + texts})
    tokenizer = load_tokenizer(tiny_model_dir)
    split = load_split(folder / "train.jsonl", tokenizer, 40)
    settings = TrainSettings(method="sft", micro_batch_size=3, batch_size=3)
    n_samples = len(split.samples)
    arguments = trainer_arguments(settings, tmp_path / "c", Processes(1, 0), n_samples)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    trainer = make_trainer(model, tokenizer, split.samples, settings, arguments)
    seen = [labels for batch in trainer.get_train_dataloader() for labels in batch["labels"]]
    n_learned = [int((labels != IGNORED).sum()) for labels in seen]
    found = audit(split, tokenizer)
    assert found.n_samples == len(seen) > len(rows) + 2
    assert (found.supervised_min, found.supervised_max) == (min(n_learned), max(n_learned))
    assert found.supervised_median == statistics.median(n_learned)
    assert found.supervised_share == sum(n_learned) / split.n_tokens
    ends = [int(labels[labels != IGNORED][-1]) == tokenizer.eos_token_id for labels in seen]
    assert ends.count(False) == split.n_unfinished > 0


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_samples_longer_than_the_models_positions_do_not_train(
    tiny_model_dir: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    family: str,
) -> None:
    samples = load_split(data / "train.jsonl", load_tokenizer(tiny_model_dir), 1024).samples
    positions = max(len(sample.ids) for sample in samples)
    rows = [row for _, row in numbered_rows(data / "train.jsonl")]
    rows.append({"prompt": rows[0]["prompt"], "completion": " 1" * positions})
    few = write_prepared(tmp_path / "few", {"train": rows, "validation": rows})
    model = shutil.copytree(tiny_model_dir, tmp_path / "model")
    config = AutoConfig.from_pretrained(model)
    if family == "gpt2":
        sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": positions}
        config = GPT2Config(vocab_size=config.vocab_size, eos_token_id=2, bos_token_id=1, **sizes)
    config.max_position_embeddings = positions
    AutoModelForCausalLM.from_config(config).save_pretrained(model)
    assert train(model, few, tmp_path / "run") == 0
    notes = json.loads((tmp_path / "run.manifest.json").read_text())["notes"]
    assert notes["train_samples_left_out"] == notes["validation_samples_left_out"] == 1
    assert (
        f"left out as longer than the model's {positions} positions: 1" in capsys.readouterr().err
    )


def test_the_curve_has_about_as_many_points_as_asked(
    tiny_model_dir: Path, data: Path, tmp_path: Path
) -> None:
    settings = {"batch_size": 1, "micro_batch_size": 1, "validations": 7, "epochs": 2}
    train(tiny_model_dir, data, tmp_path / "run", **settings)
    steps = [point["step"] for point in read_training(tmp_path / "run").validation]
    assert steps == [0, 4, 8, 12, 14, 16, 20, 24, 28]


def test_checkpoints_of_other_settings_are_refused(
    tiny_model_dir: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints = tmp_path / "run.checkpoints"
    checkpoints.mkdir()
    train(tiny_model_dir, data, tmp_path / "done")
    shutil.copytree(tmp_path / "done", checkpoints / "checkpoint-4")
    settings = json.loads((tmp_path / "done.manifest.json").read_text())["settings"]
    owner = {"stage_version": 1, "settings": settings | {"seed": 9}, "inputs": {}}
    (checkpoints / "run.json").write_text(json.dumps(owner))
    assert train(tiny_model_dir, data, tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert "holds the checkpoints of a run with other settings (seed)" in error
    assert (checkpoints / "checkpoint-4").exists(), "nothing may be lost"


def test_a_divergent_run_is_named(
    tiny_model_dir: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tiny_model_dir, data, tmp_path / "run", epochs=2, learning_rate=1e30) == 2
    assert "lower the learning rate" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_gradient_that_is_not_finite_is_refused_before_the_optimizer_sees_it(
    tiny_model_dir: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a mask too, and long before the validation at the epoch's end."""
    settings = {"learning_rate": 1e30, "validations": 1, "schedule": "constant"}
    assert train(tiny_model_dir, data, tmp_path / "run", **settings) == 2
    assert "step 1: expected a finite gradient, found one of norm nan" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "sft", "graph": "g.safetensors"}, "takes no graph"),
        ({"method": "highest", "fraction": 1, "clusters": "c.safetensors"}, "takes no clusters"),
        (
            {"method": "hft", "fraction": 0.5, "applies_to": "gradient"},
            "only 'update' does (weight decay",
        ),
        ({"micro_batch_size": 3}, "a multiple of 3 (micro_batch_size 3, 1 process), found 4"),
        ({"method": "highest", "fraction": 2}, "above 0, at most 1, found 2.0"),
        ({"model": "nowhere"}, "nowhere: no such folder here"),
        ({"data": "nowhere"}, "nowhere: no such file or folder"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    tiny_model_dir: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    settings: dict[str, Any],
    message: str,
) -> None:
    settings = {"method": "sft"} | settings
    model = settings.pop("model", tiny_model_dir)
    folder = settings.pop("data", data)
    assert train(model, folder, tmp_path / "run", **settings) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_graph_of_another_model_is_refused(
    shared_data: Path,
    data: Path,
    graph: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = shared_data / "models/stories260k"
    settings = {"method": "collab", "fraction": 0.5, "affinity": "knn", "graph": graph}
    assert train(other, data, tmp_path / "run", **settings) == 2
    assert "made from model" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
