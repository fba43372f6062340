"""Settings: one declaration, and the flags, checks and schema that follow from it."""

import argparse
import dataclasses
import shlex

import pytest

from fnsft.cli.flags import add_settings, read_settings
from fnsft.cli.main import STAGES
from fnsft.config import stages
from fnsft.config.layer_ranges import parse_layers
from fnsft.config.settings import FieldType, Settings, fields_of
from fnsft.config.stages import (
    DataSettings,
    PrepareSettings,
    ProjectSettings,
    TableSettings,
    TrainSettings,
)
from fnsft.errors import InputError

CLASSES = [
    cls
    for cls in vars(stages).values()
    if isinstance(cls, type) and issubclass(cls, Settings) and cls is not Settings
]


def parsed(cls: type[Settings], flags: str) -> Settings:
    parser = argparse.ArgumentParser()
    add_settings(parser, cls)
    return read_settings(parser.parse_args(shlex.split(flags)), cls)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_flags_of_the_defaults_parse_back_to_the_defaults(cls: type[Settings]) -> None:
    settings = cls(kind="gsm8k", file="test.jsonl") if cls is stages.Benchmark else cls()
    assert parsed(cls, settings.flags()) == settings


@pytest.mark.parametrize(
    "settings",
    [
        TrainSettings(method="collab", fraction=0.7, affinity="dense", learning_rate=1e-5),
        TableSettings(models=("a model's name", "b"), title='100 % of "it" $x$'),
        PrepareSettings(n_test=5, calculator_annotations="strip"),
        ProjectSettings(dense=True, alpha=0.0),
    ],
)
def test_flags_round_trip(settings: Settings) -> None:
    assert parsed(type(settings), settings.flags()) == settings


def test_nothing_in_place_of_a_default_is_not_the_default() -> None:
    found = []
    for cls in CLASSES:
        for name, field in fields_of(cls).items():
            kind = FieldType.of(field.type)
            empty = () if kind.many else None
            if field.default in ((), None, dataclasses.MISSING) or not (kind.many or kind.optional):
                continue
            needed = {"kind": "gsm8k", "file": "test.jsonl"} if cls is stages.Benchmark else {}
            try:
                settings = cls(**needed, **{name: empty})
            except InputError:
                continue  # it must have one
            assert getattr(parsed(cls, settings.flags()), name) == empty, f"{cls.__name__}.{name}"
            found.append(name)
    assert {"cloze_limit", "limit", "curve", "unmask_shares"} <= {*found}


def test_swapped_numbers_give_another_string_of_flags() -> None:
    one = ProjectSettings(alpha=2.5, beta=1.3).flags()
    other = ProjectSettings(alpha=1.3, beta=2.5).flags()
    assert sorted(one.split()) == sorted(other.split())
    assert one != other


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_stage_has_a_command_and_every_field_a_sentence(cls: type[Settings]) -> None:
    # Settings of raw data are flags of train beside its own.
    assert cls.stage in STAGES or cls in (DataSettings, stages.Benchmark)
    for name, field in fields_of(cls).items():
        assert field.metadata["help"], f"{cls.__name__}.{name} has no help"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "sfft"}, "method: expected one of sft, lora"),
        ({"method": "sft", "fraction": 0.5}, "takes no fraction"),
        ({"method": "random", "fraction": 0.0}, "above 0, at most 1, found 0.0"),
        ({"method": "random", "fraction": 1.5}, "above 0, at most 1, found 1.5"),
        ({"affinity": "knn"}, "affinity: needed by method 'collab' alone"),
        ({"lora_targets": "mlp"}, "lora_targets: is about adapters that all train"),
        ({"dtype": "bfloat16", "method": "lora", "quantise": "nf4"}, "dtype: a packed base keeps"),
        (
            {"mask_mode": "train-only", "unfreeze": ["1"], "max_steps": 3},
            "unfreeze: counts whole epochs; leave max_steps off",
        ),
        ({"learning_rate": "fast"}, "learning_rate: expected a number, found 'fast'"),
        ({"epochs": 1.5}, "epochs: expected a whole number, found 1.5"),
        (
            {"batch_size": 10, "micro_batch_size": 4},
            "multiple of 4 (micro_batch_size 4, 1 process), found 10",
        ),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected(arguments: dict, message: str) -> None:
    with pytest.raises(InputError) as caught:
        TrainSettings(**arguments)
    assert message in str(caught.value)


