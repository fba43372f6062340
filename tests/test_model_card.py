"""The model card: what the files of a run say, in Markdown, and no place of the machine."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from fnsft.artifacts.forward_masks import ForwardMask, write_forward_mask
from fnsft.artifacts.prompt_formats import PromptFormat, write_prompt_format
from fnsft.artifacts.records import Measurement, Record, write_records
from fnsft.artifacts.storage import write_json
from fnsft.artifacts.telemetry import MaskRecord, write_masks, write_neuron_updates
from fnsft.artifacts.training import Run, TrainingRecord, write_training
from fnsft.config.stages import TrainSettings
from fnsft.errors import InputError
from fnsft.reporting.card_masks import neuron_line
from fnsft.reporting.model_card import METHODS, MODES, model_card

RUN = Run("tiny", "math", "collab", 0.5, 0.5, "knn", "gradient", None, 1, 3, 1e-3)
REPO = "ann/tuned"


def trained(folder: Path, run: Run = RUN, **settings: object) -> Path:
    """Write what every run leaves in its folder, and the manifest beside it."""
    folder.mkdir(parents=True)
    points = [{"step": s, "epoch": s / 9, "loss": 1.0, "perplexity": 8.0 - s} for s in (0, 5)]
    rate = None if run.mask_mode else 0.4996
    write_training(folder, TrainingRecord(run, points, [], 2, 5, 3.0, 9, rate, 1.0, 1.0))
    write_json(folder / "config.json", {"_name_or_path": str(folder)})
    manifest = {
        "stage": "train",
        "settings": dataclasses.asdict(TrainSettings(**settings)),
        "inputs": {"data": {"path": str(folder / "data"), "sha256": "0"}},
        "notes": {"train_samples_left_out": 7, "resumed_from": str(folder)},
        "fnsft": "1.2",
        "packages": {"torch": "9.8.7"},
    }
    write_json(folder.with_name(f"{folder.name}.manifest.json"), manifest)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with everything that a run may leave."""
    folder = trained(tmp_path / "here" / "tuned", method="collab", learning_rate=1e-3)
    share = np.array([[0.0, 0.5], [1.0, 0.5]])
    write_neuron_updates(folder, share, 12, "0" * 16)
    masks = [MaskRecord(s, 0, part, 0.5, 1.0, 0.2 * s, 0.8, None, 9)
             for s in (1, 2) for part in ("gate", "down")]  # fmt: skip
    write_masks(folder, masks)
    write_prompt_format(folder, PromptFormat("alpaca", "instruction", "Be brief", "{{ x }}"))
    left_out = {"empty answer": {"rows": 2, "first_row": 31}}
    split = {"rows_of": str(tmp_path), "rows": 1234, "left_out": left_out}
    notes = {"train_samples": 1232, "file": str(tmp_path), "splits": {"train": split}}
    data = {"path": str(tmp_path / "mine.csv"), "sha256": "0123456789abcdef" * 4}
    write_json(folder / "data.manifest.json", {"notes": notes, "inputs": {"data": data}})
    return folder


def header(card: str) -> dict[str, object]:
    return yaml.safe_load(card.split("---\n")[1])


def test_a_card_says_what_the_files_of_the_run_say(folder: Path) -> None:
    card = model_card(folder, REPO, base="org/base")
    for fact in (
        "# tuned\n",
        "A fine-tuned copy of `org/base`, trained on `math`",
        "the 50% of the entries of every MLP matrix",
        "affinity knn",
        "The mask holds back the gradient of the rest.",
        "- template: `alpaca`, with a system message",
        "- data: `mine.csv`, sha256 0123456789abcdef\n",
        "- train samples: 1,232",
        "- train, rows: 1,234",
        "- train, left out, empty answer, rows: 2",
        "- train samples left out: 7",
        "49.96% passed",
        "Of 4 neurons (2 layers of 2) 75.00% could change in at least one of 12 recorded steps",
        "50.00% of them, on average",
        "| gate | 0.500 | 0.300 | 0.800 |",
        "| learning rate | 0.001 |",
        "| optimizer steps | 9 |",
        "| validation | perplexity, before | 8 |  |",
        "| validation | perplexity | 3 |  |",
        'AutoModelForCausalLM.from_pretrained("ann/tuned")',
        "fnsft generate ann/tuned --prompt TEXT",
        "fnsft 1.2, torch 9.8.7",
        "Its answers were not scored",
    ):
        assert fact in card, fact
    assert header(card) == {
        "base_model": "org/base",
        "base_model_relation": "finetune",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["fnsft", "collab"],
    }


