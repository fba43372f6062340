"""Fine-tuning with functional networks: on the forward pass, on the update, joining by epochs."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import LAYERS, D, N, model_of, write_family
from peft import PeftModel
from runs import NETWORKS, train, weights
from safetensors.torch import load_file
from test_resume import assert_alike, kill_at
from torch import Tensor
from transformers import AutoModelForCausalLM

from fnsft.architectures import MLPMatrix, mlp_matrices
from fnsft.architectures.matrices import neuron_biases
from fnsft.artifacts.forward_masks import read_forward_mask
from fnsft.artifacts.identity import model_identity
from fnsft.artifacts.networks import Networks, read_networks, write_networks
from fnsft.artifacts.records import read_records
from fnsft.artifacts.telemetry import read_neuron_updates
from fnsft.artifacts.templates import Templates, write_templates
from fnsft.artifacts.training import read_training
from fnsft.cli.main import main
from fnsft.config.stages import Site, TrainSettings
from fnsft.data.tokens import load_split, load_tokenizer
from fnsft.errors import InputError
from fnsft.evaluation.loading import load_model
from fnsft.masks.random_sets import size_matched
from fnsft.training import curve
from fnsft.training.completion_loss import completion_loss
from fnsft.training.networks import choose_neurons, described

# Conv1D with a bias, a fused gate and up, and both of them apart, with biases.
SHAPES: dict[str, dict[str, Any]] = {
    "GPT2": {"family": "GPT2", "n_positions": 512},
    "Phi3": {"family": "Phi3"},
    "biases": {"family": "Llama", "mlp_bias": True},
}
N_BIASES = {"GPT2": LAYERS, "Phi3": 0, "biases": 2 * LAYERS}
BY_NEURON = ("train-only", "freeze")


@pytest.fixture(scope="module")
def family_dir(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folders of tiny models of 64 neurons a layer, by their name in SHAPES."""
    folders: dict[str, Path] = {}

    def folder_of(name: str) -> Path:
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp(name)
            write_family(folders[name], **SHAPES[name])
        return folders[name]

    return folder_of


def listed(*ids: int) -> list[Tensor]:
    """The neurons of some of NETWORKS together, bool [64] a layer."""
    layers = [torch.zeros(N, dtype=torch.bool) for _ in range(2)]
    for number in ids:
        for layer, neurons in NETWORKS[number].items():
            layers[layer][neurons] = True
    return layers