def test_what_depends_on_the_method_is_resolved() -> None:
    chosen = {
        method: (settings.fraction, settings.affinity, settings.learning_rate)
        for method in ("sft", "lora", "random", "collab")
        for settings in [TrainSettings(method=method)]
    }
    assert chosen == {
        "sft": (None, None, 1e-5),
        "lora": (None, None, 2e-4),
        "random": (0.5, None, 1e-5),
        "collab": (0.5, "knn", 1e-5),
    }
    given = TrainSettings(method="collab", fraction=0.7, affinity="dense", learning_rate=1)
    assert (given.fraction, given.affinity, given.learning_rate) == (0.7, "dense", 1)


def test_a_number_that_yaml_read_as_a_text_is_cast() -> None:
    assert TrainSettings(learning_rate="1e-4").learning_rate == 1e-4  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ("0:4,7", (0, 1, 2, 3, 7)),
        ("", tuple(range(9))),
        ("7:", (7, 8)),
        (":2", (0, 1)),
        (" 3, 1 ", (1, 3)),
        ("2:4,3", (2, 3)),
    ],
)
def test_layers_are_named_as_slices_are(text: str, layers: tuple[int, ...]) -> None:
    assert parse_layers(text, n_layers=9) == layers


@pytest.mark.parametrize("text", [",", "x", "1::2", "3:1", "3:3", "-1", "1,,2", "9", "4:10"])
def test_layers_that_there_are_not_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="expected layers (such as 0:4,7|0 to 8)"):
        parse_layers(text, n_layers=9)


def train_settings(**given: object) -> TrainSettings:
    return TrainSettings.from_mapping(given, "methods.x")


def test_what_depends_on_the_mask_mode_is_resolved() -> None:
    chosen = [
        (settings.mask_mode, settings.applies_to, settings.unmasked, settings.masked)
        for settings in (
            train_settings(),
            train_settings(mask_mode="key"),
            train_settings(mask_mode="complement"),
            train_settings(mask_mode="train-only"),
            train_settings(mask_mode="freeze", method="lora"),
            train_settings(method="hft", fraction=0.5),
        )
    ]
    assert chosen == [
        (None, "gradient", "train", False),
        ("lesion", "gradient", "train", False),
        ("preserve", "gradient", "train", False),
        ("train-only", "update", "freeze", True),
        ("freeze", "update", "train", True),
        (None, "update", "train", True),
    ]


def test_resolved_settings_are_flags_that_parse_back_to_them() -> None:
    settings = train_settings(mask_mode="key", component_ids=[2, 0], unmasked="freeze")
    assert parsed(TrainSettings, settings.flags()) == settings


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"straight_through": True}, "straight_through: is about networks; give mask_mode too"),
        ({"mask_layers": "0:2"}, "mask_layers: is about networks"),
        ({"mask_mode": "freeze", "straight_through": True}, "use mask_mode lesion or preserve"),
        ({"mask_mode": "lesion", "unfreeze": ["1"]}, "use mask_mode train-only"),
        ({"mask_mode": "lesion", "component_ids": []}, "expected networks, each once"),
        ({"mask_mode": "lesion", "component_ids": [1, 1]}, "expected networks, each once"),
        ({"mask_mode": "freeze", "applies_to": "gradient"}, "which only 'update' does"),
        (
            {"mask_mode": "freeze", "method": "highest", "fraction": 0.5},
            "method 'highest' has its own; use method sft or lora",
        ),
        ({"mask_mode": "train-only", "unfreeze": ["1,x"]}, "such as 1,2, found '1,x'"),
        ({"mask_mode": "train-only", "unfreeze": ["1", "1"]}, "do not train yet"),
        ({"mask_mode": "train-only", "unfreeze": ["0"]}, "do not train yet"),
        ({"mask_mode": "train-only", "unfreeze": ["1", "2", "3"]}, "at most 2 lists for 3 epochs"),
        ({"quantise": "nf4"}, "packed weights cannot be trained"),
    ],
)
def test_network_settings_that_make_no_sense_are_refused(given: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        train_settings(**given)


def test_networks_join_by_epoch() -> None:
    settings = train_settings(mask_mode="train-only", unfreeze=["3", "1,2"])
    assert settings.unfreezing() == [(3,), (1, 2)]