def test_a_data_set_of_the_hub_is_named_and_a_local_folder_that_is_named_like_one_is_not(
    folder: Path,
) -> None:
    notes, name = {"source": "org/questions"}, "data set: `org/questions`"
    write_json(folder / "data.manifest.json", {"notes": notes, "inputs": {"model": {"path": "m"}}})
    card = model_card(folder, REPO)
    assert header(card)["datasets"] == ["org/questions"]
    assert name in card.split("## Data")[1]
    data = {"path": "org/questions", "sha256": "0" * 64}
    write_json(folder / "data.manifest.json", {"notes": notes, "inputs": {"data": data}})
    card = model_card(folder, REPO)
    assert "datasets" not in header(card) and name not in card


def test_a_model_that_another_stage_made_does_not_pass_its_settings_off_as_the_trainings(
    folder: Path,
) -> None:
    merge = {"stage": "merge", "settings": {"dtype": "float16"}, "fnsft": "1.2"}
    write_json(folder.with_name("tuned.manifest.json"), merge)
    assert "float16" not in model_card(folder, REPO)


def test_no_place_on_the_machine_is_in_a_card(folder: Path, tmp_path: Path) -> None:
    run = dataclasses.replace(RUN, model=f"{tmp_path}/base", task=f"{tmp_path}/rows.csv")
    shutil.rmtree(folder.parent / "other", ignore_errors=True)
    other = trained(folder.parent / "other", run, method="collab")
    write_json(other / "adapter_config.json", {"base_model_name_or_path": str(tmp_path / "base")})
    for card in (model_card(folder, REPO), model_card(other, REPO)):
        assert str(tmp_path) not in card
        assert not [word for word in card.split() if word.strip("`(\"'").startswith(("/", "~"))]
    assert "a local model named `base`, trained on `rows.csv`" in model_card(other, REPO)
    assert "base_model" not in header(model_card(other, REPO))


