"""``fnsft prepare``: rows of a data set become train, validation and test samples."""

import argparse
import dataclasses
import sys
from pathlib import Path

from fnsft.artifacts.manifest import recorded_stage
from fnsft.artifacts.storage import write_jsonl, written_whole
from fnsft.config.stages import PrepareSettings
from fnsft.data.formats import Example, read_examples, without_annotations
from fnsft.data.splits import shared_prompts, split

SETTINGS = PrepareSettings


def add_paths(parser: argparse.ArgumentParser) -> None:
    """Add the files that the stage reads and writes."""
    parser.add_argument("--train", type=Path, required=True, help="rows, .jsonl or .json")
    parser.add_argument("--test", type=Path, help="test rows; held out of --train when absent")
    parser.add_argument("--output", type=Path, required=True, help="folder for the three splits")


def run(arguments: argparse.Namespace, settings: PrepareSettings) -> None:
    """Read, render, split, write."""
    files = {"train": arguments.train, "test": arguments.test}
    inputs = {name: path for name, path in files.items() if path is not None}
    with recorded_stage(settings, inputs, arguments.output) as record:
        read = {name: _read(path, settings) for name, path in inputs.items()}
        splits = split(read["train"], read.get("test"), settings)
        with written_whole(arguments.output) as folder:
            folder.mkdir()
            for field in dataclasses.fields(splits):
                examples = getattr(splits, field.name)
                rows = [dataclasses.asdict(example) for example in examples]
                write_jsonl(folder / f"{field.name}.jsonl", rows)
                record.note(**{field.name: len(rows)})
        record.note(train_prompts_also_held_out=shared_prompts(splits))
    print(
        f"{arguments.output}: {len(splits.train)} train, {len(splits.validation)} validation, "
        f"{len(splits.test)} test",
        file=sys.stderr,
    )


def _read(path: Path, settings: PrepareSettings) -> list[Example]:
    examples = read_examples(path, settings.format)
    if settings.calculator_annotations == "strip":
        examples = [without_annotations(example) for example in examples]
    return examples
