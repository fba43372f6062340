"""``fnsft score``: a model's answers, scored on the CPU, as metric records and item scores."""

import argparse
import sys
from pathlib import Path

from fnsft.config.stages import ScoreSettings
from fnsft.errors import InputError

SETTINGS = ScoreSettings


def add_paths(parser: argparse.ArgumentParser) -> None:
    """Add the folder of answers, files that have moved, and the output."""
    parser.add_argument("answers", type=Path, help="folder that fnsft answer wrote")
    parser.add_argument(
        "--data",
        nargs="+",
        default=[],
        metavar="NAME=FILE",
        help="where a code benchmark's file is, when it is not where it was answered from",
    )
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        help="records, .jsonl; item scores go beside it, to <stem>.items.jsonl",
    )


def run(arguments: argparse.Namespace, settings: ScoreSettings) -> None:
    """Score every benchmark of the folder, write records and items."""
    moved = moved_files(arguments.data)

    from fnsft.artifacts.answers import read_answers
    from fnsft.artifacts.items import items_path, write_items
    from fnsft.artifacts.manifest import recorded_stage
    from fnsft.artifacts.records import write_records
    from fnsft.artifacts.storage import require_suffix
    from fnsft.evaluation.scoring import records_of, scored, with_data

    folder, output = arguments.answers, arguments.output
    require_suffix(output, ".jsonl")
    inputs = {"answers": folder} | {f"{name} data": file for name, file in moved.items()}
    with recorded_stage(settings, inputs, output) as record:
        answers = read_answers(folder)
        benchmarks = with_data(answers, moved)
        records, items, notes = [], [], {}
        for name, scores in scored(folder, answers, benchmarks, settings):
            records += records_of(answers, name, scores)
            items += scores.items
            notes[name] = scores.counts | scores.notes
            whole = [m for m in scores.measurements if m.subset is None]
            listing = ", ".join(f"{m.metric} {m.value:.4g}" for m in whole)
            print(f"{name}: {listing}; {whole[0].n} items", file=sys.stderr)
        record.note(benchmarks=notes)
        write_records(output, records)
        write_items(items_path(output), items)
    print(
        f"{output}: {answers.run.model} {answers.run.method}: {len(records)} records",
        file=sys.stderr,
    )


def moved_files(words: list[str]) -> dict[str, Path]:
    """Read ``NAME=FILE`` words."""
    files = {}
    for word in words:
        name, equals, file = word.partition("=")
        if not (name and equals and file) or name in files:
            raise InputError(f"data: expected NAME=FILE, each name once, found {word!r}")
        files[name] = Path(file)
    return files