def test_a_folder_that_is_named_like_a_hub_model_is_no_base(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_json(folder / "adapter_config.json", {"base_model_name_or_path": "models/base"})
    assert header(model_card(folder, REPO))["base_model"] == "models/base"
    (tmp_path / "models" / "base").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert "base_model" not in header(model_card(folder, REPO))


def test_a_card_is_the_same_each_time_and_wherever_the_folder_lies(
    folder: Path, tmp_path: Path
) -> None:
    card = model_card(folder, REPO)
    moved = Path(shutil.move(folder.parent, tmp_path / "there")) / folder.name
    assert model_card(moved, REPO) == card


@pytest.mark.parametrize(
    "absent",
    ["training.json", "masks.jsonl", "neuron_updates.safetensors", "data.manifest.json",
     "prompt_format.json", "../tuned.manifest.json"],
)  # fmt: skip
def test_any_file_may_be_absent(folder: Path, absent: str) -> None:
    whole = model_card(folder, REPO)
    (folder / absent).unlink()
    card = model_card(folder, REPO)
    assert set(header(card)["tags"]) <= {"fnsft", "collab"}  # type: ignore[call-overload]
    assert "## Use" in card and card != whole
    assert "None" not in card


def test_every_section_has_something_in_it(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    for model in (folder, trained(tmp_path / "sft", Run("m", "t", "sft")), tmp_path / "bare"):
        for section in model_card(model, REPO).split("\n## ")[1:]:
            assert len(section.strip().splitlines()) > 1, section


def test_tables_have_as_many_cells_in_each_row_as_in_the_head(folder: Path) -> None:
    lines = model_card(folder, REPO).splitlines()
    counts: list[list[int]] = [[]]
    for line in lines:
        if line.startswith("|"):
            counts[-1].append(line.count("|"))
        elif counts[-1]:
            counts.append([])
    tables = [table for table in counts if table]
    assert len(tables) == 3
    assert all(len(set(table)) == 1 and len(table) > 2 for table in tables)


def test_metrics_of_this_run_are_found_in_the_folder_and_beside_it(folder: Path) -> None:
    accuracy = Measurement("gsm8k", "accuracy", 0.25, 0.021, 400)
    by_steps = dataclasses.replace(accuracy, subset="steps=1", value=0.99)
    write_records(folder / "own.jsonl", [Record.of(RUN, accuracy), Record.of(RUN, by_steps)])
    exact = Measurement("exact", "accuracy", 0.5, None, 1)
    of_another = Record.of(dataclasses.replace(RUN, seed=4), exact)
    moved = Record.of(RUN, Measurement("drift", "kl_forward", 0.5, None, 943_232))
    joined = [Record.of(RUN, accuracy), Record.of(RUN, Measurement("continual", "x", 1, None, 2))]
    write_records(folder.parent / "m.jsonl", [of_another, Record.of(RUN, exact, "off"), moved])
    write_records(folder.parent / "transfer.jsonl", joined)
    (folder.parent / "notes.jsonl").write_text("no JSON\n")
    results = model_card(folder, REPO).split("## Results")[1].split("##")[0]
    rows = [line for line in results.splitlines() if line.startswith("|")][4:]
    assert rows == [
        "| gsm8k | accuracy | 0.25 ± 0.021 | 400 |",
        "| exact | accuracy (mask off) | 0.5 | 1 |",
        "| drift | kl_forward | 0.5 |  |",
    ]
    assert "one standard error" in results


def test_an_adapter_of_a_packed_base_with_a_mask_says_how_to_load_it(tmp_path: Path) -> None:
    run = Run("tiny", "org/data", "lora", None, None, None, None, "lesion", 1, 0, 2e-4)
    folder = trained(tmp_path / "qlora", run, method="lora", mask_mode="lesion", quantise="nf4")
    (folder / "config.json").unlink()
    write_json(folder / "adapter_config.json", {"base_model_name_or_path": "org/base-1B"})
    write_json(folder / "quantised_base.json", {"load_in_4bit": True})
    mask = ForwardMask("intermediate", (np.ones(2, dtype=np.float32),), "lesion", False)
    write_forward_mask(folder, mask)
    card = model_card(folder, REPO)
    assert header(card) == {
        "base_model": "org/base-1B",
        "base_model_relation": "adapter",
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["fnsft", "lora", "lesion"],
    }
    for fact in (
        "An adapter for `org/base-1B`, trained on `org/data`",
        "The neurons of functional networks 0: silent in every forward pass",
        "AutoPeftModelForCausalLM.from_pretrained",
        "BitsAndBytesConfig(load_in_4bit=True)",
        "`fnsft merge`",
        "| lora rank | 16 |",
        "| quantise | nf4 |",
    ):
        assert fact in card, fact
    assert "What could change" not in card


def test_every_method_and_mode_has_words() -> None:
    from typing import get_args

    from fnsft.config.stages.training import OLDER_WORDS, MaskMode, Method

    def flat(annotation: object) -> set[str]:
        parts = get_args(annotation)
        return set().union(*map(flat, parts)) if parts else {str(annotation)}

    assert flat(Method) == set(METHODS)
    assert flat(MaskMode) - set(OLDER_WORDS) == set(MODES)


def test_neurons_are_counted_from_their_shares() -> None:
    share = np.array([[0.0, 0.0, 0.25], [1.0, 0.5, 0.0]])
    assert neuron_line(share, 3).startswith("Of 6 neurons (2 layers of 3) 50.00% could change")
    assert "29.17% of them" in neuron_line(share, 3)


def test_a_damaged_or_absent_folder_is_told(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        model_card(tmp_path / "none", REPO)
    (folder / "data.manifest.json").write_text(json.dumps([1]))
    with pytest.raises(InputError, match="data.manifest.json: expected an object"):
        model_card(folder, REPO)
