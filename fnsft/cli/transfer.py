"""``fnsft transfer``: what one run's stages learned and forgot, from the records of all of them."""

import argparse
import sys
from pathlib import Path

from fnsft.config.stages import TransferSettings

SETTINGS = TransferSettings


def add_paths(parser: argparse.ArgumentParser) -> None:
    """Add the records that are joined and the output."""
    parser.add_argument(
        "--base", type=Path, nargs="+", required=True, help="records of the base model, .jsonl"
    )
    parser.add_argument(
        "--stages",
        type=Path,
        nargs="+",
        required=True,
        help="records after stage 1, after stage 2, …; the last name the run",
    )
    parser.add_argument("--drift", type=Path, nargs="*", default=[], help="records of fnsft drift")
    parser.add_argument("--output", type=Path, required=True, help="records of the run, .jsonl")


def run(arguments: argparse.Namespace, settings: TransferSettings) -> None:
    """Read the records, join them, write them with the run's measures."""
    from fnsft.artifacts.manifest import recorded_stage
    from fnsft.artifacts.records import read_records, write_records
    from fnsft.artifacts.storage import require_suffix
    from fnsft.reporting.transfer import BENCHMARK, transfer

    require_suffix(arguments.output, ".jsonl")

    inputs = {str(p): p for p in (*arguments.base, *arguments.stages, *arguments.drift)}
    with recorded_stage(settings, inputs, arguments.output) as record:
        found = transfer(
            read_records(arguments.base),
            [read_records([path]) for path in arguments.stages],
            read_records(arguments.drift),
        )
        write_records(arguments.output, found.records)
        own = [r for r in found.records if r.benchmark == BENCHMARK and r.subset is None]
        measures = {record.metric: record.value for record in own}
        record.note(
            tasks=list(found.tasks),
            records=len(found.records),
            left_out=found.left_out,
            base_protocol_differs=found.other_base_protocols,
            **measures,
        )
    words = [f"{name.replace('_', ' ')} {value:.3f}" for name, value in measures.items()]
    lacking = [f"left out: {reason}" for reason in found.left_out]
    print(
        f"{arguments.output}: {' > '.join(found.tasks)}; {'; '.join([*words, *lacking])}",
        file=sys.stderr,
    )
