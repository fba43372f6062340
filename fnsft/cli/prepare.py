"""``fnsft prepare``: rows of a data set become train, validation and test samples."""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fnsft.config.stages import PrepareSettings

if TYPE_CHECKING:
    from fnsft.config.presets import TaskPreset
    from fnsft.data.formats import ReadExamples

SETTINGS = PrepareSettings
ROWS = "a file (.json .jsonl .csv .tsv .parquet .txt) or a folder of such files"


def add_paths(parser: argparse.ArgumentParser) -> None:
    """Add the files that the stage reads and writes."""
    parser.add_argument("--train", type=Path, required=True, help=f"rows: {ROWS}")
    parser.add_argument("--test", type=Path, help="test rows; held out of --train when absent")
    parser.add_argument("--output", type=Path, required=True, help="folder for the three splits")


def run(arguments: argparse.Namespace, settings: PrepareSettings) -> None:
    """Read, render, split, write."""
    from fnsft.artifacts.manifest import recorded_stage
    from fnsft.artifacts.prompt_formats import PromptFormat, write_prompt_format
    from fnsft.artifacts.storage import write_jsonl, written_whole
    from fnsft.config.presets import TaskPreset
    from fnsft.data.preparation import as_written
    from fnsft.data.splits import shared_prompts, split

    preset = TaskPreset.read(settings.format)
    files = {"train": arguments.train, "test": arguments.test}
    inputs = {name: path for name, path in files.items() if path is not None}
    own = {"preset": Path(preset.name)} if Path(preset.name).is_file() else {}
    with recorded_stage(settings, inputs | own, arguments.output) as record:
        read = {name: _read(name, path, preset, settings) for name, path in inputs.items()}
        test = read["test"].examples if "test" in read else None
        splits = split(read["train"].examples, test, settings)
        with written_whole(arguments.output) as folder:
            folder.mkdir()
            for field in dataclasses.fields(splits):
                rows = [example.row() for example in getattr(splits, field.name)]
                write_jsonl(folder / f"{field.name}.jsonl", rows)
                record.note(**{field.name: len(rows)})
            format = PromptFormat("basic", preset.preset.kind)
            write_prompt_format(folder, as_written(format, splits.train))
        said = [line for found in read.values() for line in found.said]
        record.note(train_prompts_also_held_out=shared_prompts(splits), rows=said)
    for line in said:
        print(line, file=sys.stderr)
    print(
        f"{arguments.output}: {len(splits.train)} train, {len(splits.validation)} validation, "
        f"{len(splits.test)} test",
        file=sys.stderr,
    )


def _read(name: str, path: Path, preset: "TaskPreset", settings: PrepareSettings) -> "ReadExamples":
    from fnsft.data.formats import ReadExamples, read_examples, without_annotations

    read = read_examples(path, preset, name)
    if settings.calculator_annotations == "keep":
        return read
    return ReadExamples([without_annotations(example) for example in read.examples], read.said)