def parts_of(folder: Path) -> tuple[Any, list[tuple[MLPMatrix, Tensor]]]:
    """The model in a folder, and of its MLPs every neuron's weights and biases, [N, d] each."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    parts = [
        (matrix, matrix.view(matrix.parameter.detach()).movedim(matrix.neuron_axis, 0))
        for matrix in (*mlp_matrices(model), *neuron_biases(model))
    ]
    return model, parts


def perplexity_of(model: Any, data: Path, tokenizer: Path) -> float:
    samples = load_split(data / "validation.jsonl", load_tokenizer(tokenizer), 1024).samples
    return completion_loss(model, samples, 2).perplexity


def notes_of(output: Path) -> dict[str, Any]:
    return json.loads(output.with_name(f"{output.name}.manifest.json").read_text())["notes"]


@pytest.mark.parametrize("family", SHAPES)
@pytest.mark.parametrize("mode", BY_NEURON)
def test_rows_biases_and_columns_of_a_network_are_all_that_moves_or_all_that_does_not(
    family_dir: Callable[[str], Path],
    data: Path,
    networks: Path,
    tmp_path: Path,
    family: str,
    mode: str,
) -> None:
    folder, output = family_dir(family), tmp_path / "run"
    settings = {"mask_mode": mode, "networks": networks, "component_ids": (0, 2)}
    settings |= {"weight_decay": 0.1, "epochs": 2, "max_grad_norm": 0.1}
    assert train(folder, data, output, **settings) == 0
    (old, before), (new, after) = parts_of(folder), parts_of(output)
    assert sum(matrix.parameter.ndim == 1 for matrix, _ in before) == N_BIASES[family]
    for (matrix, was), (_, now) in zip(before, after, strict=True):
        chosen = listed(0, 2)[matrix.layer]
        trained = chosen if mode == "train-only" else ~chosen
        assert torch.equal(now[~trained].view(torch.int32), was[~trained].view(torch.int32))
        assert (now != was)[trained].float().mean() > 0.9, matrix.name
    of_neurons = {id(matrix.parameter) for matrix, _ in before}
    others = dict(new.named_parameters())
    same = {
        name: torch.equal(parameter, others[name])
        for name, parameter in old.named_parameters()
        if id(parameter) not in of_neurons
    }
    assert len(same) > 5
    assert all(same.values()) == any(same.values()) == (mode == "train-only")
    run = read_training(output).run
    assert (run.method, run.mask_mode, run.applies_to) == ("sft", mode, "update")
    share = read_neuron_updates(output).share
    expected = torch.stack([c if mode == "train-only" else ~c for c in listed(0, 2)])
    assert np.array_equal(share, expected.float().numpy())


@pytest.mark.parametrize("mode", BY_NEURON)
def test_through_adapters_the_merged_weights_of_a_network_move_alone_or_stay(
    tiny_model_dir: Path, data: Path, networks: Path, tmp_path: Path, mode: str
) -> None:
    settings = {"method": "lora", "mask_mode": mode, "networks": networks, "weight_decay": 0.1}
    settings |= {"gradient_checkpointing": True, "max_grad_norm": 0.1, "epochs": 2}
    assert train(tiny_model_dir, data, tmp_path / "run", **settings) == 0
    before, after = weights(tiny_model_dir), merged(tiny_model_dir, tmp_path / "run")
    for matrix in mlp_matrices(AutoModelForCausalLM.from_pretrained(tiny_model_dir)):
        moved = (before[matrix.name] != after[matrix.name]).movedim(matrix.neuron_axis, 0)
        chosen = listed(0)[matrix.layer]
        trained = chosen if mode == "train-only" else ~chosen
        assert not moved[~trained].any(), matrix.name
        assert moved[trained].float().mean() > 0.9, matrix.name
    others = [name for name in before if ".mlp." not in name and name in after]
    still = [torch.equal(before[name], after[name]) for name in others]
    assert all(still) == (mode == "train-only")


def merged(base: Path, adapter: Path) -> dict[str, Tensor]:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    return {name: tensor.detach() for name, tensor in model.named_parameters()}


@pytest.mark.parametrize(
    ("mode", "method"),
    [
        ("lesion", {}),
        ("preserve", {}),
        ("lesion", {"method": "lora"}),
        ("preserve", {"method": "lora"}),
        ("preserve", {"method": "lora", "quantise": "nf4"}),
        ("lesion", {"method": "lora", "quantise": "int8"}),
    ],
    ids=str,
)
def test_the_saved_model_is_the_validated_one_with_its_mask_and_another_without(
    tiny_model_dir: Path,
    data: Path,
    networks: Path,
    tmp_path: Path,
    mode: str,
    method: dict[str, str],
) -> None:
    if "quantise" in method:
        pytest.importorskip("bitsandbytes")
    output = tmp_path / "run"
    settings = {"mask_mode": mode, "networks": networks, "epochs": 2} | method
    assert train(tiny_model_dir, data, output, **settings) == 0
    record = read_training(output)
    assert (record.run.mask_mode, record.run.applies_to) == (mode, None)
    found = perplexity_of(load_model(output, "float32"), data, tiny_model_dir)
    assert found == pytest.approx(record.best_validation_perplexity, rel=1e-6)
    without = perplexity_of(load_model(output, "float32", "off"), data, tiny_model_dir)
    assert without != pytest.approx(found, rel=1e-3)
    mask = read_forward_mask(output)
    assert mask is not None and (mask.mode, mask.site) == (mode, "intermediate")
    for factor, chosen in zip(mask.factors, listed(0), strict=True):
        kept = chosen if mode == "preserve" else ~chosen
        assert np.array_equal(factor, kept.float().numpy())


def test_a_quantised_base_is_the_one_that_is_evaluated_and_a_network_trains_on_it(
    tiny_model_dir: Path, data: Path, networks: Path, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    output = tmp_path / "run"
    settings = {"method": "lora", "quantise": "nf4", "mask_mode": "train-only"}
    assert train(tiny_model_dir, data, output, networks=networks, **settings) == 0
    validated = read_training(output).best_validation_perplexity
    loaded = load_model(output, "float32")
    assert {torch.float32} < {parameter.dtype for parameter in loaded.parameters()}
    found = perplexity_of(loaded, data, tiny_model_dir)
    assert found == pytest.approx(validated, rel=1e-6)
    adapter = load_file(output / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in adapter.values()} == {torch.float32}
    after = merged(tiny_model_dir, output)
    before = weights(tiny_model_dir)
    for matrix in mlp_matrices(AutoModelForCausalLM.from_pretrained(tiny_model_dir)):
        moved = (before[matrix.name] != after[matrix.name]).movedim(matrix.neuron_axis, 0)
        assert torch.equal(moved.any(dim=1), listed(0)[matrix.layer]), matrix.name
    (output / "quantised_base.json").unlink()
    other = perplexity_of(load_model(output, "float32"), data, tiny_model_dir)
    assert other != pytest.approx(validated, rel=1e-5), "the unquantised base is another model"


@pytest.mark.parametrize("straight_through", [False, True])
def test_lesioned_neurons_learn_their_inputs_weights_only_straight_through(
    tiny_model_dir: Path, data: Path, networks: Path, tmp_path: Path, straight_through: bool
) -> None:
    settings = {"mask_mode": "lesion", "networks": networks, "weight_decay": 0}
    settings |= {"straight_through": straight_through}
    assert train(tiny_model_dir, data, tmp_path / "run", **settings) == 0
    (_, before), (_, after) = parts_of(tiny_model_dir), parts_of(tmp_path / "run")
    for (matrix, was), (_, now) in zip(before, after, strict=True):
        moved = (was != now).any(dim=1)
        lesioned = listed(0)[matrix.layer]
        assert moved[~lesioned].all()
        assert moved[lesioned].all() == moved[lesioned].any()
        assert moved[lesioned].any() == (straight_through and matrix.role != "down"), matrix.name


def test_a_forward_mask_goes_with_a_mask_on_the_gradient(
    tiny_model_dir: Path, data: Path, networks: Path, tmp_path: Path
) -> None:
    settings = {"method": "highest", "fraction": 0.3, "mask_mode": "lesion", "networks": networks}
    assert train(tiny_model_dir, data, tmp_path / "run", **settings) == 0
    record = read_training(tmp_path / "run")
    assert record.mask_pass_rate == pytest.approx(0.3, abs=1e-3)
    assert (record.run.mask_mode, record.run.applies_to) == ("lesion", "gradient")
    found = perplexity_of(load_model(tmp_path / "run", "float32"), data, tiny_model_dir)
    assert found == pytest.approx(record.best_validation_perplexity, rel=1e-6)


STEPS = 4  # of an epoch


@pytest.fixture
def states(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """Weights and first moments after every step, from step 0 on, as they are in a run."""
    seen: list[dict[str, Any]] = []

    def keep(given: dict[str, Any]) -> None:
        optimizer = given["optimizer"]
        named = dict(given["model"].named_parameters())
        moments = {
            name: optimizer.state[parameter].get("exp_avg", torch.zeros(())).clone()
            for name, parameter in named.items()
            if parameter in optimizer.state
        }
        copies = {name: parameter.detach().clone() for name, parameter in named.items()}
        seen.append({"weights": copies, "moments": moments})

    for event in ("on_train_begin", "on_step_end"):
        original = getattr(curve.ValidationCurve, event)

        def watched(self: Any, *args: Any, original: Any = original, **given: Any) -> None:
            keep(given)
            original(self, *args, **given)

        monkeypatch.setattr(curve.ValidationCurve, event, watched)
    yield seen


@pytest.mark.parametrize("moments", ["full", "masked", "frozen"])
def test_networks_join_at_the_first_step_of_their_epoch_and_are_still_until_then(
    tiny_model_dir: Path,
    data: Path,
    networks: Path,
    tmp_path: Path,
    states: list[dict[str, Any]],
    moments: str,
) -> None:
    settings = {"mask_mode": "train-only", "networks": networks, "unfreeze": (1, 2)}
    settings |= {"epochs": 3, "moments": moments, "weight_decay": 0.1, "schedule": "constant"}
    assert train(tiny_model_dir, data, tmp_path / "run", **settings) == 0
    assert len(states) == 3 * STEPS + 1
    unions = [listed(0), listed(0, 1), listed(0, 1, 2)]
    base = states[0]["weights"]
    for matrix in mlp_matrices(AutoModelForCausalLM.from_pretrained(tiny_model_dir)):
        for step in range(1, 3 * STEPS + 1):
            now = states[step]["weights"][matrix.name]
            moved = (now != base[matrix.name]).movedim(matrix.neuron_axis, 0).any(dim=1)
            assert torch.equal(moved, unions[(step - 1) // STEPS][matrix.layer]), (matrix, step)
        joining = unions[1][matrix.layer] & ~unions[0][matrix.layer]
        held = states[STEPS]["moments"][matrix.name].movedim(matrix.neuron_axis, 0)[joining]
        assert bool(held.any()) == (moments == "full")
    counts = {
        str(epoch): [int(layer.sum()) for layer in union]
        for epoch, union in enumerate(unions, start=1)
    }
    assert notes_of(tmp_path / "run")["network_neurons_by_epoch"] == counts


def test_on_adapters_networks_that_join_later_leave_their_weights_alone_until_then(
    tiny_model_dir: Path,
    data: Path,
    networks: Path,
    tmp_path: Path,
    states: list[dict[str, Any]],
) -> None:
    settings = {"method": "lora", "mask_mode": "train-only", "networks": networks}
    settings |= {"unfreeze": (1, 2), "epochs": 3, "schedule": "constant"}
    assert train(tiny_model_dir, data, tmp_path / "run", **settings) == 0
    unions = [listed(0), listed(0, 1), listed(0, 1, 2)]
    for step in range(1, 3 * STEPS + 1):
        found = states[step]["weights"]
        for name in (name for name in found if "lora_A" in name and ".mlp." in name):
            change = found[name.replace("lora_A", "lora_B")] @ found[name]
            layer, down = int(name.split(".layers.")[1].split(".")[0]), "down_proj" in name
            moved = (change != 0).any(dim=0 if down else 1)
            # A joins with zeros too, so that a column of down first moves its weights when it has.
            assert torch.equal(moved, unions[(step - 1) // STEPS][layer]), (name, step)


def test_networks_that_no_file_holds_are_found_in_the_training_split_first(
    tiny_model_dir: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, settings = tmp_path / "run", {"mask_mode": "preserve", "component_ids": (1, 3)}
    assert train(tiny_model_dir, data, output, seed=5, **settings) == 0
    _, found = read_networks(output / "networks.safetensors", model_identity(tiny_model_dir))
    chosen = found.templates.union((1, 3))
    said = [line for line in capsys.readouterr().err.splitlines() if "preserve: " in line]
    for layer, mask in enumerate(chosen):
        n = int(mask.sum())
        line = f"preserve: {100 * n / 64:.1f} % of neurons, {n} of 64 in layer {layer}"
        assert (line in said) == (n > 0)
    beside = tmp_path / "beside.safetensors"
    words = ["networks", str(tiny_model_dir), str(data / "train.jsonl"), "--output", str(beside)]
    assert main([*words, "--seed", "5"]) == 0
    assert np.array_equal(
        read_networks(beside)[1].analyses[0].members, found.analyses[0].members
    ), "as fnsft networks finds them"
    for name in ("networks.json", "networks.safetensors.manifest.json"):
        assert (output / name).is_file()
    assert not (tmp_path / "run.checkpoints").exists()


def test_an_interrupted_run_keeps_the_networks_that_it_found(
    tiny_model_dir: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"mask_mode": "train-only", "method": "lora", "checkpoint_steps": 2}
    given = tmp_path / "given"
    assert train(tiny_model_dir, data, tmp_path / "whole", **settings) == 0
    for step, name in ((1, "anew"), (3, "resumed")):
        output = tmp_path / name
        run = (tiny_model_dir, data, output)
        kill_at(step, monkeypatch, lambda run=run: train(*run, **settings))
        with monkeypatch.context() as patch:
            patch.setattr("fnsft.neurons.discovery.find_networks", None)
            assert train(*run, **settings) == 0
        assert notes_of(output)["resumed_from"] == (None if step == 1 else "checkpoint-2")
        assert_alike(tmp_path / "whole", output)
    file = tmp_path / "whole" / "networks.safetensors"
    assert train(tiny_model_dir, data, given, networks=file, **settings) == 0
    assert_alike(tmp_path / "whole", given)


def templates(site: Site = "intermediate", widths: tuple[int, ...] = (N, N, N)) -> Templates:
    rng = np.random.default_rng(0)
    neurons = {
        number: {
            layer: np.sort(rng.choice(widths[layer], size=3 + number, replace=False))
            for layer in range(number, 3)
        }
        for number in range(3)
    }
    return Templates(site, widths, neurons)


def test_neurons_are_chosen_by_networks_layers_and_epochs() -> None:
    found = templates()
    settings = TrainSettings(
        mask_mode="train-only", component_ids=(1,), mask_layers="1:3", unfreeze=("0", "2"), epochs=3
    )
    chosen = choose_neurons(found, settings)
    for epoch, ids in enumerate([(1,), (0, 1), (0, 1, 2)]):
        for layer in range(3):
            neurons = {int(i) for number in ids for i in found.neurons[number].get(layer, ())}
            expected = sorted(neurons) if layer else []
            assert np.flatnonzero(chosen.epochs[epoch][layer]).tolist() == expected
    assert chosen.counts == [[int(m.sum()) for m in layers] for layers in chosen.epochs]


def test_random_networks_are_as_large_in_every_layer_and_grow_with_the_epochs() -> None:
    settings = {"mask_mode": "train-only", "unfreeze": ("1",), "epochs": 2, "seed": 3}
    real = choose_neurons(templates(), TrainSettings(**settings))
    drawn = choose_neurons(templates(), TrainSettings(**settings, random_networks=True))
    assert drawn.counts == real.counts
    for before, after in zip(*drawn.epochs, strict=True):
        assert (after >= before).all()
    expected = size_matched(real.epochs[1], 3, 0)
    assert all(map(np.array_equal, drawn.epochs[1], expected))
    assert not all(map(np.array_equal, drawn.epochs[1], real.epochs[1]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mask_layers": "2:9"}, "mask_layers: expected layers 0 to 2, found 8"),
        ({"component_ids": (7,)}, "component_ids: expected networks of 0, 1, 2, found 7"),
        ({"component_ids": (2,), "mask_layers": "0"}, "networks 2: expected at least one neuron"),
        ({"unfreeze": ("2",), "mask_layers": "0"}, "networks 2: expected at least one neuron"),
    ],
)
def test_networks_and_layers_that_are_not_there_are_refused(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        choose_neurons(templates(), TrainSettings(mask_mode="train-only", **settings))


@pytest.mark.parametrize("mode", BY_NEURON)
def test_channels_of_the_output_own_no_weights_to_train(mode: Any) -> None:
    with pytest.raises(InputError, match=f"mask_mode: '{mode}' masks neurons' weights"):
        choose_neurons(templates("output"), TrainSettings(mask_mode=mode))
    assert choose_neurons(templates("output"), TrainSettings(mask_mode="lesion")).site == "output"


def test_few_layers_are_listed_and_many_summed_up() -> None:
    def layers(counts: list[int]) -> list[np.ndarray]:
        return [np.arange(1536) < count for count in counts]

    few = described(layers([0] * 7 + [31] + [0] * 22))
    assert few == ["2.0 % of neurons, 31 of 1,536 in layer 7"]
    many = described(layers([0, *range(1, 30)]))
    assert many == [
        "0.9 % of neurons, 435 of 46,080 in 29 layers, most in layer 29: "
        "1.9 % of neurons, 29 of 1,536"
    ]


def test_a_model_is_scored_with_its_mask_and_without(
    tiny_model_dir: Path,
    data: Path,
    networks: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = {"mask_mode": "lesion", "networks": networks}
    assert train(tiny_model_dir, data, tmp_path / "masked", **settings) == 0
    assert train(tiny_model_dir, data, tmp_path / "plain") == 0
    found = {}
    for name, mask in (("masked", "on"), ("masked", "off"), ("plain", "on")):
        output = tmp_path / f"{name}-{mask}.jsonl"
        words = ["evaluate", "--model", str(tmp_path / name), "--output", str(output)]
        words += ["--perplexity", str(data / "validation.jsonl"), "--forward-mask", mask]
        assert main(words) == 0
        (record,) = [r for r in read_records([output]) if r.metric == "perplexity"]
        found[name, mask] = record
    assert [r.forward_mask for r in found.values()] == ["on", "off", None]
    assert [r.mask_mode for r in found.values()] == ["lesion", "lesion", None]
    validated = read_training(tmp_path / "masked").best_validation_perplexity
    assert found["masked", "on"].value == pytest.approx(validated, rel=1e-5)
    assert found["masked", "off"].value != pytest.approx(validated, rel=1e-3)
    capsys.readouterr()
    words[2], words[-1] = str(tmp_path / "plain"), "off"
    words[4] = str(tmp_path / "refused.jsonl")
    assert main(words) == 2
    assert "found none; leave --forward-mask out" in capsys.readouterr().err
    assert not list(tmp_path.glob("refused*"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"networks": "n.json"}, "--networks: expected a mask_mode, found none"),
        ({"mask_mode": "lesion", "networks": "n.json"}, "n.json: no such file"),
        ({"mask_mode": "freeze", "component_ids": 10}, "expected networks 0 to 9 of those found"),
        (
            {"mask_mode": "train-only", "unfreeze": "11", "epochs": 2},
            "found 11; find more with fnsft networks and give --networks",
        ),
        ({"mask_mode": "train-only", "method": "highest", "fraction": 0.5}, "is a mask on the"),
        ({"mask_mode": "freeze", "applies_to": "gradient"}, "which only 'update' does"),
        ({"mask_mode": "train-only", "mask_layers": "0:3", "networks": None}, "expected layers 0"),
        ({"quantise": "nf4"}, "packed weights cannot be trained"),
    ],
)
def test_bad_input_about_networks_is_one_line_and_leaves_nothing(
    tiny_model_dir: Path,
    data: Path,
    networks: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    settings: dict[str, Any],
    message: str,
) -> None:
    if settings.get("networks", "") is None:
        settings = settings | {"networks": networks}
    assert train(tiny_model_dir, data, tmp_path / "run", **settings) == 2
    lines = capsys.readouterr().err.splitlines()
    assert message in lines[-1]
    # What layers there are is known once the model is read, after the table of the run.
    assert len([line for line in lines if line.startswith("fnsft ")]) == 1
    assert not list(tmp_path.iterdir())


def test_networks_of_another_model_are_refused(
    tiny_model_dir: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, offsets = tmp_path / "other.safetensors", np.zeros(1, dtype=np.int64)
    found = Networks("intermediate", (N, N), [], offsets, offsets)
    write_networks(other, found, "0123456789abcdef")
    wide = tmp_path / "wide.json"
    write_templates(wide, templates(widths=(96, 96, 96)), "wide")
    for file, message in ((other, "made from model 0123456789abcdef"), (wide, "another model")):
        settings = {"mask_mode": "lesion", "networks": file}
        assert train(tiny_model_dir, data, tmp_path / "run", **settings) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "run").exists()
        assert not (tmp_path / "run.checkpoints").exists()


def test_networks_of_moe_experts_are_lesioned_and_train_alone(data: Path, tmp_path: Path) -> None:
    """Neurons of experts 0 and 1 of the first layer and of 3 of the second."""
    folder, file = tmp_path / "moe", tmp_path / "networks.json"
    write_family(folder, family="Mixtral")
    file.write_text(json.dumps({"0": [1, 70], "1": [200]}))
    settings = {"networks": file, "epochs": 1}
    assert train(folder, data, tmp_path / "lesion", mask_mode="lesion", **settings) == 0
    validated = read_training(tmp_path / "lesion").best_validation_perplexity
    found = perplexity_of(load_model(tmp_path / "lesion", "float32"), data, folder)
    assert found == pytest.approx(validated, rel=1e-6)
    settings |= {"weight_decay": 0.1}
    assert train(folder, data, tmp_path / "own", mask_mode="train-only", **settings) == 0
    before, after = (load_model(path, "float32") for path in (folder, tmp_path / "own"))
    moved = {(0, 1), (1, 70 - N), (7, 200 - 3 * N)}
    for old, new in zip(mlp_matrices(before), mlp_matrices(after), strict=True):
        changed = old.view(old.parameter) != new.view(new.parameter)
        neurons = changed.any(1 - old.neuron_axis).nonzero().flatten().tolist()
        assert neurons == [neuron for layer, neuron in sorted(moved) if layer == old.layer]
    owned = {id(matrix.parameter) for matrix in mlp_matrices(after)}
    others = zip(before.parameters(), after.parameters(), strict=True)
    assert all(torch.equal(old, new) for old, new in others if id(new) not in owned)


def test_without_bitsandbytes_a_quantised_run_is_refused(
    tiny_model_dir: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    assert train(tiny_model_dir, data, tmp_path / "run", method="lora", quantise="nf4") == 2
    assert "pip install 'fnsft[quantised]'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_quantised_model_is_not_sharded(
    tiny_model_dir: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert train(tiny_model_dir, data, tmp_path / "run", method="lora", quantise="int8") == 2
    assert "found FSDP2 over 2 processes; use --parallel ddp" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_bias_is_a_column_of_its_neurons() -> None:
    model = model_of("Llama", mlp_bias=True)
    matrices, biases = mlp_matrices(model), neuron_biases(model)
    assert [bias.index for bias in biases] == list(range(len(matrices), len(matrices) + 4))
    assert [(b.layer, b.role) for b in biases] == [(i, r) for i in range(2) for r in ("gate", "up")]
    for bias in biases:
        view = bias.view(bias.parameter)
        assert view.shape == (N, 1) and view.data_ptr() == bias.parameter.data_ptr()
        assert model.get_parameter(bias.name) is bias.parameter
    assert neuron_biases(model_of("Llama")) == []
    fused = model_of("Phi3")
    for block in fused.model.layers:
        block.mlp.gate_up_proj.bias = torch.nn.Parameter(torch.arange(2.0 * N))
    halves = {(b.layer, b.role): b.view(b.parameter).flatten() for b in neuron_biases(fused)}
    assert torch.equal(halves[1, "gate"], torch.arange(64.0))
    assert torch.equal(halves[1, "up"], torch.arange(64.0, 128.0))
    assert D not in {bias.d_mlp for bias in biases}, "the bias of down is no neuron's"
