"""``fnsft train`` on rows of anybody: read, prepared once, trained on with every method."""

import csv
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from runs import train, weights
from safetensors.torch import load_file
from test_resume import assert_alike, kill_at
from transformers import AutoTokenizer

from fnsft.artifacts.storage import manifest_path, sha256_of, write_json, write_jsonl
from fnsft.artifacts.training import read_training
from fnsft.cli.main import main
from fnsft.config.presets import TaskPreset
from fnsft.config.stages import DataSettings
from fnsft.errors import InputError
from fnsft.hub.publishing import files_to_upload
from fnsft.training.files import GRAPH_FOLDER
from fnsft.training.own_data import Source, is_prepared

ROWS = [
    {"question": f"What is {a} and {b}?", "answer": f"It is {a + b}."}
    for a in range(6)
    for b in range(3)
]
SHORT = {"max_steps": 2, "epochs": 3, "validations": 1, "max_validation_samples": 4}
CHAT = (
    "{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)


def write_csv(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_folder(path: Path, rows: list[dict[str, str]]) -> None:
    path.mkdir()
    write_csv(path / "train.csv", rows[:14])
    write_csv(path / "validation.csv", rows[14:])


def conversations() -> list[dict[str, Any]]:
    roles = ("user", "assistant")
    return [
        {"messages": [{"role": r, "content": c} for r, c in zip(roles, row.values(), strict=True)]}
        for row in ROWS
    ]


FORMATS: dict[str, Callable[[Path], Any]] = {
    "rows.csv": lambda path: write_csv(path, ROWS),
    "rows.json": lambda path: path.write_text(json.dumps(ROWS)),
    "rows.jsonl": lambda path: write_jsonl(path, ROWS),
    "rows.parquet": lambda path: pq.write_table(pa.Table.from_pylist(ROWS), path),
    "rows": lambda path: write_folder(path, ROWS),
    "messages.jsonl": lambda path: write_jsonl(path, conversations()),
    "texts.jsonl": lambda path: write_jsonl(path, [{"text": r["question"]} for r in ROWS]),
    "instructions.csv": lambda path: write_csv(
        path, [{"instruction": r["question"], "output": r["answer"]} for r in ROWS]
    ),
}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Eighteen questions and answers."""
    path = tmp_path / "in" / "rows.csv"
    path.parent.mkdir()
    write_csv(path, ROWS)
    return path


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", FORMATS)
def test_every_kind_of_file_and_row_trains(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    path, output = tmp_path / name, tmp_path / "run"
    FORMATS[name](path)
    assert train(tiny_model_dir, path, output, **SHORT) == 0
    said = capsys.readouterr().err
    assert said.count("--- training sample ") == 3
    assert "learning rate  0.001 (given)" in said
    assert "steps          2, of at most 3 epochs" in said
    assert not (tmp_path / "run.checkpoints").exists()
    record = read_training(output)
    assert (record.optimizer_steps, record.run.task) == (2, path.stem)
    prepared = json.loads((output / "data.manifest.json").read_text())
    assert prepared["stage"] == "data"
    held_out = prepared["notes"]["validation_samples"]
    assert held_out == (4 if name == "rows" else 1)
    assert json.loads((output / "prompt_format.json").read_text())["kind"]
    before, after = weights(tiny_model_dir), weights(output)
    assert all(not torch.equal(before[n], after[n]) for n in before if "proj" in n)


def test_the_samples_that_are_shown_end_as_those_that_are_trained_on(
    tiny_model_dir: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model stops at a full stop, so no end of sequence stands behind it."""
    model = tmp_path / "model"
    shutil.copytree(tiny_model_dir, model)
    stop = AutoTokenizer.from_pretrained(model).convert_tokens_to_ids(".")
    write_json(model / "generation_config.json", {"eos_token_id": [2, stop]})
    assert train(model, table, tmp_path / "run", **SHORT) == 0
    answers = [line for line in capsys.readouterr().err.splitlines() if "answer | " in line]
    assert len(answers) == 3 and all(line.endswith(".") for line in answers)


def test_a_folder_is_prepared_by_its_manifest_or_its_format(tmp_path: Path) -> None:
    found = {}
    for split in ("train", "validation"):
        write_jsonl(tmp_path / "raw" / f"{split}.jsonl", [{"prompt": "a", "completion": "b"}])
    found["raw"] = is_prepared(tmp_path / "raw")
    manifest = tmp_path / "raw.manifest.json"
    for stage in ("fetch", "prepare"):
        manifest.write_text(json.dumps({"stage": stage}))
        found[stage] = is_prepared(tmp_path / "raw")
    manifest.unlink()
    (tmp_path / "raw" / "prompt_format.json").write_text("{}")
    found["format"] = is_prepared(tmp_path / "raw")
    (tmp_path / "raw" / "validation.jsonl").unlink()
    found["one split"] = is_prepared(tmp_path / "raw")
    assert {name for name, answer in found.items() if answer} == {"prepare", "format"}


def test_a_preset_names_the_task_and_what_it_is_on_the_hub(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    path = tmp_path / "mine.jsonl"
    write_jsonl(path, [row | {"answer": f"{row['answer']}\n#### 1"} for row in ROWS])
    assert train(tiny_model_dir, path, tmp_path / "run", preset="gsm8k", **SHORT) == 0
    assert read_training(tmp_path / "run").run.task == "gsm8k"
    preset = TaskPreset.read("gsm8k")
    settings = DataSettings()
    hub = Source(preset.preset.hub_name or "", settings, preset).reading
    assert (hub.data_config, hub.data_split) == ("main", "train")
    assert Source(str(path), settings, preset).reading == settings


def test_a_name_of_the_hub_may_be_one_of_the_registry_with_other_splits(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    """The preset trains on the hub's ``test``; the registered file has but ``train``."""
    preset = "bbh/logical_deduction"
    name = TaskPreset.read(preset).preset.hub_name or ""
    file, registry = tmp_path / "rows.jsonl", tmp_path / "registry.yaml"
    write_jsonl(file, [{"input": row["question"], "target": row["answer"]} for row in ROWS])
    write_json(registry, {name: {"path": file.name, "sha256": sha256_of(file)}})
    settings = {"registry": registry, "preset": preset}
    assert train(tiny_model_dir, Path(name), tmp_path / "run", **SHORT | settings) == 0
    notes = json.loads((tmp_path / "run" / "data.manifest.json").read_text())["notes"]
    assert (notes["source"], notes["splits"]["train"]["rows"]) == (name, len(ROWS))


def test_a_folder_of_rows_may_hold_settings_of_its_own(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "rows"
    write_folder(folder, ROWS)
    write_json(folder / "config.json", {"model_type": "none, it is about the rows"})
    assert train(tiny_model_dir, folder, tmp_path / "run", **SHORT) == 0


LORA = {"method": "lora"}
METHODS: dict[str, dict[str, Any]] = {
    **{name: {"method": name} for name in ("sft", "random", "child-tuning-d", "hft", "highest")},
    "gmt": {"method": "gmt", "window": 2},
    "collab": {"method": "collab", "k": 5},
    "collab-cluster": {"method": "collab", "affinity": "cluster"},
    "collab-dense": {"method": "collab", "affinity": "dense"},
    "projections-only": {"method": "projections-only"},
    "lora": LORA | {"lora_dropout": 0.1},
    "lora-bf16": LORA | {"dtype": "bfloat16", "gradient_checkpointing": True},
    "nf4": LORA | {"quantise": "nf4"},
    "int8": LORA | {"quantise": "int8"},
    "lora-train-only": LORA | {"mask_mode": "train-only"},
    "lesion": {"mask_mode": "lesion"},
    "bf16": {"method": "highest", "dtype": "bfloat16"},
    "bf16-update": {"method": "random", "applies_to": "update", "dtype": "bfloat16"},
    "eager": {"attention": "eager"},
}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_on_a_table(
    tiny_model_dir: Path, table: Path, networks: Path, tmp_path: Path, name: str
) -> None:
    settings = SHORT | METHODS[name]
    if settings.get("quantise"):
        pytest.importorskip("bitsandbytes")
    if settings.get("mask_mode"):
        settings |= {"networks": networks}
    assert train(tiny_model_dir, table, tmp_path / "run", **settings) == 0
    record = read_training(tmp_path / "run")
    assert record.optimizer_steps == 2
    masked = settings.get("method", "sft") in ("random", "child-tuning-d", "highest", "collab")
    if masked:
        assert record.mask_pass_rate == pytest.approx(0.5, abs=1e-3)
    (file,) = (tmp_path / "run").glob("*model.safetensors")
    kinds = {tensor.dtype for tensor in load_file(file).values()}
    bfloat16 = settings.get("dtype") == "bfloat16" and settings.get("method") != "lora"
    assert kinds == {torch.bfloat16 if bfloat16 else torch.float32}, "adapters stay in float32"


@pytest.mark.parametrize(
    ("targets", "linear"), [("attention", "qkvo"), ("mlp", ("gate", "up", "down"))]
)
def test_adapters_are_where_they_were_asked_for(
    tiny_model_dir: Path, table: Path, tmp_path: Path, targets: str, linear: Any
) -> None:
    settings = SHORT | LORA | {"lora_targets": targets}
    assert train(tiny_model_dir, table, tmp_path / "run", **settings) == 0
    names = load_file(tmp_path / "run" / "adapter_model.safetensors")
    assert {name.split("_proj")[0].rpartition(".")[2] for name in names} == set(linear)


def test_a_run_stops_after_max_steps_and_is_never_prolonged_by_it(
    tiny_model_dir: Path, data: Path, tmp_path: Path
) -> None:
    """Four steps an epoch; a run that ends within one is scored where it ends."""
    ends = {}
    for most in (3, 6, 100):
        output = tmp_path / str(most)
        assert train(tiny_model_dir, data, output, epochs=2, max_steps=most) == 0
        points = read_training(output).validation
        ends[most] = [point["step"] for point in points if point["epoch_end"]]
    assert ends == {3: [3], 6: [4, 6], 100: [4, 8]}
    assert train(tiny_model_dir, data, tmp_path / "none", epochs=2) == 0
    one, other = weights(tmp_path / "100"), weights(tmp_path / "none")
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", ["lora", "collab"])
def test_recomputed_activations_give_the_same_weights(
    tiny_model_dir: Path, data: Path, graph: Path, tmp_path: Path, name: str
) -> None:
    settings = LORA if name == "lora" else METHODS[name] | {"graph": graph}
    for checkpointing in (False, True):
        output = tmp_path / str(checkpointing)
        assert (
            train(tiny_model_dir, data, output, gradient_checkpointing=checkpointing, **settings)
            == 0
        )
    (file,) = [p.name for p in (tmp_path / "True").glob("*model.safetensors")]
    one, other = (load_file(tmp_path / run / file) for run in ("False", "True"))
    for key in one:
        torch.testing.assert_close(one[key], other[key], atol=1e-6, rtol=0)


def test_a_graph_of_its_own_is_the_one_that_the_commands_make(
    tiny_model_dir: Path, data: Path, graph: Path, tmp_path: Path
) -> None:
    settings = {"method": "collab", "k": 5}
    assert train(tiny_model_dir, data, tmp_path / "given", **settings, graph=graph) == 0
    assert train(tiny_model_dir, data, tmp_path / "own", **settings) == 0
    assert train(tiny_model_dir, data, tmp_path / "few", **settings, graph_samples=3) == 0
    one, other = weights(tmp_path / "given"), weights(tmp_path / "own")
    assert all(torch.equal(one[name], other[name]) for name in one)
    kept = tmp_path / "own" / "graph.safetensors"
    assert kept.read_bytes() == graph.read_bytes()
    assert (tmp_path / "own" / "graph.safetensors.manifest.json").is_file()
    few = (tmp_path / "few" / "graph.safetensors").read_bytes()
    assert few != kept.read_bytes(), "three samples should not make the graph of all"
    # What a run that was killed before it claimed the folder has left is not taken for its own.
    left = tmp_path / "again.checkpoints" / GRAPH_FOLDER
    left.mkdir(parents=True)
    for file in (tmp_path / "few").glob("graph.safetensors*"):
        shutil.copy(file, left)
    assert train(tiny_model_dir, data, tmp_path / "again", **settings) == 0
    assert (tmp_path / "again" / "graph.safetensors").read_bytes() == kept.read_bytes()


def test_an_interrupted_run_on_raw_data_prepares_nothing_twice(
    tiny_model_dir: Path,
    table: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = {"method": "collab", "k": 5, "epochs": 3, "max_steps": 7, "checkpoint_steps": 2}
    settings |= {"validation_fraction": 0.2, "data_seed": 3, "telemetry_steps": 2}
    assert train(tiny_model_dir, table, tmp_path / "whole", **settings) == 0
    kill_at(5, monkeypatch, lambda: train(tiny_model_dir, table, tmp_path / "cut", **settings))
    capsys.readouterr()
    assert train(tiny_model_dir, table, tmp_path / "cut", resume="require", **settings) == 0
    said = capsys.readouterr().err
    assert said.count("prepared before") == said.count("graph.safetensors: made before") == 1
    assert_alike(tmp_path / "whole", tmp_path / "cut")
    assert left_in(tmp_path / "whole") == left_in(tmp_path / "cut")


def test_a_run_that_may_not_resume_starts_anew_and_other_data_are_refused(
    tiny_model_dir: Path,
    table: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output, settings = tmp_path / "run", {"checkpoint_steps": 1}
    kill_at(3, monkeypatch, lambda: train(tiny_model_dir, table, output, **settings))
    before = left_in(tmp_path / "run.checkpoints")
    assert "checkpoint-2" in before
    assert train(tiny_model_dir, table, output, data_seed=1, **settings) == 2
    assert "run with other inputs (data)" in capsys.readouterr().err
    assert left_in(tmp_path / "run.checkpoints") == before
    assert train(tiny_model_dir, table, output, resume="never", **settings) == 0
    notes = json.loads((tmp_path / "run.manifest.json").read_text())["notes"]
    assert notes["resumed_from"] is None


def test_a_run_that_was_cut_before_its_first_checkpoint_is_left_to_its_own_settings(
    tiny_model_dir: Path,
    table: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output, settings = tmp_path / "run", METHODS["collab"] | SHORT
    kill_at(1, monkeypatch, lambda: train(tiny_model_dir, table, output, **settings))
    before = sorted((tmp_path / "run.checkpoints").rglob("*"))
    assert {GRAPH_FOLDER, "run.json"} < set(left_in(tmp_path / "run.checkpoints"))
    for other in ({"seed": 1}, {"data_seed": 1}):
        assert train(tiny_model_dir, table, output, **settings | other) == 2
        assert "or start anew with --resume never" in capsys.readouterr().err
        assert sorted((tmp_path / "run.checkpoints").rglob("*")) == before
    assert train(tiny_model_dir, table, output, **settings) == 0
    assert "made before" in capsys.readouterr().err


def test_processes_that_could_not_run_leave_what_was_prepared_for_them(
    tiny_model_dir: Path,
    table: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = METHODS["collab"] | SHORT | {"processes": 2}
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    assert train(tiny_model_dir, table, tmp_path / "run", **settings) == 2
    assert "2 processes ended with code 1" in capsys.readouterr().err
    left = left_in(tmp_path / "run.checkpoints")
    assert [name.split("-")[0] for name in left] == ["data", "data", "made"]


@pytest.mark.processes
def test_two_processes_share_raw_data_and_a_graph_that_one_has_made(
    tiny_model_dir: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    settings = {"method": "collab", "k": 5, "max_steps": 3, "micro_batch_size": 1}
    settings |= {"validation_fraction": 0.2, "learning_rate": 3e-4}
    assert train(tiny_model_dir, table, tmp_path / "one", **settings) == 0
    assert (
        train(tiny_model_dir, table, tmp_path / "two", processes=2, parallel="ddp", **settings) == 0
    )
    one, two = (read_training(tmp_path / name) for name in ("one", "two"))
    found = [[point["loss"] for point in record.validation] for record in (one, two)]
    assert found[1] == pytest.approx(found[0], abs=1e-4)
    assert two.run.task == one.run.task == "rows"
    assert left_in(tmp_path / "one") == left_in(tmp_path / "two")


@pytest.mark.parametrize("given", ["fraction", "split", "file"])
def test_what_validates_is_a_fraction_a_split_or_a_file(
    tiny_model_dir: Path, tmp_path: Path, given: str
) -> None:
    source, other = tmp_path / "rows.csv", tmp_path / "held-out.jsonl"
    settings: dict[str, Any] = {"validation_fraction": 0.3}
    expected = round(0.3 * len(ROWS))
    write_csv(source, ROWS)
    if given == "split":
        source, expected = tmp_path / "rows", 4
        write_folder(source, ROWS)
    if given == "file":
        write_jsonl(other, [{"question": "Hello?", "answer": "Yes."}] * 3)
        settings, expected = {"validation": other}, 3
    assert (
        train(
            tiny_model_dir,
            source,
            tmp_path / "run",
            **SHORT | {"max_validation_samples": 9},
            **settings,
        )
        == 0
    )
    assert read_training(tmp_path / "run").validation[0]["samples"] == expected


@pytest.mark.parametrize("own", [False, True])
def test_the_tuned_tokenizer_has_the_chat_template_that_it_was_trained_with(
    tiny_model_dir: Path, tmp_path: Path, own: bool
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model_dir, model)
    tokenizer = AutoTokenizer.from_pretrained(model)
    if own:
        tokenizer.chat_template = CHAT
        tokenizer.save_pretrained(model)
    path = tmp_path / "messages.jsonl"
    FORMATS[path.name](path)
    assert train(model, path, tmp_path / "run", **SHORT) == 0
    form = json.loads((tmp_path / "run" / "prompt_format.json").read_text())
    tuned = AutoTokenizer.from_pretrained(tmp_path / "run")
    assert tuned.chat_template == (CHAT if own else form["chat_template"])
    assert form["template"] == ("chat" if own else "chatml")


def test_an_adapter_names_its_base_as_the_hub_does_or_by_its_whole_path(
    tiny_model_dir: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From another directory, ``models/base`` would be a name of the hub, and not one's own."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_model_dir, "models/base")
    snapshot = tmp_path / "hub" / "models--org--base" / "snapshots" / ("0" * 40)
    shutil.copytree(tiny_model_dir, snapshot)
    names = {}
    for model in (snapshot, Path("models/base")):
        output = tmp_path / f"tuned-{len(names)}"
        assert train(model, table, output, **SHORT | LORA) == 0
        config = json.loads((output / "adapter_config.json").read_text())
        names[str(model)] = config["base_model_name_or_path"]
    local = str((tmp_path / "models/base").resolve())
    assert names == {str(snapshot): "org/base", "models/base": local}
    monkeypatch.chdir(snapshot)
    with pytest.raises(InputError, match="give its name on the hub with --base org/name"):
        files_to_upload(output)


def torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"columns": "prompt=frage"}, "found"),
        ({"preset": "gsm9k"}, "preset: expected one of"),
        ({"validation": "nowhere.csv"}, "nowhere.csv: no such file or folder"),
        ({"registry": "nowhere.yaml"}, "nowhere.yaml: no such file or folder"),
        ({"resume": "require"}, "resume: expected a checkpoint to go on from, found none"),
        ({"attention": "flash_attention_2"}, "pip install flash-attn"),
        ({"max_steps": 0}, "max_steps: expected a value above 0, found 0"),
        ({"data_split": "training"}, "training"),
        ({"max_tokens": 3}, "expected a sample of at most max_tokens=3 tokens"),
        ({"lora_targets": "mlp"}, "lora_targets: is about adapters that all train"),
        ({"torchrun": True}, "it is made once, before the run is shared, found 2 processes"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    tiny_model_dir: Path,
    table: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    settings: dict[str, Any],
    message: str,
) -> None:
    settings = dict(settings)
    if settings.pop("torchrun", False):
        torchrun(monkeypatch)
    before = sorted(tmp_path.rglob("*"))
    assert train(tiny_model_dir, table, tmp_path / "run", **settings) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("fnsft train: ") and message in last
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("resume", ["auto", "never"])
@pytest.mark.parametrize("name", ["thesis.tex", "run.json", "data-raw/rows.csv", "graph/nodes"])
def test_a_folder_of_ones_own_is_no_folder_of_checkpoints(
    tiny_model_dir: Path,
    table: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    resume: str,
) -> None:
    file = tmp_path / "run.checkpoints" / name
    file.parent.mkdir(parents=True)
    file.write_text('{"years": "of work"}')
    assert train(tiny_model_dir, table, tmp_path / "run", resume=resume) == 2
    found = f"found {name.split('/')[0]!r} in it; a run removes the folder at its end"
    assert found in capsys.readouterr().err
    assert file.read_text() == '{"years": "of work"}'


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"output": "made", "model": "made/model"}, "expected another place than"),
        ({"output": "made", "data": "made/rows.csv"}, "expected another place than"),
        ({"output": "made", "validation": "made/rows.csv"}, "expected another place than"),
        ({"output": "made", "registry": "made/rows.csv"}, "expected another place than"),
        (
            {"output": "made", "networks": "made/networks.json", "mask_mode": "lesion"},
            "expected another place than",
        ),
        ({"output": "run/tuned", "checkpoints": "run"}, "neither in the output"),
        ({"output": "run", "checkpoints": "run/state"}, "neither in the output"),
        ({"output": "run", "checkpoints": "other/../run"}, "neither in the output"),
        ({"output": "mine"}, "holds files that fnsft did not make; name another folder"),
        ({"output": "mine/thesis.tex"}, "expected a folder or none, found a file"),
    ],
)
def test_an_output_in_anothers_place_is_refused_before_anything_is_done(
    tiny_model_dir: Path,
    table: Path,
    networks: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    settings: dict[str, Any],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    made = tmp_path / "made"  # a stage's output: there is a manifest
    shutil.copytree(tiny_model_dir, made / "model")
    shutil.copy(table, made)
    shutil.copy(networks, made / "networks.json")
    write_json(manifest_path(made), {"stage": "train"})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    before = sorted(tmp_path.rglob("*"))
    places = {"model": tiny_model_dir, "data": table} | settings
    assert train(**places) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_an_output_in_the_place_of_the_graph_is_refused(
    tiny_model_dir: Path,
    data: Path,
    graph: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = tmp_path / "made"
    made.mkdir()
    own = Path(shutil.copy(graph, made))
    write_json(manifest_path(made), {"stage": "train"})
    assert train(tiny_model_dir, data, made, **METHODS["collab"] | {"graph": own}) == 2
    assert f"{made}: expected another place than {own}" in capsys.readouterr().err
    assert own.is_file()


@pytest.mark.parametrize(
    ("settings", "flag"),
    [({"columns": "prompt=q,completion=a"}, "--columns"), ({"preset": "gsm8k"}, "--preset")],
)
def test_settings_of_raw_data_are_refused_for_a_prepared_folder(
    tiny_model_dir: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    settings: dict[str, Any],
    flag: str,
) -> None:
    assert train(tiny_model_dir, data, tmp_path / "run", **settings) == 2
    assert f"{flag}: is about raw data, and {data} is prepared" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_run_without_data_and_without_a_name_for_it_is_refused(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--model", str(tiny_model_dir), "--output", str(tmp_path / "run")]) == 2
    assert "--data: expected a file, a folder or a name, found none" in capsys.readouterr().err


def test_answers_that_are_all_empty_are_refused(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rows.csv"
    write_csv(path, [row | {"answer": ""} for row in ROWS])
    assert train(tiny_model_dir, path, tmp_path / "run") == 2
    assert "expected a row with an answer, found" in capsys.readouterr().err
    assert left_in(tmp_path) == ["rows.csv"]


def test_a_disk_that_will_be_full_is_refused_before_the_first_step(
    tiny_model_dir: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of two checkpoints with Adam's moments, the best epoch and the output."""
    n_bytes = sum(tensor.nbytes for tensor in weights(tiny_model_dir).values())
    usage = type("Usage", (), {"free": 8 * n_bytes - 1})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    assert train(tiny_model_dir, data, tmp_path / "run", max_steps=1) == 2
    assert "expected room for" in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.iterdir())
    usage.free += 1
    assert train(tiny_model_dir, data, tmp_path / "run", max_steps=1) == 0
