"""Settings: one declaration, and the flags, checks and schema that follow from it."""

import argparse
import shlex

import pytest

from fnsft.cli.flags import add_settings, read_settings
from fnsft.cli.main import STAGES
from fnsft.config import stages
from fnsft.config.settings import Settings, fields_of
from fnsft.config.stages import PrepareSettings, ProjectSettings, TableSettings, TrainSettings
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
    settings = cls()
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


def test_swapped_numbers_give_another_string_of_flags() -> None:
    one = ProjectSettings(alpha=2.5, beta=1.3).flags()
    other = ProjectSettings(alpha=1.3, beta=2.5).flags()
    assert sorted(one.split()) == sorted(other.split())
    assert one != other


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_stage_has_a_command_and_every_field_a_sentence(cls: type[Settings]) -> None:
    assert cls.stage in STAGES
    for name, field in fields_of(cls).items():
        assert field.metadata["help"], f"{cls.__name__}.{name} has no help"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "sfft"}, "method: expected one of sft, lora"),
        ({"method": "random"}, "needs a fraction in (0, 1], found None"),
        ({"method": "sft", "fraction": 0.5}, "takes no fraction"),
        ({"method": "random", "fraction": 0.0}, "above 0, at most 1, found 0.0"),
        ({"method": "random", "fraction": 1.5}, "above 0, at most 1, found 1.5"),
        ({"method": "collab", "fraction": 0.5}, "affinity: needed by method 'collab' alone"),
        ({"learning_rate": "fast"}, "learning_rate: expected a number, found 'fast'"),
        ({"epochs": 1.5}, "epochs: expected a whole number, found 1.5"),
        ({"batch_size": 10, "micro_batch_size": 4}, "multiple of micro_batch_size=4, found 10"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected(arguments: dict, message: str) -> None:
    with pytest.raises(InputError) as caught:
        TrainSettings(**arguments)
    assert message in str(caught.value)


def test_a_number_that_yaml_read_as_a_text_is_cast() -> None:
    assert TrainSettings(learning_rate="1e-4").learning_rate == 1e-4  # type: ignore[arg-type]
